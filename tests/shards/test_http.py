"""The pages for machines that watch, over real sockets."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

import pytest

from clockworker.shards.observe import _http
from clockworker.shards.observe._http import MAX_CONNECTIONS, Answer, PageServer, text
from tests.conftest import DEADLINE

P = ParamSpec("P")

REQUEST = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """On asyncio's own, which is the supervisor's."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), DEADLINE))

    return run


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[bytes, dict[bytes, bytes]]:
        async with asyncio.timeout(DEADLINE):
            head = await self.reader.readuntil(b"\r\n\r\n")
        first, *fields = head.split(b"\r\n")[:-2]
        return first, dict(field.lower().split(b": ", 1) for field in fields)  # type: ignore[misc]

    async def ask(self, request: bytes = REQUEST) -> bytes:
        """The status line and the body."""
        self.writer.write(request)
        first, fields = await self.answer()
        size = 0 if request.startswith(b"HEAD") else int(fields[b"content-length"])
        return first.removeprefix(b"HTTP/1.1 ") + b": " + await self.reader.readexactly(size)

    async def end(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.reader.read()


@asynccontextmanager
async def serving(**pages: Callable[[str], Answer]) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server = PageServer([sock], {"/health": lambda accept: text(200, "well"), **{f"/{n}": p for n, p in pages.items()}})
    await server.start()
    writers = []

    async def connect() -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        writers.append(client.writer)
        return client

    try:
        yield connect
    finally:
        await server.close()
        for writer in writers:
            writer.close()


@on_a_loop
async def test_requests_of_one_connection_and_of_several() -> None:
    async with serving() as connect:
        one, other = await connect(), await connect()
        for client in (one, other, one):
            assert await client.ask() == b"200 OK: well\n"
        assert await one.ask(REQUEST.replace(b"GET", b"HEAD")) == b"200 OK: "
        assert (await one.ask(REQUEST.replace(b"health", b"x"))).startswith(b"404 Not Found: there is no /x")
        one.writer.write(REQUEST.replace(b"GET", b"POST"))
        first, fields = await one.answer()
        assert (first, fields[b"allow"]) == (b"HTTP/1.1 405 Method Not Allowed", b"get, head")


@on_a_loop
async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(a=lambda accept: text(200, "a")) as connect:
        client = await connect()
        client.writer.write(REQUEST.replace(b"health", b"a") + REQUEST)
        assert await client.ask(b"") == b"200 OK: a\n"
        assert await client.ask(b"") == b"200 OK: well\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
@on_a_loop
async def test_a_last_answer_arrives_whatever_else_is_sent(head: bytes) -> None:
    async with serving() as connect:
        client = await connect()
        client.writer.write(head + b"x" * 100_000)
        said = await client.end()
        assert said.startswith(b"HTTP/1.1 400" if b"nonsense" in head else b"HTTP/1.1 200"), said
        assert b"\r\nconnection: close\r\n" in said


@on_a_loop
async def test_idle_connections_keep_no_probe_out() -> None:
    async with serving() as connect:
        silent = [await connect() for _ in range(MAX_CONNECTIONS // 2)]
        idle = [await connect() for _ in range(MAX_CONNECTIONS - len(silent))]
        for client in idle:
            assert await client.ask() == b"200 OK: well\n"
        for _ in range(3):  # each takes the place of who has been silent for longest
            assert await (await connect()).ask() == b"200 OK: well\n"
        for client in silent[:3]:
            assert await client.end() == b""
        for client in (*silent[3:], *idle):
            assert await client.ask() == b"200 OK: well\n"


@on_a_loop
async def test_who_is_slow_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "REQUEST_S", 0.05)
    monkeypatch.setattr(_http, "IDLE_S", 0.05)
    async with serving() as connect:
        slow = await connect()
        slow.writer.write(REQUEST[:10])
        assert await slow.end() == b""
        idle = await connect()
        assert await idle.ask() == b"200 OK: well\n"
        assert await idle.end() == b""


@on_a_loop
async def test_a_page_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail(accept: str) -> Answer:
        raise ZeroDivisionError

    async with serving(fail=fail) as connect:
        client = await connect()
        assert (await client.ask(REQUEST.replace(b"health", b"fail"))).startswith(b"500 ")
        assert await client.ask() == b"200 OK: well\n"
    assert "/fail cannot be answered" in caplog.text
