"""The servers of a shard, one for each bind, as the shard holds them: where they accept from, what they may hold open together,
and how they end.

Which server a connection is for is known from where it came: each listening socket is of one bind, and so is each line on which
the supervisor hands connections over. A server that is made later gets the sockets then; one whose bind nobody serves leaves
its connections where they are, and the supervisor has another shard accept them (`_lending`, `_dispatch`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from ssl import SSLContext
from typing import Literal

import msgspec

from clockworker._errors import UsageError
from clockworker.executor import Executor, QueueHandle
from clockworker.shards.machine._sockets import HANDSHAKE_S
from clockworker.shards.worker._accept import Acceptor
from clockworker.shards.worker._accepted_cy import Places
from clockworker.shards.worker._connections import LOOK_S, Connection, Connections, Server
from clockworker.shards.worker._hidden import all_of
from clockworker.shards.worker._tls import Handshakes, prepare


class Line(msgspec.Struct, frozen=True):
    """Where the supervisor hands over connections of one bind, and who is told how many have been taken and are open."""

    sock: socket.socket
    changed: Callable[[int, int], None]


class Servers:
    """binds: those that there are. lines: of those whose connections are handed over. limit: connections that all servers
    without a limit of their own may have open together. announce_serving: told of each server that is made when the shard is
    ready already, with its own limit. ssl: for servers that do not say otherwise."""

    def __init__(
        self,
        executor: Executor,
        binds: Sequence[str],
        lines: Mapping[str, Line],
        *,
        limit: int | None,
        access_log: bool,
        announce_serving: Callable[[str, int | None], None],
        ssl: SSLContext | None = None,
    ) -> None:
        self.when_failed: Callable[[], None] = lambda: None  # told when a handler has raised
        self._executor = executor
        self._binds = binds
        self._lines = lines
        self._places = Places(limit)
        self._access_log = access_log
        self._announce_serving = announce_serving
        self._ssl = ssl
        self._announced = False
        self._acceptors: dict[str, Acceptor] = {}
        self._connections: dict[str, Connections] = {}
        self._limits: dict[str, int | None] = {}
        self._listening: dict[tuple[str, int], list[socket.socket]] = {}  # by their bind and the shard whose they are

    def announce(self) -> dict[str, int | None]:
        """The binds that have a server, and the limits that those have of their own. Those of later ones are told."""
        self._announced = True
        return dict(self._limits)

    def check_free(self, bind: str | None) -> str:
        """The bind that is meant, which is to have a server. Raises `UsageError` if it is none, or has one."""
        name = bind or ""
        if name not in self._binds:
            raise UsageError(_unknown(bind, self._binds))
        if name in self._acceptors:
            which = f"the addresses named {name!r} are" if name else "this shard's listening sockets are"
            raise UsageError(
                f'{which} served already; for another server name its addresses, --bind NAME=HOST:PORT and bind="NAME"'
            )
        return name

    def handshakes(self, ssl: SSLContext | Literal[False] | None) -> Handshakes | None:
        """For a server with this argument. Raises `UsageError` if it is none that could be."""
        given = self._ssl if ssl is None else ssl or None
        context = None if given is None else prepare(given)
        return None if context is None else Handshakes(context)

    def serve(
        self,
        server: Server,
        queue: QueueHandle,
        bind: str,
        *,
        limit: int | None,
        handshakes: Handshakes | None,
    ) -> None:
        """From now on this server has the connections of the bind, which is free. limit: of its own; None: the common one."""
        connections = server.connections = Connections(
            server,
            queue,
            places=self._places if limit is None else Places(limit),
            kind=Connection if handshakes is None else handshakes.connection,
            access_log=self._access_log and server.logs_connections,
        )
        connections.when_failed = self._failed
        acceptor = Acceptor(connections, self._executor)
        self._connections[bind], self._acceptors[bind], self._limits[bind] = connections, acceptor, limit
        if (line := self._lines.get(bind)) is not None:
            connections.changed = line.changed
            acceptor.add_line(line.sock)
        if self._announced:
            self._announce_serving(bind, limit)

    def accept_from(self, bind: str, shard: int, listening: list[socket.socket]) -> None:
        """Also from these sockets of this shard."""
        self._listening.setdefault((bind, shard), []).extend(listening)
        self._acceptors[bind].add(listening)

    def cease_from(self, bind: str, shard: int) -> None:
        listening = self._listening.pop((bind, shard), [])
        if bind in self._acceptors:
            self._acceptors[bind].remove(listening)
        close_all(listening)

    def serves(self, bind: str) -> bool:
        return bind in self._acceptors

    def lift_limit(self) -> None:
        for acceptor in self._acceptors.values():
            acceptor.lift_limit()

    async def stop_accepting(
        self, for_good: bool, orphaned: Sequence[tuple[str, socket.socket]], *, starved: Callable[[], None]
    ) -> None:
        """Accept no more, once what waits has been accepted if that is for good, and return when all that clients have sent has
        been read. orphaned: sockets of shards that are not there, with their binds. starved: told if that takes longer."""
        for bind, sock in orphaned:
            if bind in self._acceptors:
                self._acceptors[bind].add([sock])
        if for_good:
            await asyncio.sleep(HANDSHAKE_S)

        async def stop(bind: str, acceptor: Acceptor) -> None:
            last = [sock for of_bind, sock in orphaned if of_bind == bind] if for_good else []
            for (of_bind, _), sockets in self._listening.items():
                if of_bind == bind and for_good:
                    last.extend(sockets)
            if bind in self._lines:
                last.append(self._lines[bind].sock)  # what the supervisor has handed over is ours already
            await acceptor.close(last, starved=starved)
            await self._connections[bind].settle()

        await all_of(stop(bind, acceptor) for bind, acceptor in self._acceptors.items())
        for listening in self._listening.values():
            close_all(listening)
        close_all(sock for _, sock in orphaned)
        self._listening.clear()

    async def drain(self, accepting: asyncio.Task[None] | None) -> None:
        """Returns when no connection is open. accepting: until it is done, there may be more of them."""
        while True:
            await all_of(connections.drain() for connections in self._connections.values())
            if accepting is None or accepting.done():
                return
            await asyncio.wait([accepting], timeout=LOOK_S)

    async def drain_one(self, bind: str, accepting: asyncio.Task[None] | None) -> None:
        """The same of one bind."""
        while (connections := self._connections.get(bind)) is not None:
            await connections.drain()
            if accepting is None or accepting.done():
                return
            await asyncio.wait([accepting], timeout=LOOK_S)

    def log_cut(self) -> None:
        for connections in self._connections.values():
            connections.log_cut()

    def loop_error(self, error: BaseException | None, transport: object) -> None:
        for connections in self._connections.values():
            connections.loop_error(error, transport)

    def counts(self) -> tuple[int, int, int]:
        """How many connections were accepted and are open, and how many handlers have raised."""
        every = self._connections.values()
        return sum(c.accepted for c in every), sum(c.open for c in every), sum(c.errors for c in every)

    def _failed(self) -> None:
        self.when_failed()


def close_all(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _unknown(bind: str | None, binds: Sequence[str]) -> str:
    named = [repr(name) for name in binds if name]
    if not binds:
        return (
            "there is nothing to serve: no address is listened on (--bind none, or bind = [] in the file); give one with "
            "--bind, or make no server"
        )
    if bind:
        there_are = f"only {', '.join(named)}" if named else "all addresses are without a name"
        return f"no address is named {bind!r}, {there_are}; give one with --bind {bind}=HOST:PORT, or in the file"
    which = " or ".join(f"bind={name}" for name in named)
    return f"no address is without a name; say which is served, {which}, or give one with --bind HOST:PORT"
