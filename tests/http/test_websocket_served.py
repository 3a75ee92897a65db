"""WebSockets of a real server, with the client of `websockets`, and with sockets that behave as no client should."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode

from tests.conftest import DEADLINE
from tests.shards.servers import Serve, Server, eventually

APP = """
import asyncio
import json

sent = {"push": 0}
ended = []


async def app(scope, receive, send):
    path = scope["path"]
    if scope["type"] == "http":
        body = json.dumps({"ended": ended, **sent}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    await receive()
    if path == "/deny":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    if path == "/fail":
        raise ValueError("as it was told")
    if path == "/push":
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(65_536)})
                sent["push"] += 1
        except OSError as error:
            ended.append(f"push: {error}")
            return
    if path == "/deaf":
        await asyncio.sleep(3_600)
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            ended.append(f"{path[1:]}: {event['code']}")
            print("ENDED", path, event["code"], flush=True)
            return
        await send({**event, "type": "websocket.send"})
"""

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serve = Serve(tmp_path_factory.mktemp("served"), forked=False)  # its memory is looked at
    server = serve(APP, "--shards", "1", "--spares", "0", "--lifespan", "off", app="app:app")
    server.wait_serving()
    yield server
    serve.clean_up()


def url(server: Server, path: str, scheme: str = "ws") -> str:
    host, port = server.address
    return f"{scheme}://{host}:{port}{path}"


def opened(server: Server, path: str) -> socket.socket:
    """A WebSocket that is open, as a socket."""
    sock = socket.create_connection(server.address, timeout=DEADLINE)
    sock.sendall(HANDSHAKE.format(path=path).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ")
    return sock


def ask(server: Server) -> dict[str, Any]:
    with socket.create_connection(server.address, timeout=DEADLINE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(65_536):
            answer += data
    told: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2].split(b"\r\n")[-1] or b"null")
    return told


def memory(server: Server) -> int:
    return int(psutil.Process(server.shard_pids()[0]).memory_info().rss)


def test_many_clients_at_once(server: Server) -> None:
    async def client(number: int) -> None:
        compression = "deflate" if number % 2 else None
        async with connect(url(server, "/echo"), compression=compression, max_size=None) as websocket:
            for size in (0, 10, 1_000, 100_000, 1_000_000 if number == 1 else 1):
                for message in (f"{number}" * size, os.urandom(size)):
                    await websocket.send(message)
                    assert await websocket.recv() == message
            await websocket.send(["in ", "three ", "parts"])
            assert await websocket.recv() == "in three parts"
            await (await websocket.ping())

    async def body() -> None:
        await asyncio.gather(*(client(number) for number in range(20)))

    asyncio.run(asyncio.wait_for(body(), DEADLINE))


def test_denied_and_failed(server: Server) -> None:
    async def body() -> None:
        with pytest.raises(InvalidStatus, match="403"):
            await connect(url(server, "/deny"))
        async with connect(url(server, "/fail")) as websocket:
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011

    asyncio.run(asyncio.wait_for(body(), DEADLINE))
    server.wait_log("ValueError: as it was told")
    assert server.log.count("Traceback") == 1


def test_a_client_that_does_not_read(server: Server) -> None:
    before = memory(server)
    ended = len(ask(server)["ended"])
    clients = [opened(server, "/push") for _ in range(20)]

    def stands_still() -> bool:
        pushed = ask(server)["push"]
        return pushed > 0 and all(ask(server)["push"] == pushed for _ in range(20))

    eventually(stands_still, "no more is sent")
    assert memory(server) - before < 50_000_000
    for client in clients[:10]:
        client.close()  # with something unread: a reset
    eventually(lambda: len(ask(server)["ended"]) == ended + 10, "the application hears of it")
    for client in clients[10:]:
        while client.recv(1 << 20) != b"" and ask(server)["push"] < 200:
            pass  # it goes on
        client.close()
    eventually(lambda: len(ask(server)["ended"]) == ended + 20, "the application hears of it")
    assert all("comes too late" in each for each in ask(server)["ended"][ended:])


@pytest.mark.parametrize(
    "data",
    [
        Frame(Opcode.BINARY, bytes(100_000)).serialize(mask=True),
        Frame(Opcode.BINARY, b"").serialize(mask=True) * 10_000,
        Frame(Opcode.PING, b"ping").serialize(mask=True) * 10_000,
    ],
    ids=["large", "empty", "pings"],
)
def test_a_client_that_sends_what_nobody_takes(server: Server, data: bytes) -> None:
    """Until its socket takes no more; or, of pings, whose pongs it does not read, as long as it likes."""
    before = memory(server)
    with opened(server, "/deaf") as client:
        client.setblocking(False)
        sent = full = 0
        while sent < 30_000_000 and full < 20:
            try:
                sent += client.send(data)
                full = 0
            except BlockingIOError:
                full += 1
                assert ask(server)  # is answered meanwhile
        assert memory(server) - before < 30_000_000


@pytest.mark.parametrize("how", ["half", "whole", "reset"])
def test_a_client_that_leaves(server: Server, how: str) -> None:
    before = len(ask(server)["ended"])
    client = opened(server, "/leaves")
    client.sendall(Frame(Opcode.TEXT, b"a").serialize(mask=True))
    assert client.recv(3) == b"\x81\x01a"
    if how == "half":
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    elif how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    ended = eventually(lambda: ask(server)["ended"][before:], "the application hears of it")
    assert ended == ["leaves: 1006"]


def test_a_killed_shard_and_the_stop(serve: Serve) -> None:
    server = serve(APP, "--shards", "1", "--spares", "0", "--lifespan", "off", app="app:app")
    server.wait_serving()

    async def killed() -> None:
        async with connect(url(server, "/echo")) as websocket:
            os.kill(server.shard_pids()[0], signal.SIGKILL)
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
            assert closed.value.rcvd is None

    async def stopped() -> list[Any]:
        clients = [await connect(url(server, "/echo")) for _ in range(10)]
        deaf = opened(server, "/echo")  # does not answer the close
        server.send(signal.SIGTERM)
        codes = []
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            codes.append(closed.value.rcvd and closed.value.rcvd.code)
        assert deaf.recv(4) == b"\x88\x02\x03\xf4"  # 1012
        deaf.close()
        return codes

    asyncio.run(asyncio.wait_for(killed(), DEADLINE))
    server.wait_log("shard 0 ready", 2)
    assert asyncio.run(asyncio.wait_for(stopped(), DEADLINE)) == [1012] * 10
    assert server.wait_exit() == 0
    assert server.log.count("ENDED /echo 1012") == 11
    assert "Traceback" not in server.log


def test_pings_over_tls(serve: Serve, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    server = serve(
        APP,
        *("--shards", "1", "--spares", "0", "--lifespan", "off", "--ssl-certfile", str(tmp_path / "own.pem")),
        *("--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.4", "--ws-max-size", "1000"),
        app="app:app",
    )
    server.wait_serving()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    async def body() -> None:
        def to(path: str) -> Any:
            return connect(url(server, path, "wss"), ssl=trust, server_hostname="localhost", ping_interval=None)

        async with to("/echo") as websocket:
            await websocket.send("a" * 1_000)
            assert await websocket.recv() == "a" * 1_000
            await websocket.send("a" * 1_001)
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        async with to("/echo") as websocket:
            websocket.transport.write = lambda data: None  # it answers no pings
            with pytest.raises(ConnectionClosed) as closed:
                await websocket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011

    asyncio.run(asyncio.wait_for(body(), DEADLINE))
