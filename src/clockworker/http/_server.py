"""The HTTP server of one address: which target a request goes to, what its connections may take in time, and how they end.

Times. One look a second at all connections, and no timer for any: each says since which look it has been in its state. So a
limit is kept to a second, and never before its time.

The stop. From its beginning responses say that they are the last of their connection. What has reached the kernel is read
first; then a connection in which nothing is under way is closed once it has been idle for a moment, as those of streams are
(`_connections`), and the others are waited for. WebSockets are told to go away (1012).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from clockworker.http._backlog import Backlog
from clockworker.http._connection_cy import HttpConnection
from clockworker.http._head import DefaultHeaders
from clockworker.http._incoming_cy import Rules
from clockworker.http._request_cy import Request
from clockworker.http._states import BODY, HEAD, LINGERING
from clockworker.http._targets_cy import Target, Targets
from clockworker.shards.config._http import HttpConfig
from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.worker._connections import FIRST_S, IDLE_S, Connection, Connections
from clockworker.shards.worker._socket_info import unread

if TYPE_CHECKING:
    from clockworker.http._http2 import Http2Connection

Either: TypeAlias = "HttpConnection | Http2Connection"

log = logging.getLogger("clockworker.http")

LOOK_S = 1.0  # between two looks at the time
DONE_LOOK_S = 0.01  # between two looks at whether requests' tasks are left, at the stop
LINGER_S = 2.0  # for a client that is still sending what nobody reads


class Table(Protocol):
    """Which route is a request's."""

    def find(self, method: str, path: str, host: str) -> int:
        """Its index; -1: none."""

    @property
    def uses_host(self) -> bool:
        """Whether any of them is for one host only."""


class HttpServer:
    """app: an ASGI 3 application. state: of its lifespan, copied for each request. targets: one for each route of the table,
    and one more for the requests that none is about. trusts: whether what a client says of its own clients is believed; None:
    of none. access_log: told of each request; None: nobody wants to know. websockets: what makes one of a handshake. looks: is
    called at each look at the time. is_busy: whether any task is runnable.

    look_s: seconds between two looks at the time, each a tick of the rules.
    """

    logs_connections = False  # but requests

    def __init__(
        self,
        app: Callable[..., Any],
        config: HttpConfig,
        *,
        state: dict[str, Any],
        table: Table,
        targets: Sequence[Target],
        proxies: Any = None,
        access_log: Any = None,
        websockets: Callable[[Any, Request, HttpServer], Any] | None = None,
        looks: Callable[[], None] | None = None,
        is_busy: Callable[[], bool] = bool,
    ) -> None:
        self.backlog = Backlog(is_busy)
        self.app = app
        self.config = config
        self.state = state
        self.targets = list(targets)
        self.access_log = access_log
        believes = proxies is not None and config.proxy_headers
        self.trusts: Callable[[str | None], bool] | None = proxies.trusts if believes else None
        self.connections: Connections  # set before the first is accepted
        headers = DefaultHeaders(config.headers, server=config.server_header, date=config.date_header)
        found = Targets(table, self.targets, config.limit_concurrency)
        self.rules = Rules(config, headers, app, state, found)
        self.factory: Callable[[], Any] = partial(HttpConnection, self, self.rules)
        self._proxies = proxies
        self._websockets = websockets
        self._looks = looks
        self._complaints = Limiter()
        self.speaks_websockets = websockets is not None
        self._protocols: set[Either] = set()
        self._unsent: dict[Either, tuple[int, int]] = {}
        self._look: asyncio.TimerHandle | None = None
        times = [
            config.timeout_request_header,
            config.timeout_request_body,
            config.timeout_keep_alive,
            config.timeout_response,
        ]
        of_pings = config.ws_ping_interval, config.ws_ping_timeout
        self.look_s = min(LOOK_S, *(time / 4 for time in (*times, *of_pings) if time > 0))
        self._ticks = [time / self.look_s if time > 0 else float("inf") for time in (*times, LINGER_S)]

    # What connections call.

    def take_over(self, first: HttpConnection) -> None:
        """Its client has chosen HTTP/2 in the handshake."""
        from clockworker.http._http2 import Http2Connection

        first.transport.set_protocol(Http2Connection(self, first))

    def protocol(self, connection: Connection) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self.factory()
        return protocol

    def opened(self, protocol: Either) -> None:
        self._protocols.add(protocol)
        if self._look is None:
            self.rules.refresh()
            self._look_later()

    def closed(self, protocol: Either) -> None:
        self._protocols.discard(protocol)
        self._unsent.pop(protocol, None)

    def websocket(self, protocol: HttpConnection, request: Request) -> Any:
        """A handshake's head is complete."""
        assert self._websockets is not None
        websocket = self._websockets(protocol, request, self)
        targets = self.rules.targets
        target = targets.find("WEBSOCKET", request.path, request.headers)
        turn = _Turn(websocket, protocol, request, target, self.access_log)
        if targets.are_full():
            turn.refuse(503)
        elif turn.target.admit(turn):
            turn.run()
        return None if protocol.closing else websocket

    def trust(self, protocol: Either, request: Request) -> None:
        """Take the word of a proxy for who its client is."""
        client = protocol.client
        if self._proxies.trusts(client[0] if client is not None else None):
            scope = request.scope
            scope["client"], scope["scheme"] = self._proxies.apply(request.headers, client, protocol.scheme)

    def expects_proxy(self, protocol: HttpConnection) -> bool:
        """Whether its client is a proxy that speaks the PROXY protocol."""
        if not self.config.proxy_protocol:
            return False
        client = protocol.client
        return bool(self._proxies.trusts(client[0] if client is not None else None))

    def no_proxy_header(self, protocol: HttpConnection, error: Exception) -> None:
        """A proxy was to send one."""
        if (unsaid := self._complaints.may_say(time.monotonic())) is not None:
            who = protocol.client[0] if protocol.client else "a Unix socket"
            log.warning("no header of the PROXY protocol came from %s: %s%s", who, error, more(unsaid))

    def refused(self, status: int) -> None:
        """What was no request, or came too slowly."""
        self.targets[-1].count(status, 0)

    def failed(self, message: str, error: BaseException | None) -> None:
        """The application has raised, or broken its protocol."""
        self.connections.failed(message, RuntimeError(message) if error is None else error)

    # Time.

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(self.look_s, self._look_at_all)

    def _look_at_all(self) -> None:
        self._look = None
        self.rules.refresh()
        tick = self.rules.tick
        for protocol in [*self._protocols]:
            self._look_at(protocol, tick)
        if self._looks is not None:
            self._looks()
        if self._protocols:
            self._look_later()

    def _look_at(self, protocol: Either, tick: int) -> None:
        if protocol.websocket is not None:
            protocol.websocket.look()
            return
        if isinstance(protocol, HttpConnection):
            if self._is_late(protocol, tick):
                return
        else:
            protocol.look(tick, *self._ticks[:4])
        transport = protocol.transport
        size = transport.get_write_buffer_size()
        if not size:
            self._unsent.pop(protocol, None)
            return
        before, since = self._unsent.get(protocol, (0, tick))
        if not before or size < before:
            since = tick
        elif tick - since > self._ticks[3]:
            transport.abort()
            return
        self._unsent[protocol] = size, since

    def _is_late(self, protocol: HttpConnection, tick: int) -> bool:
        """Whether its client was, so that the connection has been cut."""
        header, body, keep_alive, _, linger = self._ticks
        age = tick - protocol.since
        state, current = protocol.state, protocol.current
        if state == LINGERING:
            if age > linger and not protocol.transport.get_write_buffer_size():
                protocol.transport.abort()
                return True
        elif protocol.closing:
            pass
        elif current is not None:
            if state == BODY and current.asked and current is protocol.parsing and age > body:
                protocol.time_out(0)
                return True
        elif state == HEAD:
            if age > header:
                protocol.time_out(408)
        elif age > (keep_alive if protocol.requests else header):
            protocol.end_idle()
        return False

    # The stop.

    def settle(self, connection: Connection, now: float) -> bool:
        if not self.rules.stopping:
            self.stop()
        transport = connection.transport
        if transport is None:
            return False  # being opened
        protocol: Any = transport.get_protocol()
        if transport.is_closing() or protocol not in self._protocols:
            return True
        if (unread(connection) or connection.is_receiving()) and transport.is_reading():
            connection.idle_since = None
            return False
        if protocol.current is not None or protocol.websocket is not None:
            return True
        return self._end_if_quiet(connection, protocol, now)

    def end_if_idle(self, connection: Connection, now: float) -> None:
        transport = connection.transport
        if transport is None or transport.is_closing():
            return
        protocol: Any = transport.get_protocol()
        if protocol not in self._protocols:
            return
        if unread(connection) or connection.is_receiving():
            connection.idle_since = None
            return
        if protocol.is_busy:
            if not isinstance(protocol, HttpConnection):
                protocol.refuse_more()
            connection.idle_since = None
            return
        self._end_if_quiet(connection, protocol, now)

    def _end_if_quiet(self, connection: Connection, protocol: Either, now: float) -> bool:
        """Returns whether it has been ended."""
        if protocol.is_busy:
            connection.idle_since = None
            return False
        if not protocol.requests and now - connection.begun_at < FIRST_S:
            return False
        if connection.idle_since is None:
            connection.idle_since = now
        if now - connection.idle_since < IDLE_S:
            return False
        protocol.end_idle()
        return True

    async def wait_done(self) -> None:
        """Return when no request's task is left. What one does behind its response holds up no connection, but the stop."""
        while any(target.running for target in self.targets):  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(DONE_LOOK_S)

    def log_cut(self) -> None:
        """The grace is over."""
        if running := sum(target.running for target in self.targets):
            log.warning("%d requests are cut, whose tasks have not ended", running)

    def stop(self) -> None:
        """From now on each response is the last of its connection."""
        self.rules.stopping = True
        for protocol in [*self._protocols]:
            if not isinstance(protocol, HttpConnection):
                protocol.shut_down()
            elif protocol.websocket is not None:
                protocol.websocket.shut_down()


class _Turn:
    """A WebSocket, whose turn comes as that of a request does."""

    def __init__(
        self, websocket: Any, protocol: HttpConnection, request: Request, target: Target, access_log: Any
    ) -> None:
        self.target = target
        self._websocket = websocket
        self._protocol = protocol
        self._request = request
        self._access_log = access_log
        self._began_ns = time.monotonic_ns()
        request.target = target

    def run(self) -> None:
        self.target.spawn(self._run(), self._request.scope, self._request.path)

    def refuse(self, status: int) -> None:
        self._protocol.refuse_handshake(status)
        self._count(status, 0)

    async def _run(self) -> None:
        self.target.websockets += 1
        try:
            await self._websocket.run()
        finally:
            self.target.websockets -= 1
            self._count(self._websocket.status, self._websocket.sent)
            self.target.ended()

    def _count(self, status: int, sent: int) -> None:
        """It is over. How long it was open says nothing of how long requests take."""
        self.target.count(status, 0)
        if self._access_log is not None:
            self._access_log.write(self._request, status, sent, time.monotonic_ns() - self._began_ns)
