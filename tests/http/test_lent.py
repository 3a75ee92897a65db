"""Streams of WSGI applications whose thread writes to the client itself: the bytes are the same, and whatever may happen."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest

from clockworker.http._lent import LEAST, _behind
from tests.shards.servers import Serve, Server, eventually

APPLICATION = """
import json, threading, time

ended = []
gate = threading.Event()

def numbered(count, sizes):
    for number in range(count):
        yield bytes([number % 251]) * sizes[number % len(sizes)]

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    headers = []
    if path == "/ended":
        start_response("200 OK", [])
        return [json.dumps(ended).encode()]
    if path == "/open":
        gate.set()
        start_response("204 No Content", [])
        return []
    sizes = [int(size) for size in query.split(",")]
    count = 300
    if path == "/length":
        headers.append(("Content-Length", str(sum(sizes[n % len(sizes)] for n in range(count)))))
    start_response("200 OK", headers)
    return Watched(path, count, sizes)

class Watched:
    def __init__(self, path, count, sizes):
        self.path, self.count, self.sizes = path, count, sizes

    def __iter__(self):
        for number, piece in enumerate(numbered(self.count, self.sizes)):
            yield piece
            if self.path == "/fails" and number == 100:
                raise LookupError("as it should")
            if self.path == "/waits" and number == 100:
                gate.wait(60)
        while self.path == "/endless":
            yield piece

    def close(self):
        ended.append(self.path)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    serve = Serve(tmp_path_factory.mktemp("lent"))
    try:
        options = ("--shards", "1", "--spares", "0", "--threads", "4", "--access-log", "--timeout-response", "1")
        server = serve(APPLICATION, *options, app="app:app")
        server.wait_serving()
        yield server
        assert server.stop() == 0
        assert set(re.findall(r" ERROR (.*)$", server.log, re.MULTILINE)) <= {
            "  [shard 0 default] Exception in ASGI application"
        }
    finally:
        serve.clean_up()


def expected(sizes: str, count: int = 300) -> bytes:
    each = [int(size) for size in sizes.split(",")]
    return b"".join(bytes([number % 251]) * each[number % len(each)] for number in range(count))


def ask(client: socket.socket, target: str, version: str = "1.1") -> http.client.HTTPResponse:
    client.sendall(f"GET {target} HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    response = http.client.HTTPResponse(client)
    response.begin()
    return response


def ended(server: Server) -> list[str]:
    with server.connect() as client:
        found: list[str] = json.loads(ask(client, "/ended").read())
        return found


SIZES = [f"{LEAST}", f"{LEAST - 1}", "65536", "100", f"{LEAST},1", "200000,1,70000,70000,10"]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    ("path", "version"), [("/chunked", "1.1"), ("/length", "1.1"), ("/length", "1.0"), ("/old", "1.0")]
)
def test_what_comes_is_what_was_made(server: Server, path: str, version: str, sizes: str) -> None:
    whole = hashlib.sha256(expected(sizes)).digest()
    with server.connect() as client:
        for _ in range(2):
            response = ask(client, f"{path}?{sizes}", version)
            assert hashlib.sha256(response.read()).digest() == whole
            if version == "1.0":
                break
    size = len(expected(sizes))
    server.wait_log(re.escape(f'"GET {path}?{sizes} HTTP/{version}" 200 {size} '))


def test_a_slow_client(server: Server) -> None:
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        response = ask(client, "/chunked?65536")
        assert hashlib.sha256(response.read()).digest() == hashlib.sha256(expected("65536")).digest()


def connections(server: Server) -> int:
    """Sockets of TCP that the shard has open, but for those that listen."""
    found = psutil.Process(server.shard_pids()[0]).net_connections("tcp")
    return sum(1 for each in found if each.status != psutil.CONN_LISTEN)


def test_a_client_that_leaves_ends_it_and_nothing_stays_open(server: Server) -> None:
    before = ended(server).count("/endless")
    for _ in range(8):
        with server.connect() as client:
            client.sendall(b"GET /endless?65536 HTTP/1.1\r\nHost: a\r\n\r\n")
            received = 0
            while received < 5 << 20:
                received += len(client.recv(1 << 20))
    eventually(lambda: ended(server).count("/endless") == before + 8, "all of them have ended")
    eventually(lambda: connections(server) <= 1, "all of their sockets are closed")


def test_a_client_that_takes_nothing_is_cut(server: Server) -> None:
    before = ended(server).count("/endless")
    with server.connect() as client:
        client.sendall(b"GET /endless?65536 HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: ended(server).count("/endless") == before + 1, "it has been given up")
        received = b""
        while data := client.recv(1 << 20):
            received = received[-10:] + data
        assert not received.endswith(b"\r\n0\r\n\r\n")


def test_one_that_fails_in_the_middle_is_cut(server: Server) -> None:
    with server.connect() as client:
        response = ask(client, "/fails?65536")
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()
    eventually(lambda: "/fails" in ended(server), "it has been closed")


def test_what_waits_between_two_pieces_has_sent_those_before(server: Server) -> None:
    with server.connect() as client:
        response = ask(client, "/waits?65536")
        assert response.read(101 * 65_536) == expected("65536", 101)
        with server.connect() as other:
            assert ask(other, "/open").status == 204
        assert response.read() == expected("65536")[101 * 65_536 :]


def test_many_at_once(server: Server) -> None:
    whole = hashlib.sha256(expected("200000,1,70000,70000,10")).digest()
    wrong: list[object] = []

    def load() -> None:
        try:
            with server.connect() as client:
                for _ in range(5):
                    body = ask(client, "/chunked?200000,1,70000,70000,10").read()
                    assert hashlib.sha256(body).digest() == whole
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_left_of_parts() -> None:
    parts = [b"4\r\n", b"abcd", b"\r\n"]
    whole = b"".join(parts)
    for sent in range(len(whole) + 1):
        assert b"".join(bytes(part) for part in _behind(parts, sent)) == whole[sent:]
    assert _behind(parts, len(whole)) == []


def test_a_stop_waits_for_it(serve: Serve) -> None:
    server = serve(APPLICATION, "--shards", "1", "--spares", "0", app="app:app")
    server.wait_serving()
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        response = ask(client, "/chunked?65536")
        assert response.read(20 * 65_536) == expected("65536", 20)
        server.send(15)
        assert response.read() == expected("65536")[20 * 65_536 :]
    assert server.wait_exit() == 0
