"""Clients that have said all: who still listens has all of its answer, who has left is noticed, and both have sent the same."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shards.servers import DEADLINE, Serve, Server, eventually

# Each path but the last listens for its client's leaving, as frameworks do, and ends if it hears of it.
APPLICATION = """
import asyncio, json

heard = []

async def app(scope, receive, send):
    assert scope["type"] == "http"
    path = scope["path"]
    if path == "/heard":
        body = json.dumps(heard).encode()
        await send({"type": "http.response.start", "status": 200})
        return await send({"type": "http.response.body", "body": body})

    over = []

    async def listen():
        while (await receive())["type"] != "http.disconnect":
            pass
        if not over:  # else it is told so because it has answered
            heard.append(scope["query_string"].decode())

    async def answer():
        headers = [(b"content-length", b"60")] if path == "/length" else []
        if path == "/late":
            await asyncio.sleep(2.5)
        if path == "/silent":
            await asyncio.sleep(3600)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        pieces, pause = {"/late": (1, 0), "/pauses": (2, 1.2), "/halts": (2, 3600)}.get(path, (20, 0.1))
        for number in range(pieces):
            await send({"type": "http.response.body", "body": b"%02d\\n" % number, "more_body": True})
            await asyncio.sleep(pause)
        over.append(True)
        await send({"type": "http.response.body", "body": b""})

    tasks = [asyncio.create_task(listen()), asyncio.create_task(answer())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
"""

WSGI = """
import time

def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/late":
        time.sleep(2.5)
        return [b"00\\n"]
    return pieces()

def pieces():
    for number in range(20):
        yield b"%02d\\n" % number
        time.sleep(0.1)
"""

PIECES = b"".join(b"%02d\n" % number for number in range(20))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serve = Serve(tmp_path_factory.mktemp("half"))
    try:
        server = serve(APPLICATION, "--shards", "1", "--spares", "0", app="app:app")
        server.wait_serving()
        yield server
        assert server.stop() == 0
        assert " ERROR " not in server.log
    finally:
        serve.clean_up()


def answer_of(client: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.read()


def request(path: str, version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: a\r\n\r\n".encode()


def half_close(server: Server, asked: bytes) -> socket.socket:
    client = server.connect()
    client.sendall(asked)
    client.shutdown(socket.SHUT_WR)
    return client


def heard(server: Server) -> list[str]:
    with server.connect() as client:
        client.sendall(request("/heard"))
        found: list[str] = json.loads(answer_of(client)[1])
        return found


@pytest.mark.parametrize(
    ("path", "version", "body"),
    [
        ("/stream", "1.1", PIECES),
        ("/stream", "1.0", PIECES),
        ("/length", "1.1", PIECES),
        ("/late", "1.1", b"00\n"),
        ("/pauses", "1.1", b"00\n01\n"),
    ],
)
def test_a_client_that_has_said_all_has_all_of_its_answer(server: Server, path: str, version: str, body: bytes) -> None:
    with half_close(server, request(f"{path}?half-{version}-{path}", version)) as client:
        assert answer_of(client) == (200, body)
        assert client.recv(1) == b"", "and then the end"
    assert f"half-{version}-{path}" not in heard(server)


def test_requests_sent_at_once_before_it_are_all_answered(server: Server) -> None:
    with half_close(server, request("/pauses?one") + request("/heard") + request("/pauses?two")) as client:
        received = b""
        while data := client.recv(65_536):
            received += data
    assert received.count(b"HTTP/1.1 200") == 3
    assert received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/silent", "/halts", "/stream"])
@pytest.mark.parametrize("how", ["closed", "reset", "half-closed before"])
def test_a_client_that_has_left_is_noticed(server: Server, path: str, how: str) -> None:
    name = f"{how[:6]}{path}"
    client = server.connect()
    client.sendall(request(f"{path}?{name}"))
    if path != "/silent":
        assert client.recv(65_536)
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how != "closed":
        client.shutdown(socket.SHUT_WR)
    client.close()
    eventually(lambda: name in heard(server), f"{name} has been heard")


def test_the_client_of_an_answer_without_chunks_that_stands_still_is_taken_to_have_left(server: Server) -> None:
    with server.connect() as client:
        client.sendall(request("/halts?old", "1.0"))
        answer = b""
        while not answer.endswith(b"\r\n\r\n00\n"):  # what is acknowledged later would say that it listens
            data = client.recv(65_536)
            assert data
            answer += data
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: "old" in heard(server), "its application has heard")
        assert client.recv(65_536) == b""


def test_of_a_unix_socket_the_kernel_says_all(serve: Serve, tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    server = serve(APPLICATION, "--shards", "1", "--spares", "0", app="app:app", bind=("--uds", path))
    server.wait_serving()

    def connect(asked: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(path)
        client.sendall(request(asked))
        return client

    def heard_there() -> list[str]:
        with connect("/heard") as client:
            found: list[str] = json.loads(answer_of(client)[1])
            return found

    with connect("/late?half") as client:
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65_536):
            received += data
        assert received.startswith(b"HTTP/1.1 200"), "nothing needs to be sent to know that it listens"
    connect("/silent?closed").close()
    later = connect("/silent?later")
    later.shutdown(socket.SHUT_WR)
    later.close()
    eventually(lambda: {"closed", "later"} <= {*heard_there()}, "who has left has been heard of")
    assert "half" not in heard_there()
    assert server.stop() == 0


@pytest.mark.parametrize(("path", "body"), [("/stream", PIECES), ("/late", b"00\n")])
def test_wsgi(serve: Serve, path: str, body: bytes) -> None:
    server = serve(WSGI, "--shards", "1", "--spares", "0", app="app:app")
    server.wait_serving()
    with half_close(server, request(path)) as client:
        assert answer_of(client) == (200, body)
    assert server.stop() == 0
