"""Protocols of whatever make: refused if they are none, counted, and stopped without knowing their insides."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.shards.servers import Serve, Server, ask

KINDS = {
    "with slots": """
class Made(asyncio.BaseProtocol):
    __slots__ = ("transport",)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(answer(data))

    def eof_received(self): pass
    def pause_writing(self): pass
    def resume_writing(self): pass
    def connection_lost(self, error): pass
""",
    "no asyncio.Protocol": """
class Made:
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(answer(data))

    def connection_lost(self, error): pass
""",
    "buffered": """
class Made(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, bytearray(1000)

    def get_buffer(self, size):
        return self.buffer

    def buffer_updated(self, count):
        self.transport.write(answer(bytes(self.buffer[:count])))
""",
    "one that gives its transport to another": """
class Other(asyncio.Protocol):
    def __init__(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(answer(data))

class Made(asyncio.Protocol):
    def connection_made(self, transport):
        transport.set_protocol(Other(transport))
""",
    "the same for all": """
class One(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(answer(data))

one = One()

def Made():
    return one
""",
    "one that raises when it is lost": """
class Made(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(answer(data))

    def connection_lost(self, error):
        raise LookupError("as it should")
""",
}

COUNTING = """
import asyncio

def answer(data):
    stats = shard.stats()
    return b"%d of %d\\n" % (stats.connections_open, stats.connections_accepted)

async def main(given):
    global shard
    shard = given
    await shard.create_server(Made)
    await shard.wait_stopped()
"""


def started(serve: Serve, source: str, *options: str, shards: int = 1) -> Server:
    server = serve(source, "--shards", str(shards), *options)
    server.wait_serving()
    return server


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_every_kind_of_protocol_is_counted_and_capped(serve: Serve, made: str) -> None:
    server = started(serve, COUNTING + made, "--max-connections", "1")
    with server.connect() as one:
        assert ask(one, b"?") == b"1 of 1"
        with server.connect() as two:
            two.sendall(b"?\n")
            two.settimeout(0.2)
            with pytest.raises(TimeoutError):
                two.recv(100)
            one.close()
            two.settimeout(60)
            assert two.recv(100) == b"1 of 2\n"


REFUSED = {
    "None": "create_server takes a protocol factory.*aiohttp's `runner.server` is one after `await runner.setup\\(\\)`",
    "asyncio.Protocol()": "create_server takes a protocol factory, such as a protocol's class. It got <asyncio",
    "asyncio.Protocol, stop=7": "create_server's stop is 7; give a function that takes a protocol, or None",
    "asyncio.Protocol, max_connections=0": "max_connections is 0; give a whole number from 1, or None",
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_is_no_factory_is_refused_at_the_start(serve: Serve, given: str) -> None:
    server = serve(f"import asyncio\nasync def main(shard):\n    await shard.create_server({given})\n", "--shards", "1")
    assert server.wait_exit() == 3
    server.wait_log(f"UsageError: {REFUSED[given]}")


def test_start_server_refuses_what_is_no_function(serve: Serve) -> None:
    server = serve("async def main(shard):\n    await shard.start_server(None)\n", "--shards", "1")
    assert server.wait_exit() == 3
    server.wait_log("UsageError: start_server takes `async def handle\\(reader, writer\\)`, a function, and got None")


WRONG = {
    "def made(): pass": "returned None, which is no protocol",
    "async def made(): pass": "returned <coroutine object made .*>, which is no protocol",
    "def made(): raise LookupError('as it should')": "LookupError: as it should",
    "def made(reader, writer): pass": "TypeError: made\\(\\) missing 2 required positional arguments",
}


@pytest.mark.parametrize("made", WRONG)
def test_what_makes_no_protocol_is_said_and_the_client_is_let_go(serve: Serve, made: str) -> None:
    source = f"{made}\nasync def main(shard):\n    await shard.create_server(made)\n    await shard.wait_stopped()\n"
    server = started(serve, source)
    for _ in range(50):
        with server.connect() as client:
            assert client.recv(1) == b""
    server.wait_log(f"ERROR .*a connection could not be opened\n(.*\n)*.*{WRONG[made]}")
    assert server.log.count("could not be opened") == 1
    assert server.stop() == 0
    server.wait_log(r"50 connections \(0 open\)")


def test_a_protocol_that_raises_when_its_connection_is_made_lets_the_client_go(serve: Serve) -> None:
    source = COUNTING + "class Made(asyncio.Protocol):\n    def connection_made(self, transport):\n        1 / 0\n"
    server = started(serve, source, "--max-connections", "1")
    for _ in range(20):
        with server.connect() as client:
            assert client.recv(1) == b""
    assert server.log.count("ZeroDivisionError") == 1
    assert server.stop() == 0
    server.wait_log(r"20 connections \(0 open\)")


# Answers "slow" after a second, else at once. What it is asked to do with `stop` it says when it does it.
SERVER = """
import asyncio, time

class Made(asyncio.Protocol):
    busy = False
    stopped = False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.busy = True
        self.task = asyncio.get_running_loop().create_task(self.answer(data))

    async def answer(self, data):
        if data == b"slow\\n":
            await asyncio.sleep(1)
        elif data == b"two parts\\n":
            self.transport.write(b"one ")
            await asyncio.sleep(1)
        self.transport.write(data)
        self.busy = False
        if self.stopped:
            self.transport.close()

    def stop(self):
        print("asked to stop while", "busy" if self.busy else "idle", flush=True)
        self.stopped = True
        if not self.busy:
            self.transport.close()

async def main(shard):
    await shard.create_server(Made, stop=STOP)
    await shard.wait_stopped()
    print("stopped", flush=True)
"""

sockets = pytest.mark.parametrize("family", ["TCP", "Unix"])


def connected(server: Server, family: str, path: Path) -> socket.socket:
    if family == "TCP":
        return server.connect()
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(str(path))
    return client


@sockets
def test_what_was_asked_is_answered_and_what_is_idle_closed_before_wait_stopped_returns(
    serve: Serve, tmp_path: Path, family: str
) -> None:
    path = tmp_path / "s"
    bind = ("--port", "0", "--bind", f"unix:{path}")
    server = serve(SERVER.replace("STOP", "Made.stop"), "--shards", "1", bind=bind)
    server.wait_serving()
    with connected(server, family, path) as idle, connected(server, family, path) as busy:
        assert ask(idle, b"quick") == b"quick"
        busy.sendall(b"slow\n")
        assert ask(idle, b"quick") == b"quick"  # the other has been read
        server.send(signal.SIGTERM)
        assert idle.recv(1) == b""
        assert busy.recv(100) == b"slow\n"
        assert busy.recv(1) == b""
    assert server.wait_exit() == 0
    assert "asked to stop while idle" in server.log.partition("stopped\n")[0]
    if family == "TCP":
        assert "while busy" not in server.log  # the kernel tells


def test_an_open_request_is_answered_also_if_nothing_is_known_of_the_protocol(serve: Serve) -> None:
    server = started(serve, SERVER.replace("STOP", "None"))
    with server.connect() as first, server.connect() as later, server.connect() as parts:
        assert ask(later, b"quick") == b"quick"
        first.sendall(b"slow\n")
        later.sendall(b"slow\n")
        parts.sendall(b"two parts\n")
        assert parts.recv(4) == b"one "
        server.send(signal.SIGTERM)
        server.wait_log("stopped\n")  # that does not take so long
        assert first.recv(100) == later.recv(100) == b"slow\n"
        assert parts.recv(100) == b"two parts\n"
    assert server.wait_exit() == 0


@pytest.mark.slow
def test_without_stop_a_connection_that_stays_idle_is_closed(serve: Serve) -> None:
    server = started(serve, SERVER.replace("STOP", "None"))
    with server.connect() as client:
        assert ask(client, b"quick") == b"quick"
        server.send(signal.SIGTERM)
        assert client.recv(1) == b""
        assert server.wait_exit() == 0
    assert "killed" not in server.log


def test_a_stop_that_raises_is_an_error_and_no_more(serve: Serve) -> None:
    source = SERVER.replace("STOP", "fail") + "\ndef fail(protocol):\n    raise LookupError('as it should')\n"
    server = started(serve, source, "--timeout-graceful-shutdown", "4")
    with server.connect() as client:
        assert ask(client, b"quick") == b"quick"
        assert server.stop() == 0
    server.wait_log("create_server's stop raised\n(.*\n)*LookupError: as it should")
