"""How shards accept: many at once, and up to a limit."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.shards.servers import ECHO, ROOM, STARVED, Serve, ask, eventually


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
            late.settimeout(60)
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


READS = {
    "a line": "await reader.readline()",
    "a head": "await reader.readuntil(b'\\r\\n\\r\\n')",
    "a body": "await reader.readexactly(100)",
    "anything": "while await reader.read(1) != b'.': pass",
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_slow_client_is_left(serve: Serve, read: str) -> None:
    source = f"""
async def main(shard):
    async def handle(reader, writer):
        {read}
        writer.write(b"done\\n")

    await shard.start_server(handle, read_timeout=0.5)
    await shard.wait_stopped()
"""
    server = serve(source, "--shards", "1")
    server.wait_serving()

    def is_done() -> bool:
        """On a busy machine this client may itself be slow."""
        with server.connect() as quick:
            quick.sendall(b"x" * 96 + b"\r\n\r\n.")
            return quick.recv(100) == b"done\n"

    with server.connect() as slow:
        eventually(is_done, "a quick one is answered")
        if "read(1)" not in read:
            slow.sendall(b"x")  # and no more
        assert slow.recv(100) == b""
    assert server.stop() == 0
    assert "ERROR" not in server.log


def test_a_handler_may_answer_a_slow_client(serve: Serve) -> None:
    source = """
async def main(shard):
    async def handle(reader, writer):
        try:
            await reader.readline()
        except TimeoutError:
            writer.write(b"408")

    await shard.start_server(handle, read_timeout=0.1)
    await shard.wait_stopped()
"""
    server = serve(source, "--shards", "1")
    with server.connect() as slow:
        assert slow.recv(100) == b"408"


STANDSTILL = """
import os, time

async def main(shard):
    turns = []

    async def handle(reader, writer):
        turns.append(shard.executor.turns)
        await reader.readline()
        writer.write(b"%d" % (turns[-1] - turns[0]))

    async def stand_still():
        while not os.path.exists("go"):
            time.sleep(0.01)

    async def keep_busy():
        while True:
            await yield_maybe()

    await shard.start_server(handle, queue="foreground")
    shard.ready()
    await shard.queue("background").spawn(stand_still())
    shard.queue("background").spawn(keep_busy())
    await shard.wait_stopped()
"""


def test_a_busy_shard_accepts_many_a_turn(serve: Serve, tmp_path: Path) -> None:
    queues = ("--queue", "foreground:8", "--queue", "background:1")
    source = "from clockworker import yield_maybe\n" + STANDSTILL
    server = serve(source, "--shards", "1", *queues)
    server.wait_serving()
    with ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(64)]
        for client in clients:
            client.sendall(b"how many turns ago?\n")
        (tmp_path / "go").touch()
        turns = [int(client.recv(100)) for client in clients]
    assert max(turns) < 32
    assert server.stop() == 0


@pytest.mark.parametrize("kind", ["kernel", "limited"])
def test_the_backlog_is_what_was_asked_for(serve: Serve, kind: str) -> None:
    """The loop's servers listen once more, with a backlog of their own unless they are told."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        options = ("--backlog", "77", *(["--max-connections", "5"] if kind == "limited" else []))
        server = serve(
            ECHO, "--shards", "1", *options, bind=("--fd", str(listening.fileno())), fds=[listening.fileno()]
        )
        server.wait_serving()
        # Of a socket that listens, tcpi_sacked is the backlog.
        assert struct.unpack_from("I", listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28) == (77,)


def test_without_descriptors_connections_wait_and_that_is_said(serve: Serve) -> None:
    server = serve(STARVED, "--shards", "1")
    server.wait_serving()
    with ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(2 * ROOM)]
        server.wait_log(r"ERROR .*no connection can be accepted: Too many open files \(\d+ descriptors .*\), they wait")
        for number, client in enumerate(clients):
            assert ask(client, b"%d" % number) == b"0 %d" % number
            client.close()
