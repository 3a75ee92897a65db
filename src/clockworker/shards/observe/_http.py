"""A small HTTP server for machines that watch, and people: fixed paths, GET and HEAD, on the supervisor's own loop.

What is here is the bounds that stand between a client and the supervisor: so many connections, so many seconds for a request
and for the taking of its answer. Where all connections are taken the one goes that has been silent for longest, so that
nobody who holds them open keeps a probe out.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TypeAlias

import msgspec

from clockworker.shards.observe._admission import Admission
from clockworker.shards.observe._http_head import MAX_HEAD, BadRequest, Request, take

log = logging.getLogger("clockworker.supervisor")

MAX_CONNECTIONS = 64
REQUEST_S = 10.0
IDLE_S = 60.0  # between two requests of one connection
LINGER_S = 1.0  # for what a client still sends behind a last answer


class Answer(msgspec.Struct, frozen=True):
    """headers: beside those that every answer has."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


# Of the request's Accept header.
Page: TypeAlias = Callable[[str], Answer]


def text(status: int, body: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", body.encode() + b"\n")


class PageServer:
    """Serves `pages`, by path, on listening sockets, which it owns. most: connections at once."""

    def __init__(self, sockets: list[socket.socket], pages: Mapping[str, Page], most: int = MAX_CONNECTIONS) -> None:
        self._most = min(most, MAX_CONNECTIONS)
        self._sockets = sockets
        self._pages = pages
        self._admissions: list[Admission] = []
        # Each connection, the one that has been heard of last at the end.
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> None:
        for sock in self._sockets:
            self._admissions.append(Admission(sock, self._connected, MAX_HEAD))

    async def close(self) -> None:
        for admission in self._admissions:
            admission.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._most:
            longest = next(iter(self._open))
            self._open.pop(longest).transport.abort()
            longest.cancel()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(lambda task: self._open.pop(task, None))

    def _heard(self) -> None:
        task = asyncio.current_task()
        if task in self._open:
            self._open[task] = self._open.pop(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        limit = REQUEST_S
        try:
            while await self._serve_one(received, reader, writer, limit):
                limit = IDLE_S
        except OSError:
            pass  # the client went away, or is too slow (TimeoutError)
        except Exception:
            log.exception("answering a request for metrics failed")
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _serve_one(
        self, received: bytearray, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float
    ) -> bool:
        """One request and its answer. True if there may be another one."""
        try:
            async with asyncio.timeout(limit):
                while (request := take(received)) is None:
                    data = await reader.read(MAX_HEAD)
                    if not data:
                        return False
                    received += data
        except BadRequest as error:
            request = None
            answer = text(error.status, str(error))
        else:
            self._heard()
            answer = self._answer(request)
        keeps = request is not None and request.keeps
        writer.write(_head(answer, keeps))
        if request is None or request.method != "HEAD":
            writer.write(answer.body)
        async with asyncio.timeout(REQUEST_S):
            await writer.drain()
        if not keeps:
            await _linger(reader, writer)
        return keeps

    def _answer(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return text(405, "only GET and HEAD are answered here")
        page = self._pages.get(request.path)
        if page is None:
            pages = (path for path in self._pages if "." not in path)  # the others are parts of one
            return text(404, f"there is no {request.path}; there are {', '.join(pages)}")
        try:
            return page(request.accept)
        except Exception:
            log.exception("%s cannot be answered", request.path)
            return text(500, "the supervisor's log says why")


def _head(answer: Answer, keeps: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"date: {email.utils.formatdate(usegmt=True)}",
        f"content-type: {answer.content_type}",
        f"content-length: {len(answer.body)}",
        f"connection: {'keep-alive' if keeps else 'close'}",
        "x-content-type-options: nosniff",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    if answer.status == 405:
        lines.append("allow: GET, HEAD")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what the client still sends, and drop it: closed with something unread, a connection is reset, and the client may
    never see the answer."""
    writer.write_eof()
    async with asyncio.timeout(LINGER_S):
        while await reader.read(MAX_HEAD):
            pass
