"""A limit on open connections where the shards themselves accept."""

from __future__ import annotations

import pytest

from tests.shards.servers import ECHO, Serve, ask


@pytest.mark.parametrize("by", ["option", "argument"])
def test_at_the_limit_connections_wait_until_one_is_closed(serve: Serve, by: str) -> None:
    source = ECHO if by == "option" else ECHO.replace("start_server(handle)", "start_server(handle, max_connections=2)")
    server = serve(source, "--shards", "1", *(("--max-connections", "2") if by == "option" else ()))
    server.wait_serving()
    with server.connect() as one, server.connect() as two:
        assert ask(one, b"hello") == ask(two, b"hello") == b"0 hello"
        with server.connect() as late:
            late.sendall(b"late\n")
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.recv(100)
            one.close()
            late.settimeout(20)
            assert late.recv(100) == b"0 late\n"


def test_what_waited_at_the_limit_is_served_before_the_stop(serve: Serve) -> None:
    server = serve(ECHO, "--shards", "1", "--max-connections", "1")
    server.wait_serving()
    with server.connect() as one, server.connect() as late:
        assert ask(one, b"hello") == b"0 hello"
        late.sendall(b"late\n")
        assert server.stop() == 0
        assert one.recv(100) == b""
        assert late.recv(100) == b"0 late\n"


def test_a_limit_of_0_is_an_error(serve: Serve) -> None:
    server = serve(ECHO.replace("start_server(handle)", "start_server(handle, max_connections=0)"), "--shards", "1")
    assert server.wait_exit() == 3
    assert "max_connections is 0; give a whole number from 1" in server.log
