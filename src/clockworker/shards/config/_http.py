"""What is said of HTTP: options by uvicorn's names and with its defaults where it has them, and routes. Data only."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Interface: TypeAlias = Literal["auto", "asgi3", "asgi2", "wsgi"]
LifespanMode: TypeAlias = Literal["auto", "on", "off"]


class Route(msgspec.Struct, frozen=True):
    """Which requests run where. The first route that matches a request decides.

    path: exact; `{name}` is one segment of any text; `*` at the end is the rest, which may be empty.
    queue: the queue that its requests run in.
    methods: those that match, in capitals; none given: all. GET includes HEAD; a WebSocket's handshake is WEBSOCKET.
    host: only requests of this host, without its port.
    group: by what the requests are grouped inside the queue: "client", "host", "header:NAME" or "path:NAME".
    after: the queue in which the task goes on when its response is complete.
    limit: so many requests at once in each shard; more of them wait.
    waiting: so many may wait; beyond that a request is refused with 503 and Retry-After. Unless given, as many as come.
    """

    path: str
    queue: str | None = None
    methods: tuple[str, ...] = ()
    host: str | None = None
    group: str | None = None
    after: str | None = None
    limit: int | None = None
    waiting: int | None = None


class HttpConfig(msgspec.Struct, frozen=True):
    """All that the HTTP servers of a shard need to know. Times are in seconds, sizes in bytes.

    routes: of the options or the file; they go before those of the application.
    lifespan_queue: where the application's lifespan runs; None: in the first queue.
    forwarded_allow_ips: addresses and networks whose proxy headers are believed, separated by commas; `*`: all.
    headers: added to each response. server_header, date_header: whether each response has them.
    http2: whether it is offered in TLS handshakes, where h2 is installed.
    limit_request_line: of the request line. limit_request_field_size: of one header. limit_request_fields: how many headers.
    incomplete_event_size: of the whole head.
    timeout_request_header: for the whole head. timeout_request_body: between two parts of a body that is asked for.
    timeout_keep_alive: between two requests. timeout_response: for a client that takes nothing of its response.
    limit_concurrency: requests and WebSockets of a shard; more are refused with 503.
    threads: for functions that block, of each shard: anyio's limiter, the loop's executor, WSGI; None: their own defaults.
    gil_switch_interval: what a thread may keep the interpreter for while another waits; None: CPython's 0.005.
    """

    interface: Interface = "auto"
    lifespan: LifespanMode = "auto"
    lifespan_queue: str | None = None
    reset_contextvars: bool = False
    routes: tuple[Route, ...] = ()
    proxy_headers: bool = True
    forwarded_allow_ips: str = "127.0.0.1,::1"
    root_path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    server_header: bool = True
    date_header: bool = True
    ws_max_size: int = 16 * 1024 * 1024
    ws_max_queue: int = 32
    ws_ping_interval: float = 20.0
    ws_ping_timeout: float = 20.0
    ws_per_message_deflate: bool = True
    http2: bool = True
    limit_request_line: int = 4_094
    limit_request_field_size: int = 8_190
    limit_request_fields: int = 100
    incomplete_event_size: int = 64 * 1024
    timeout_request_header: float = 10.0
    timeout_request_body: float = 30.0
    timeout_keep_alive: float = 5.0
    timeout_response: float = 60.0
    limit_concurrency: int | None = None
    threads: int | None = None
    gil_switch_interval: float | None = None
