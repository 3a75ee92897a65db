"""What an application may send where the scope says so: early hints, trailers, and a file by its path."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from clockworker.http import _file
from clockworker.shards.config._http import HttpConfig
from tests.conftest import Run, until
from tests.http import http2
from tests.http.test_connection import head, on_a_loop
from tests.http.wire import Connection, wire
from tests.shards.servers import Serve

NAMES = {"http.response.trailers", "http.response.early_hint", "http.response.pathsend"}
START = {"type": "http.response.start", "status": 200, "headers": []}


def body(data: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def trailers(*fields: tuple[bytes, bytes], more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": list(fields), "more_trailers": more}


def config() -> HttpConfig:
    return HttpConfig(date_header=False, server_header=False)


class Sends:
    """An application that sends these, and what it was told by that."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages
        self.errors: list[Exception] = []
        self.scope: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        for message in self.messages:
            try:
                await send(message)
            except Exception as error:
                self.errors.append(error)
                raise


async def answered(app: Any, *lines: str, method: str = "GET", version: str = "1.1") -> tuple[bytes, list[str]]:
    """All that HTTP/1.1 sends for it, and what has failed."""
    async with wire(app, config()) as server:
        connection = server.connect()
        connection.feed(head(f"{method} / HTTP/{version}", "Host: a", *lines))
        await server.idle()
        return connection.sent, server.failures


async def answered_by_http2(app: Any, *headers: tuple[bytes, bytes], method: str = "GET") -> http2.Answer:
    async with http2.wire(app) as server:
        client = http2.Client(server)
        number = client.ask("/", method, *headers)
        await server.idle()
        await until(lambda: client.answer(number).ended or client.answer(number).reset is not None)
        return client.answer(number)


@on_a_loop
async def test_the_scope_says_what_there_is() -> None:
    app = Sends(START, body())
    await answered(app)
    assert app.scope["extensions"].keys() == NAMES
    app.scope["extensions"].clear()  # is its own
    await answered(app)
    assert app.scope["extensions"].keys() == NAMES
    await answered_by_http2(app)
    assert app.scope["extensions"].keys() == NAMES | {"tls"}


# Early hints.

HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b" </b.js>; rel=preload "]}
LINKS = b"link: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n"


@on_a_loop
async def test_a_hint_goes_before_the_head() -> None:
    sent, failures = await answered(Sends(HINT, HINT, START, body(b"x")))
    interim = b"HTTP/1.1 103 Early Hints\r\n" + LINKS + b"\r\n"
    assert sent == 2 * interim + b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"
    assert not failures
    answer = await answered_by_http2(Sends(HINT, START, body(b"x")))
    assert (answer.informational, answer.status, answer.body) == ([103], 200, b"x")
    assert answer.interim_headers == [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>; rel=preload")]


@on_a_loop
async def test_a_client_of_1_0_gets_no_hint() -> None:
    sent, failures = await answered(Sends(HINT, START, body(b"x")), version="1.0")
    assert (sent[:15], failures) == (b"HTTP/1.1 200 OK", [])
    assert b"103" not in sent


@on_a_loop
async def test_a_hint_after_the_head_or_with_what_cannot_be_sent() -> None:
    late = Sends(START, HINT)
    await answered(late)
    assert "but got 'http.response.early_hint'" in str(late.errors[0])
    bad = Sends({**HINT, "links": [b"</a>\r\nx: y"]})
    sent, _ = await answered(bad)
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert "header value" in str(bad.errors[0])
    again = Sends({**HINT, "links": [b"</a>\r\nx: y"]})
    assert (await answered_by_http2(again)).status == 500


# Trailers.

WITH_TRAILERS = {**START, "trailers": True}


@on_a_loop
async def test_trailers_follow_the_last_chunk() -> None:
    two = trailers((b"X-Sum", b"1"), more=True), trailers((b"y", b" 2 "))
    app = Sends(WITH_TRAILERS, body(b"ab", more=True), body(b"c"), *two)
    sent, failures = await answered(app, "TE: trailers")
    expected = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n"
    )
    assert (sent, failures) == (expected, [])
    answer = await answered_by_http2(app, (b"te", b"trailers"))
    assert (answer.body, answer.trailers, answer.ended) == (b"abc", [(b"x-sum", b"1"), (b"y", b"2")], True)


@on_a_loop
async def test_a_client_that_has_not_asked_for_trailers_gets_none() -> None:
    app = Sends(WITH_TRAILERS, body(b"ab"), trailers((b"x-sum", b"1")))
    sent, failures = await answered(app)
    assert (sent.partition(b"\r\n\r\n")[2], failures) == (b"2\r\nab\r\n0\r\n\r\n", [])
    answer = await answered_by_http2(app)
    assert (answer.body, answer.trailers, answer.ended) == (b"ab", [], True)


@on_a_loop
async def test_the_connection_goes_on_behind_trailers() -> None:
    async with wire(Sends(WITH_TRAILERS, body(), trailers((b"a", b"b"))), config()) as server:
        connection = server.connect()
        for number in (1, 2):
            connection.feed(head("GET / HTTP/1.1", "Host: a", "TE: trailers"))
            await server.idle()
            assert connection.sent.count(b"0\r\na: b\r\n\r\n") == number
        assert not connection.is_over
        assert server.target.statuses[2] == 2


@on_a_loop
async def test_a_body_with_a_length_and_trailers() -> None:
    sized = {**WITH_TRAILERS, "headers": [(b"content-length", b"2")]}
    sent, failures = await answered(Sends(sized, body(b"ab"), trailers((b"a", b"b"))), "TE: trailers")
    assert (sent, failures) == (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", [])
    answer = await answered_by_http2(Sends(sized, body(b"ab"), trailers((b"a", b"b"))), (b"te", b"trailers"))
    assert (answer.body, answer.trailers) == (b"ab", [(b"a", b"b")])
    short = Sends(sized, body(b"a"), trailers())
    await answered(short)
    assert "shorter" in str(short.errors[0])


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((START, body(), trailers()), "after response already completed"),
        ((START, trailers()), "Expected ASGI message 'http.response.body'"),
        ((WITH_TRAILERS, trailers()), "Expected ASGI message 'http.response.body'"),
        ((WITH_TRAILERS, body(), body()), "Expected ASGI message 'http.response.trailers'"),
        ((WITH_TRAILERS, body(), trailers(), trailers()), "after response already completed"),
        ((WITH_TRAILERS, body(), trailers((b"content-length", b"1"))), "trailer name b'content-length'"),
        ((WITH_TRAILERS, body(), trailers((b"a b", b"1"))), "trailer name b'a b'"),
        ((WITH_TRAILERS, body(), trailers((b"a", b"1\r\n"))), "trailer value"),
    ],
)
def test_trailers_where_they_cannot_be(messages: Any, said: str) -> None:
    @on_a_loop
    async def test() -> None:
        app = Sends(*messages)
        await answered(app, "TE: trailers")
        assert said in str(app.errors[0])

    test()


@on_a_loop
async def test_a_response_without_its_trailers_is_cut() -> None:
    async with wire(Sends(WITH_TRAILERS, body(b"a")), config()) as server:
        connection: Connection = server.connect()
        connection.feed(head("GET / HTTP/1.1", "Host: a"))
        await server.idle()
        assert connection.transport.aborted
        assert server.failures == ["ASGI callable returned without completing response."]


# A file.


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_file, "PIECE", 1_000)
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(3_500))
    return path


def path_of(file: Path | str) -> dict[str, Any]:
    return {"type": "http.response.pathsend", "path": str(file)}


@pytest.mark.parametrize("size", [0, 1, 1_000, 1_001, 3_500])
def test_a_file_is_the_body(run: Run, file: Path, size: int) -> None:
    data = file.read_bytes()[:size]
    file.write_bytes(data)

    async def test() -> None:
        sent, failures = await answered(Sends(START, path_of(file)))
        assert sent == b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + data
        assert not failures
        answer = await answered_by_http2(Sends(START, path_of(file)))
        assert (answer.header(b"content-length"), answer.body, answer.ended) == (b"%d" % size, data, True)
        old, _ = await answered(Sends(START, path_of(file)), version="1.0")
        assert old.endswith(b"\r\n\r\n" + data)
        sent, failures = await answered(Sends(START, path_of(file)), method="HEAD")
        assert (sent, failures) == (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size, [])
        answer = await answered_by_http2(Sends(START, path_of(file)), method="HEAD")
        assert (answer.header(b"content-length"), answer.body, answer.ended) == (b"%d" % size, b"", True)

    run(test)


def test_of_a_file_as_much_as_the_application_has_said(run: Run, file: Path) -> None:
    data = file.read_bytes()

    async def test() -> None:
        for length in (10, 3_500, 5_000):
            start = {**START, "headers": [(b"content-length", b"%d" % length)]}
            app = Sends(start, path_of(file))
            sent, _ = await answered(app)
            assert sent.partition(b"\r\n\r\n")[2] == data[:length]
            assert [str(error) for error in app.errors] == (
                ["Response content shorter than Content-Length"] if length > len(data) else []
            )

    run(test)


def test_a_file_that_cannot_be_read_is_a_500(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    async def test() -> None:
        for path in ("missing", "pipe", "."):
            app = Sends(START, path_of(tmp_path / path))
            sent, _ = await answered(app)
            assert sent.startswith(b"HTTP/1.1 500 "), path
            assert isinstance(app.errors[0], OSError)
            assert (await answered_by_http2(Sends(START, path_of(tmp_path / path)))).status == 500
        relative = Sends(START, path_of("relative"))
        assert (await answered(relative))[0].startswith(b"HTTP/1.1 500 ")
        assert "give an absolute one" in str(relative.errors[0])
        early = Sends(path_of(tmp_path / "pipe"))
        await answered(early)
        assert "Expected ASGI message 'http.response.start'" in str(early.errors[0])

    run(test)


def test_a_client_that_leaves_ends_the_sending_of_a_file(run: Run, file: Path) -> None:
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(path_of(file))
        ended.set()

    async def test() -> None:
        open_before = len(os.listdir("/proc/self/fd"))
        async with wire(app, config()) as server:
            connection = server.connect()
            connection.protocol.pause_writing()
            connection.feed(head("GET / HTTP/1.1", "Host: a"))
            await until(lambda: connection.sent)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert len(connection.sent) < 1_200, "it waits for its client"
            connection.lose()
            await asyncio.wait_for(ended.wait(), 60)
            await server.idle()
        assert len(os.listdir("/proc/self/fd")) <= open_before + 1

    run(test)


APPLICATION = """
import os
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route

async def file(request):
    return FileResponse(os.environ["SENT_FILE"])

app = Starlette(routes=[Route("/file", file)])
"""


def test_a_large_file_to_a_slow_client(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    path = tmp_path / "large"
    data = random.Random(2).randbytes(20 << 20)
    path.write_bytes(data)
    options = ("--shards", "1", "--spares", "0")
    server = serve(APPLICATION, *options, app="app:app", environment={"SENT_FILE": str(path)})
    server.wait_serving()
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        for _ in range(2):
            client.sendall(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
            response = http.client.HTTPResponse(client)
            response.begin()
            assert response.getheader("content-length") == str(len(data))
            assert hashlib.sha256(response.read()).digest() == hashlib.sha256(data).digest()
        client.sendall(b"GET /file HTTP/1.1\r\nHost: a\r\nRange: bytes=100-199\r\n\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.read()) == (206, data[100:200])
    assert server.stop() == 0
    assert " ERROR " not in server.log
