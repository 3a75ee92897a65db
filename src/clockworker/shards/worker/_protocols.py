"""A server of protocols that the application brings, by their factory: aiohttp's, or its own.

Of a protocol's insides nothing is known. Whether its connection is idle, its socket tells: TCP keeps count of segments with
data in both directions, and of when the last one came and went. A client that has sent something since the last answer waits
for one; one that has not is idle. So nothing is done at each event, and nobody looks before the stop. The times are the
kernel's ticks, 1 to 10 ms: an answer within the same tick as what came last is taken for the answer to it.

That is a guess. Hence `stop`, a function that asks a protocol to close if it has nothing to do; for aiohttp's there is one. It
is called when the connection has looked idle for a moment, again and again, and decides. Without it a connection that looks
idle is the application's to close, as long as `main` runs; after that it is closed when it has been quiet for a longer time.

With TLS the socket does not tell; the connection knows by itself when something came and went (`_tls`).

Unix sockets have no such counts. There the guess is that a connection in which nothing waits to be read is idle, for a
`stop` that knows better. Without one they are waited for.

Rejected: an end of file, by which handlers of streams learn of the stop. asyncio closes the transport of a protocol that
does not say that it wants to go on, and few do, so it would cut open requests.
"""

from __future__ import annotations

import asyncio
import enum
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from clockworker.shards.worker._connections import FIRST_S, IDLE_S, Connection, Connections
from clockworker.shards.worker._socket_info import SocketInfo, unread

ProtocolFactory: TypeAlias = Callable[[], asyncio.BaseProtocol]
Stop: TypeAlias = Callable[[Any], object]

BEGUN_S = 0.25  # what was read so long ago has been begun
QUIET_S = (
    5.0  # idle for so long after the last answer, a connection is closed even if no `stop` can say that it is idle
)


class Look(enum.Enum):
    """What a connection looks like from its socket."""

    NEW = enum.auto()  # nothing has come
    ASKED = enum.auto()  # something has come since the last answer
    IDLE = enum.auto()
    UNKNOWN = enum.auto()


class ProtocolServer:
    """Makes the protocols for one call of `Shard.create_server`.

    stop: asks one of the protocols to close if it has nothing to do. None: there is none, but for aiohttp's.
    """

    logs_connections = True

    def __init__(self, factory: ProtocolFactory, stop: Stop | None) -> None:
        self.factory = factory
        self._stop = stop
        self.connections: Connections  # its own; set before the first is accepted

    def protocol(self, connection: Connection) -> asyncio.BaseProtocol:
        return self.factory()

    def settle(self, connection: Connection, now: float) -> bool:
        transport = connection.transport
        if transport is None:
            return False  # being opened
        if connection.asked_at is not None or transport.is_closing():
            return True
        if (unread(connection) or connection.is_receiving()) and transport.is_reading():
            connection.idle_since = None
            return False
        look, quiet = look_at(connection)
        if look is Look.NEW:
            return now - connection.begun_at >= FIRST_S
        if look is Look.ASKED:
            return quiet >= BEGUN_S
        stop = self._stop_of(transport)
        if stop is None:
            return look is Look.IDLE or now - connection.begun_at >= FIRST_S
        return self._ask(connection, stop, look, quiet, now)

    def end_if_idle(self, connection: Connection, now: float) -> None:
        transport = connection.transport
        if transport is None or transport.is_closing():
            return
        arriving = unread(connection) or connection.is_receiving()
        if (arriving and transport.is_reading()) or connection.unsent():
            connection.idle_since = None
            return
        look, quiet = look_at(connection)
        stop = self._stop_of(transport)
        if look is Look.NEW:
            if now - connection.begun_at >= FIRST_S:
                transport.close()
        elif stop is not None:
            if look is not Look.ASKED:
                self._ask(connection, stop, look, quiet, now)
        elif look is Look.IDLE and quiet >= QUIET_S:
            transport.close()

    def _ask(self, connection: Connection, stop: Callable[[], object], look: Look, quiet: float, now: float) -> bool:
        """Ask it to close if it has been idle for a moment. Returns whether it has been asked."""
        if look is Look.UNKNOWN:
            if connection.idle_since is None:
                connection.idle_since = now
            quiet = now - connection.idle_since
        if quiet < IDLE_S or (connection.asked_at is not None and now - connection.asked_at < IDLE_S):
            return False
        connection.asked_at = now
        try:
            stop()
        except Exception as error:
            self.connections.failed("create_server's stop raised", error)
        return True

    def _stop_of(self, transport: asyncio.Transport) -> Callable[[], object] | None:
        protocol = transport.get_protocol()
        if self._stop is not None:
            return partial(self._stop, protocol)
        aiohttp = sys.modules.get("aiohttp.web_protocol")
        if aiohttp is not None and isinstance(protocol, aiohttp.RequestHandler):
            return partial(_stop_aiohttp, protocol)
        return None


def _stop_aiohttp(protocol: Any) -> None:
    """Of its own functions `close()` leaves an idle connection open and deaf until its `shutdown()`, and `force_close()` cuts
    requests; which is right, only a private attribute tells. If that is missing, the connection is left to the application."""
    if getattr(protocol, "_current_request", protocol) is None and not getattr(protocol, "_messages", protocol):
        protocol.force_close()


def look_at(connection: Connection) -> tuple[Look, float]:
    """And for how many seconds nothing has come or gone."""
    if (passed := connection.passed()) is not None:
        came_at, went_at = passed
        if came_at is not None and (went_at is None or came_at > went_at):
            return Look.ASKED, time.monotonic() - came_at
        return (Look.NEW, 0.0) if went_at is None else (Look.IDLE, time.monotonic() - went_at)
    info = None if connection.transport is None else SocketInfo.of(connection)
    if info is None:
        return Look.UNKNOWN, 0.0
    if not info.came and not info.went:
        return Look.NEW, 0.0
    if info.came and (not info.went or info.received_s < info.sent_s):
        return Look.ASKED, info.received_s
    return Look.IDLE, info.sent_s
