"""Connections without sockets: bytes in, what was written out, on a transport that a test holds in its hands.

    async with wire(application) as server:
        connection = server.connect()
        connection.feed(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        await server.idle()
        assert connection.sent.startswith(b"HTTP/1.1 200")

The requests run in a real executor's queue. The transport fails a test that writes to it, or closes it, after it was closed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec

import clockworker as cw
from clockworker.http._connection_cy import HttpConnection
from clockworker.http._routes import RouteTable
from clockworker.http._server import HttpServer
from clockworker.http._targets_cy import Target
from clockworker.http._websocket import WebSocket
from clockworker.shards.config._http import HttpConfig, Route
from tests.conftest import until

Application: TypeAlias = Callable[[dict[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]

# A machine that stands still for seconds ends no connection.
_PATIENT = HttpConfig(
    date_header=False,
    server_header=False,
    timeout_request_header=3600,
    timeout_request_body=3600,
    timeout_keep_alive=3600,
    timeout_response=3600,
)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})[ \r]")


class Seen(msgspec.Struct, frozen=True):
    """A request as an application has it. body: None if it did not come to its end."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None


class Transport:
    """What a connection is given. sent: what it has written. buffered: bytes that its client has not taken, as it is to say."""

    def __init__(self, connection: HttpConnection, client: tuple[str, int], *, tls: bool = False) -> None:
        self.sent = bytearray()
        self.writes = 0
        self.buffered = 0
        self.paused = False
        self.closed = False  # by our side, after what was written; aborted: at once
        self.aborted = False
        self.half_closed = False
        self._connection = connection
        self._facts = {
            "peername": client,
            "sockname": ("192.0.2.1", 80),
            "sslcontext": object() if tls else None,
        }

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._facts.get(name, default)

    def write(self, data: bytes) -> None:
        assert not self.closed, f"written after the end: {data!r}"
        assert not self.half_closed, f"written after the end of file: {data!r}"
        assert data, "nothing was written"
        self.sent += data
        self.writes += 1

    def can_write_eof(self) -> bool:
        return self._facts["sslcontext"] is None

    def write_eof(self) -> None:
        assert not self.closed
        assert not self.half_closed
        self.half_closed = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return not self.paused and not self.closed

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def get_protocol(self) -> HttpConnection:
        return self._connection

    def pause_reading(self) -> None:
        assert not self.closed
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert not self.closed
        assert self.paused
        self.paused = False


class Connection:
    """A client's side."""

    def __init__(self, server: Server, tls: bool) -> None:
        self.server = server
        self.protocol = HttpConnection(server.http, server.http.rules)
        self.client = ("192.0.2.7", 4711 + len(server.connections))
        self.transport = Transport(self.protocol, self.client, tls=tls)
        self.protocol.connection_made(self.transport)
        self._kernel = b""
        self._has_ended = False
        self._is_lost = False

    @property
    def sent(self) -> bytes:
        """All that has come from the server."""
        return bytes(self.transport.sent)

    @property
    def statuses(self) -> list[int]:
        """Of the responses. For bodies that contain no status line."""
        return [int(status) for status in _STATUS.findall(self.sent)]

    @property
    def is_over(self) -> bool:
        """Whether the server sends no more."""
        return self.transport.closed or self.transport.half_closed

    def feed(self, *reads: bytes) -> None:
        """Each is what comes in one read. What comes while reading is paused stays in the kernel, and is fed with the next."""
        for data in reads:
            self._kernel += data
            self.flow()

    def flow(self) -> None:
        """What waits in the kernel is read as far as it may be. uvloop delivers what it has, and then looks again."""
        while self._kernel and not self._is_lost and self.transport.is_reading():
            data, self._kernel = self._kernel, b""
            self.protocol.data_received(data)
        if self._has_ended and not self._is_lost and self.transport.is_reading():
            self._has_ended = False
            if not self.protocol.eof_received():
                self.transport.closed = True

    def end(self) -> None:
        """The client will send no more. The transport closes unless the protocol wants to go on."""
        self._has_ended = True
        self.flow()

    def lose(self, error: Exception | None = None) -> None:
        """The client has gone."""
        if not self._is_lost:
            self._is_lost = True
            self.transport.closed = True
            self.protocol.connection_lost(error)


class Server:
    """http: the server; target: where its requests run. failures: what the application has done wrong."""

    def __init__(self, http: HttpServer, target: Target) -> None:
        self.http = http
        self.target = target
        self.failures: list[str] = []
        self.connections: list[Connection] = []
        http.connections = self  # type: ignore[assignment]

    def failed(self, message: str, error: BaseException) -> None:
        self.failures.append(message)

    def connect(self, *, tls: bool = False) -> Connection:
        connection = Connection(self, tls)
        self.connections.append(connection)
        return connection

    async def idle(self) -> None:
        """Until no request runs, and all that may be read has been."""

        def is_idle() -> bool:
            for connection in self.connections:
                connection.flow()
            busy = any(target.running or target.waiting for target in self.http.targets)
            return not busy and not self.http.backlog._waiting

        await until(is_idle, "the end of all requests")

    def tick(self, seconds: float) -> None:
        """So much time goes by, as far as the server's looks at it are concerned."""
        for _ in range(round(seconds / self.http.look_s)):
            if self.http._look is not None:
                self.http._look.cancel()
                self.http._look_at_all()


@asynccontextmanager
async def wire(
    app: Application,
    config: HttpConfig | None = None,
    routes: Sequence[Route] = (),
    *,
    at_once_ns: int = 1 << 62,
    **target: Any,
) -> AsyncIterator[Server]:
    """target: options of the target of what no route is about. The requests of routes are in the second queue. at_once_ns: for
    how long a read is parsed before others have their turns; else all of it is, however slow the machine."""
    async with cw.Executor([cw.Queue("requests"), cw.Queue("second")]) as executor:
        first = Target("other", executor.queue("requests"), **target)
        http = HttpServer(
            app,
            config or _PATIENT,
            state={},
            table=RouteTable(routes),
            targets=[*(Target(route.path, executor.queue("second")) for route in routes), first],
            websockets=WebSocket,
        )
        http.rules.at_once_ns = at_once_ns
        server = Server(http, first)
        try:
            yield server
        finally:
            for connection in server.connections:
                connection.lose()
            if http._look is not None:
                http._look.cancel()
            await executor.drain()


class Recorder:
    """An application that takes each request whole and answers with 200; what it has seen, and of which client."""

    def __init__(self) -> None:
        self.by_client: list[tuple[tuple[str, int], Seen]] = []

    @property
    def seen(self) -> list[Seen]:
        return [seen for _, seen in self.by_client]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        body: bytes | None = b""
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                body = None
                break
            body += event["body"]
            if not event["more_body"]:
                break
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        seen = Seen(scope["method"], target, tuple(scope["headers"]), body)
        self.by_client.append((scope["client"], seen))
        if body is not None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})
