"""What is said of HTTP: options by uvicorn's names and with its defaults where it has them, and routes. Data only."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal, TypeAlias

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.shards.config._patterns import parse_pattern

Interface: TypeAlias = Literal["auto", "asgi3", "asgi2", "wsgi"]
LifespanMode: TypeAlias = Literal["auto", "on", "off"]

MAX_COUNT = 10_000_000


_PLACE = re.compile(r"shard:[0-9]{1,6}")

# Of a method, and of a header's name.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Route(msgspec.Struct, frozen=True):
    """Which requests run where. The first route that matches a request decides.

    path: exact; `{name}` is text without a slash; `*` at the end is the rest, which may be empty. `{name:int}`, `:float` and
    `:uuid` are only such text, and `{name:path}` may contain slashes. It is compared decoded, and without a root path.
    queue: the queue that its requests run in; None: the first.
    methods: those that match, in capitals; none given: all. GET includes HEAD; a WebSocket's handshake is WEBSOCKET.
    host: only requests of this host, without its port.
    group: by what the requests are grouped inside the queue: "client", "host", "header:NAME" or "path:NAME"; or "route": all
        of this route are one group, as FairSRPT wants to know what kind each is.
    after: the queue in which the task goes on when its response is complete.
    limit: so many requests at once in each shard; more of them wait.
    waiting: so many may wait; beyond that a request is refused with 503 and Retry-After. Unless given, as many as come.
    threads: False: `def` endpoints of Starlette and FastAPI, and what else these would run in a thread, run in the queue, which
    has to be preemptive; WSGI applications, too.
    place: the shard that runs its requests, "shard:1", whichever has their connections; WebSockets stay where they are.

    Raises `ConfigurationError` for what cannot be. That the shard has the queues is seen when it serves.
    """

    path: str
    queue: str | None = None
    methods: tuple[str, ...] = ()
    host: str | None = None
    group: str | None = None
    after: str | None = None
    limit: int | None = None
    waiting: int | None = None
    threads: bool = True
    place: str | None = None

    def __post_init__(self) -> None:
        names = parse_pattern(self.path).names
        subject = f"route {self.path!r}"
        methods = self.methods
        if isinstance(methods, str) or not isinstance(methods, Collection) or not all(map(_is_method, methods)):
            right = 'names in capitals, for example ["GET", "POST"]; a handshake is WEBSOCKET'
            raise ConfigurationError(f"{subject}: methods is {methods!r}; give {right}")
        # The file gives a list; and hosts are compared in small letters.
        msgspec.structs.force_setattr(self, "methods", tuple(methods))
        if self.host is not None:
            if not isinstance(self.host, str) or not re.fullmatch(r"[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]", self.host):
                right = "a host without its port, for example api.example.com"
                raise ConfigurationError(f"{subject}: host is {self.host!r}; give {right}")
            msgspec.structs.force_setattr(self, "host", self.host.lower())
        if self.place is not None and not (isinstance(self.place, str) and _PLACE.fullmatch(self.place)):
            raise ConfigurationError(f'{subject}: place is {self.place!r}; give a shard, for example "shard:1"')
        check_place(subject, self.queue, self.group, self.after, self.limit, self.waiting, names, self.threads)


def shard_of(place: str) -> int:
    """The number of the shard that a valid place names."""
    return int(place.removeprefix("shard:"))


def check_place(
    subject: str,
    queue: str | None,
    group: str | None,
    after: str | None,
    limit: int | None,
    waiting: int | None,
    names: Collection[str] | None,
    threads: bool,
) -> None:
    """Where requests run, as a route or an endpoint says it. names: those of the path; None: not known yet. Raises
    `ConfigurationError`."""

    def wrong(key: str, value: object, right: str) -> ConfigurationError:
        return ConfigurationError(f"{subject}: {key} is {value!r}; give {right}")

    for key, name in (("queue", queue), ("after", after)):
        if name is not None and not (isinstance(name, str) and name):
            raise wrong(key, name, 'the name of a queue, for example "background"')
    if group is not None:
        kind, _, name = group.partition(":") if isinstance(group, str) else ("", "", "")
        is_one = (
            group in ("client", "host", "route")
            or (kind == "header" and TOKEN.fullmatch(name))
            or (kind == "path" and name)
        )
        if not is_one:
            raise wrong("group", group, '"client", "host", "route", "header:NAME" or "path:NAME"')
        if kind == "path" and names is not None and name not in names:
            right = " or ".join(f'"path:{each}"' for each in names) or f"a path that has it, with {{{name}}} in it"
            raise wrong("group", group, right)
    if limit is not None and not _is_count(limit, 1):
        raise wrong("limit", limit, f"how many requests run at once in each shard, 1 to {MAX_COUNT}")
    if waiting is not None and not _is_count(waiting, 0):
        raise wrong("waiting", waiting, f"how many requests may wait in each shard, 0 to {MAX_COUNT}")
    if not isinstance(threads, bool):
        raise wrong("threads", threads, "False for `def` endpoints that run in the queue, or True")
    if waiting is not None and limit is None:
        raise ConfigurationError(f"{subject}: waiting is {waiting}, but without a limit none waits; give limit, too")


def _is_method(value: object) -> bool:
    return isinstance(value, str) and TOKEN.fullmatch(value) is not None and value == value.upper()


def _is_count(value: object, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= MAX_COUNT


class HttpConfig(msgspec.Struct, frozen=True):
    """All that the HTTP servers of a shard need to know. Times are in seconds, sizes in bytes.

    routes: of the options or the file; they go before those of the application.
    lifespan_queue: where the application's lifespan runs; None: in the first queue.
    root_path: is put in front of each path, of an application that a proxy serves below one.
    forwarded_allow_ips: whose proxy headers are believed: addresses and networks, separated by commas; `unix`: those who come
    over a Unix socket; `*`: all.
    proxy_protocol: whether connections of these begin with a header of the PROXY protocol.
    headers: added to each response. server_header, date_header: whether each response has them.
    ws_max_size: of a message. ws_max_queue: messages that have come and were not asked for; more are not read.
    ws_ping_interval: between two pings; 0: none. ws_ping_timeout: for the answer to one; 0: as long as it takes.
    http2: whether it is offered in TLS handshakes, where h2 is installed.
    limit_request_line: of the request line. limit_request_field_size: of one header. limit_request_fields: how many headers.
    incomplete_event_size: of the whole head.
    timeout_request_header: for the whole head. timeout_request_body: between two parts of a body that is asked for.
    timeout_keep_alive: between two requests. timeout_response: for a client that takes nothing of its response.
    limit_concurrency: requests and WebSockets of a shard; more are refused with 503.
    limit_max_requests: of a shard, after which it is replaced. limit_max_requests_jitter: up to so many more, by chance.
    threads: for functions that block, of each shard: anyio's limiter, the loop's executor, WSGI; None: their own defaults.
    """

    interface: Interface = "auto"
    lifespan: LifespanMode = "auto"
    lifespan_queue: str | None = None
    reset_contextvars: bool = False
    routes: tuple[Route, ...] = ()
    proxy_headers: bool = True
    forwarded_allow_ips: str = "127.0.0.1,::1"
    proxy_protocol: bool = False
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
    limit_max_requests: int | None = None
    limit_max_requests_jitter: int = 0
    threads: int | None = None
