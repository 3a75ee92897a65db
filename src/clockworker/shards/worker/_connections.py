"""The connections of a shard's server, whether it is one of streams or of a protocol that we know nothing of: how many there
are, up to how many, and how they end.

A connection is *open* from its accept until its transport has closed the socket, and its handler has returned if it has one. A
transport closes the socket after the last byte that was written has gone to the kernel and `connection_lost` has been called,
or when the connection has broken. One of uvloop then closes what it was made from, too; that is a `Connection`, which so
learns of it. Rejected: wrapping the protocol, which may have no room for it (`__slots__`), be compiled, be a
`BufferedProtocol`, or give its transport to another (`set_protocol`); and counting until a handler has returned only, when an
answer may still wait in the transport for a slow client.

The stop has two parts. *Settling* comes before `Shard.wait_stopped()` returns, and is short: what was accepted in the last
moment, and what was asked in the last moment, is read and begun, so that an application that closes its idle connections then
closes no others. *Draining* comes after `main` has returned, and takes as long as it takes: connections that are idle are
ended, the others are waited for. What is idle, and how one is ended, only the kind of server knows: `StreamServer`
(`_streams`) sees what each handler waits for, `ProtocolServer` (`_protocols`) has only the socket to look at.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from clockworker.executor import QueueHandle
from clockworker.shards.config._config import TcpAddress
from clockworker.shards.logs._log_limit import ErrorLimiter, more
from clockworker.shards.logs._logging import info_of_queue
from clockworker.shards.worker._accepted_cy import Accepted, Book, Maker, Places

log = logging.getLogger("clockworker.shard")
access_log = logging.getLogger("clockworker.access")

LOOK_S = 0.01  # between two looks at which connections are idle
IDLE_S = 0.05  # a connection that has been idle for so long may be ended
FIRST_S = 0.5  # a new client may take so long for its first bytes
SETTLE_S = 1.0  # settling takes no longer

_LOOK_DUTY = 10  # looking takes at most one part in so many of the time


class Server(Maker, Protocol):
    """A kind of server.

    connections: its own; set before the first is accepted. logs_connections: whether the access log has a line for each of
    them, and not for each request.
    """

    connections: Connections

    @property
    def logs_connections(self) -> bool: ...

    def settle(self, connection: Connection, now: float) -> bool:
        """Whether all that its client has sent until the stop has been read, and begun. May end the connection if it is
        idle."""

    def end_if_idle(self, connection: Connection, now: float) -> None:
        """The connection is to end when nothing is left to do in it: `main` has returned."""


class Connection(Accepted):
    """One connection."""

    __slots__ = ()

    @property
    def begun_at(self) -> float:
        """From when on its client can ask."""
        return self.accepted_at

    # What more there is to know of one that speaks TLS (`_tls`).

    def shakes_hands(self, now: float) -> bool:
        """Whether nobody can ask yet; one whose client does nothing about it is ended. For the stop."""
        return False

    def passed(self) -> tuple[float | None, float | None] | None:
        """When something last came and went, if that is known better than by its socket; None for never."""
        return None

    def is_receiving(self) -> bool:
        """Whether something has come that cannot be read yet."""
        return False

    def owns(self, transport: object) -> bool:
        return self.transport is transport

    def hasten(self, now: float) -> None:
        """If it is closed, and only waits for its client to say so too, it has waited long enough."""

    def unsent(self) -> int:
        """Bytes that wait in its transport."""
        transport = self.transport
        return 0 if transport is None else transport.get_write_buffer_size()


class Connections(Book):
    """Those of one server.

    places: for how many there is room. kind: makes each of the socket's family and descriptor. when_failed: told when an error
    has been counted.
    """

    server: Server
    _open: set[Connection]  # type: ignore[assignment]

    def __init__(
        self,
        server: Server,
        queue: QueueHandle,
        *,
        places: Places,
        kind: Callable[[Connections, int, int], Connection] = Connection,
        access_log: bool = False,
    ) -> None:
        super().__init__(server, kind, places)
        self.queue = queue
        self.errors = 0
        self.when_failed: Callable[[], None] | None = None
        self._access_log = self.is_told = access_log
        self._ended: asyncio.Event | None = None  # set when one has; only while somebody waits
        self._complaints = ErrorLimiter()

    @property
    def are_opening(self) -> bool:
        return any(connection.is_opening for connection in self._open)

    def began(self, connection: Connection) -> None:
        if self._access_log:
            connection.peer = _peer(connection)

    def ended(self, connection: Connection) -> None:
        if self._access_log:
            self._log_end(connection)
        if self._ended is not None:
            self._ended.set()

    def failed(self, what: str, error: BaseException) -> None:
        """The application's code has raised. The same error is logged at a limited rate: clients can cause it."""
        self.count_failure()
        if (unsaid := self._complaints.may_say(error, time.monotonic())) is not None:
            log.error("%s%s", what, more(unsaid), exc_info=error)

    def count_failure(self) -> None:
        self.errors += 1
        if self.when_failed is not None:
            self.when_failed()

    def loop_error(self, error: BaseException | None, transport: object) -> None:
        """The loop has caught an exception. Of a protocol's callback it tells the transport, and ends it; but not of
        `connection_made`, after which uvloop leaves it open and reads nothing."""
        if self._of(transport) is not None:
            self.count_failure()
            return
        trace = None if error is None else error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_code.co_name == "connection_made":
                for value in frame.f_locals.values():
                    if (connection := self._of(value)) is not None and connection.transport is not None:
                        self.count_failure()
                        connection.transport.abort()
                        return
            trace = trace.tb_next

    def _of(self, transport: object) -> Connection | None:
        """The connection that has this transport."""
        if transport is None:
            return None
        return next((connection for connection in self._open if connection.owns(transport)), None)

    async def settle(self) -> None:
        """Nothing is accepted any more. Returns when all that clients have sent has been read and begun, or soon."""
        deadline = time.monotonic() + SETTLE_S
        waiting: Iterable[Connection] = [*self._open]
        while True:
            now = time.monotonic()
            waiting = [
                c for c in waiting if c in self._open and (c.shakes_hands(now) or not self.server.settle(c, now))
            ]
            if not waiting or now >= deadline:
                return
            await self.wait_for_an_end(min(self._next_look(now), deadline - now))

    async def drain(self) -> None:
        """Returns when no connection is open. Ends by itself or not at all: limit the time outside."""
        while self._open:
            now = time.monotonic()
            for connection in [*self._open]:
                if not connection.shakes_hands(now):
                    self.server.end_if_idle(connection, now)
                    connection.hasten(now)
            await self.wait_for_an_end(self._next_look(now))

    async def wait_for_an_end(self, seconds: float) -> None:
        """Until a connection has ended, or for so long."""
        self._ended = asyncio.Event()
        self.is_told = True
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass
        finally:
            self._ended = None
            self.is_told = self._access_log

    def log_cut(self) -> None:
        """The grace is over."""
        if self._open:
            unsent = [size for connection in self._open if (size := connection.unsent())]
            log.warning(
                "%d connections are cut, %d of them with answers that their clients have not taken (%s bytes)",
                len(self._open),
                len(unsent),
                f"{sum(unsent):,}",
            )

    def _next_look(self, began: float) -> float:
        return max(LOOK_S, _LOOK_DUTY * (time.monotonic() - began))

    def _log_end(self, connection: Connection) -> None:
        seconds = time.monotonic() - connection.accepted_at
        queue = str(self.queue.key)
        if connection.received is None:
            info_of_queue(access_log, queue, "%s %s after %.3f s", connection.peer, connection.end, seconds)
        else:
            text = "%s %s after %.3f s, %d bytes received"
            info_of_queue(access_log, queue, text, connection.peer, connection.end, seconds, connection.received)


def _peer(connection: Connection) -> str:
    """The client's address, as it would be written for --bind; a Unix socket's client has none."""
    if connection.family == socket.AF_UNIX:
        return "unix"
    borrowed = socket.socket(connection.family, fileno=connection.fileno())
    try:
        host, port, *_ = borrowed.getpeername()
    except OSError:  # it has left already
        return "unknown"
    finally:
        borrowed.detach()
    return str(TcpAddress(host, port))
