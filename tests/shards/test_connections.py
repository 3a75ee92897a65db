"""Connections of both kinds of server: counted until their bytes are out, each with a context of its own, drained, logged."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack

import psutil
import pytest

from tests.shards.servers import Serve, Server, ask, eventually

# A line is answered: "big" by more than a socket takes, "open" by how many connections are open, "set X" and "get" by the
# connection's context variable, "slow" after a while, "fail" by an exception, "close" by the end of the connection.
APP = """
import asyncio, contextvars, os

import clockworker as cw

END = b"this is the end of the answer\\n"
name = contextvars.ContextVar("name", default="nobody")


def answer(shard, transport, line):
    word, _, rest = line.decode().strip().partition(" ")
    if word == "big":
        while not transport.get_write_buffer_size():  # until the kernel's buffers are full, whatever their size
            transport.write(b"x" * 10_000)
        return b"x" * 500_000 + END
    if word == "open":
        stats = shard.stats()
        return b"%d of %d\\n" % (stats.connections_open, stats.connections_accepted)
    if word == "set":
        name.set(rest)
    if word in ("set", "get"):
        return f"{name.get()}\\n".encode()
    if word == "fail":
        raise LookupError("as it should")
    return line


class Protocol(asyncio.Protocol):
    shard = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"slow\\n":
            self.task = asyncio.get_running_loop().create_task(self.answer_slowly())
            return
        self.transport.write(answer(self.shard, self.transport, data))
        if data == b"close\\n" or data == b"big close\\n":
            self.transport.close()

    async def answer_slowly(self):
        await asyncio.sleep(1)
        self.transport.write(b"slow\\n")


async def protocols(shard):
    Protocol.shard = shard
    await shard.create_server(Protocol)
    await shard.wait_stopped()


async def streams(shard):
    async def handle(reader, writer):
        while line := await reader.readline():
            if line == b"slow\\n":
                await asyncio.sleep(1)
            writer.write(answer(shard, writer.transport, line))
            if line == b"close\\n" or line == b"big close\\n":
                return

    await shard.start_server(handle)
    await shard.wait_stopped()
"""

both = pytest.mark.parametrize("kind", ["streams", "protocols"])


def started(serve: Serve, kind: str, *options: str) -> Server:
    server = serve(APP, "--shards", "1", *options, app=f"app:{kind}")
    server.wait_serving()
    return server


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1 << 20), b""))


@both
@pytest.mark.parametrize("how", ["TERM", "HUP"])
@pytest.mark.parametrize("left", ["closed", "idle"])
def test_a_slow_client_gets_its_whole_answer(serve: Serve, kind: str, how: str, left: str) -> None:
    """Whether the server has closed the connection already, or waits for the client's next request."""
    server = started(serve, kind)
    shard = psutil.Process(server.shard_pids()[0])
    with server.connect() as client, server.connect() as other:
        client.sendall(b"big close\n" if left == "closed" else b"big\n")
        client.recv(1, socket.MSG_PEEK)
        assert ask(other, b"open") == b"2 of 2"
        other.close()
        server.send(getattr(signal, f"SIG{how}"))
        with pytest.raises(psutil.TimeoutExpired):
            shard.wait(0.5)
        assert read_all(client).endswith(b"this is the end of the answer\n")
    if how == "HUP":
        server.wait_log("shard 0 ready", times=2)
        server.send(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert "killed" not in server.log


@both
def test_what_is_cut_at_the_end_of_the_grace_is_said(serve: Serve, kind: str) -> None:
    server = started(serve, kind, "--timeout-graceful-shutdown", "3")
    with server.connect() as client:
        client.sendall(b"big close\n")
        client.recv(1, socket.MSG_PEEK)
        assert server.stop() == 0
    server.wait_log(r"1 connections are cut, 1 of them with answers that their clients have not taken \([\d,]+ bytes\)")


@both
def test_a_connection_has_its_place_until_its_bytes_are_out(serve: Serve, kind: str) -> None:
    server = started(serve, kind, "--max-connections", "1")
    with server.connect() as client, server.connect() as late:
        client.sendall(b"big close\n")
        client.recv(1, socket.MSG_PEEK)
        late.sendall(b"open\n")
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.recv(100)
        assert read_all(client).endswith(b"this is the end of the answer\n")
        late.settimeout(60)
        assert late.recv(100) == b"1 of 2\n"


@both
@pytest.mark.parametrize("options", [(), ("--max-connections", "100"), ("--distribution", "least-connections")])
def test_a_connection_has_a_context_of_its_own(serve: Serve, kind: str, options: tuple[str, ...]) -> None:
    server = started(serve, kind, *options)
    with server.connect() as one, server.connect() as two:
        assert ask(one, b"set alice") == b"alice"
        assert ask(two, b"get") == b"nobody"
        assert ask(two, b"set bob") == b"bob"
        assert ask(one, b"get") == b"alice"
    with server.connect() as three:
        assert ask(three, b"get") == b"nobody"


INHERITED = """
import asyncio, contextvars, time

user = contextvars.ContextVar("user", default="nobody")

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.task = asyncio.get_running_loop().create_task(self.answer())

    async def answer(self):
        queue = self.shard.executor.current_queue().key
        self.transport.write(f"{user.get()} {queue}\\n".encode())
        user.set("somebody")

async def main(shard):
    async def busy():
        while not shard.stopping:
            await asyncio.sleep(0)

    Protocol.shard = shard
    user.set("the server's")
    await shard.create_server(Protocol, queue="second")
    user.set("main's")
    shard.queue("first").spawn(busy())
    await shard.wait_stopped()
"""


def test_a_context_is_a_copy_of_the_one_in_which_the_server_was_made(serve: Serve) -> None:
    """In the server's queue; also while the shard is busy and takes several connections at once."""
    server = serve(INHERITED, "--shards", "1", "--queue", "first:1", "--queue", "second:1")
    server.wait_serving()
    with ExitStack() as opened:
        clients = [opened.enter_context(server.connect()) for _ in range(30)]
        for client in clients:
            assert ask(client, b"?") == b"the server's second"


@both
def test_connections_are_counted_and_logged(serve: Serve, kind: str) -> None:
    server = started(serve, kind, "--access-log", "--queue", "only:1")
    with server.connect() as one, server.connect() as two:
        assert ask(one, b"open") == ask(two, b"open") == b"2 of 2"
        port = one.getsockname()[1]
        one.close()
        eventually(lambda: ask(two, b"open") == b"1 of 2", "it is over")
    received = ", 5 bytes received" if kind == "streams" else ""
    server.wait_log(rf"INFO    \[shard 0 only\] 127\.0\.0\.1:{port} closed after \d+\.\d+ s{received}\n")
    assert server.stop() == 0
    server.wait_log(r"stopped after .*: 2 connections \(0 open\)")


def test_an_argument_limits_a_protocols_connections(serve: Serve) -> None:
    source = APP.replace("create_server(Protocol", "create_server(Protocol, max_connections=1")
    server = started_from(serve, source, "protocols")
    with server.connect() as one, server.connect() as two:
        assert ask(one, b"open") == b"1 of 1"
        two.sendall(b"open\n")
        one.close()
        assert two.recv(100) == b"1 of 2\n"


@both
def test_errors_that_clients_cause_are_counted_and_logged_at_a_limited_rate(serve: Serve, kind: str) -> None:
    server = started(serve, kind)
    for _ in range(100):
        with server.connect() as client:
            client.sendall(b"fail\n")
            assert client.recv(100) == b""
    assert server.log.count("LookupError: as it should") == 1
    assert server.stop() == 0


def test_both_kinds_of_error_are_in_the_statistics(serve: Serve) -> None:
    source = APP.replace("stats.connections_open, stats.connections_accepted", "stats.handler_errors, 0")
    for kind in ("streams", "protocols"):
        server = started_from(serve, source, kind)
        for _ in range(3):
            with server.connect() as client:
                client.sendall(b"fail\n")
                assert client.recv(100) == b""
        with server.connect() as client:
            assert ask(client, b"open") == b"3 of 0"


def started_from(serve: Serve, source: str, kind: str) -> Server:
    server = serve(source, "--shards", "1", app=f"app:{kind}")
    server.wait_serving()
    return server


@both
def test_what_comes_in_the_last_moment_is_answered(serve: Serve, kind: str) -> None:
    """Of a client that has connected before the stop, and asks a little after it, as over a network."""
    server = started(serve, kind)
    with server.connect() as asks, server.connect() as other:
        assert ask(other, b"open") == b"2 of 2"  # both are accepted
        other.close()
        server.send(signal.SIGTERM)
        server.wait_log("stopping")
        with pytest.raises(TimeoutError):
            asks.settimeout(0.2)
            asks.recv(1)
        asks.settimeout(60)
        assert ask(asks, b"slow") == b"slow"
    assert server.wait_exit() == 0
    assert "killed" not in server.log


@both
def test_a_client_that_never_asks_holds_nothing_up(serve: Serve, kind: str) -> None:
    server = started(serve, kind, "--timeout-graceful-shutdown", "60")
    with server.connect() as silent, server.connect() as other:
        assert ask(other, b"open") == b"2 of 2"
        other.close()
        server.send(signal.SIGTERM)
        assert silent.recv(1) == b""
        assert server.wait_exit() == 0


def test_a_handler_whose_client_has_gone_is_waited_for_and_its_end_logged(serve: Serve) -> None:
    source = APP.replace(
        "            writer.write(answer(",
        "            print('it is done', flush=True)\n            writer.write(answer(",
    )
    server = serve(source, "--shards", "1", "--access-log", app="app:streams")
    server.wait_serving()
    with server.connect() as client, server.connect() as other:
        client.sendall(b"slow\n")
        assert ask(other, b"open") == b"2 of 2"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset instead of an end
        client.close()
        assert ask(other, b"open") == b"2 of 2"
        other.close()
        assert server.stop() == 0
    assert server.log.count("it is done") == 3
    server.wait_log(r"127\.0\.0\.1:\d+ lost after \d+\.\d+ s, 5 bytes received")
    assert "ERROR" not in server.log
