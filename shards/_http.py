"""A small HTTP server for machines that watch: fixed paths, GET and HEAD, on the supervisor's own loop.

h11 does the protocol. What is here is the bounds that stand between a client and the supervisor: so many connections, so
many seconds for a request and for the taking of its answer, so many bytes of headers, no body.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TypeAlias

import h11
import msgspec

from clockworker.shards._admission import Admission

log = logging.getLogger("clockworker.supervisor")

MAX_CONNECTIONS = 64
MAX_HEADERS = 8 * 1024  # bytes
REQUEST_S = 10.0
IDLE_S = 60.0  # between two requests of one connection


class Answer(msgspec.Struct, frozen=True):
    status: int
    content_type: str
    body: bytes


# Of the request's Accept header.
Page: TypeAlias = Callable[[str], Answer]


def text(status: int, body: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", body.encode() + b"\n")


class HttpServer:
    """Serves `pages`, by path, on a listening socket, which it owns. most: connections at once."""

    def __init__(self, sock: socket.socket, pages: Mapping[str, Page], most: int = MAX_CONNECTIONS) -> None:
        self._most = min(most, MAX_CONNECTIONS)
        self._sock = sock
        self._pages = pages
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._admission = Admission(self._sock, self._connected, MAX_HEADERS)

    async def close(self) -> None:
        self._admission.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= self._most:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADERS)
        try:
            limit = REQUEST_S
            while await self._serve_one(connection, reader, writer, limit):
                limit = IDLE_S
        except (TimeoutError, ConnectionError, h11.LocalProtocolError):
            pass  # the client went away, or is too slow
        except Exception:
            log.exception("answering a request for metrics failed")
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _serve_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: float
    ) -> bool:
        """One request and its answer. True if there may be another one."""
        head = False
        try:
            async with asyncio.timeout(limit):
                request = await _next_event(connection, reader)
                if not isinstance(request, h11.Request):
                    return False
                while not isinstance(event := await _next_event(connection, reader), h11.EndOfMessage):
                    if isinstance(event, h11.ConnectionClosed):
                        return False
            head = request.method == b"HEAD"
            answer = self._answer(request)
        except h11.RemoteProtocolError as error:
            if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                return False
            answer = text(error.error_status_hint, str(error))
        headers = [("content-type", answer.content_type), ("content-length", str(len(answer.body)))]
        if answer.status == 405:
            headers.append(("allow", "GET, HEAD"))
        phrase = HTTPStatus(answer.status).phrase
        data = connection.send(h11.Response(status_code=answer.status, reason=phrase, headers=headers)) or b""
        if not head:
            data += connection.send(h11.Data(data=answer.body)) or b""
            data += connection.send(h11.EndOfMessage()) or b""
        writer.write(data)
        async with asyncio.timeout(REQUEST_S):
            await writer.drain()
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return False
        connection.start_next_cycle()
        return True

    def _answer(self, request: h11.Request) -> Answer:
        if request.method not in (b"GET", b"HEAD"):
            return text(405, "only GET and HEAD are answered here")
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        page = self._pages.get(path)
        if page is None:
            return text(404, f"there is no {path}; there are {', '.join(self._pages)}")
        accept = b", ".join(value for name, value in request.headers if name == b"accept")
        try:
            return page(accept.decode("latin-1"))
        except Exception:
            log.exception("%s cannot be answered", path)
            return text(500, "the supervisor's log says why")


async def _next_event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(MAX_HEADERS))
    return event
