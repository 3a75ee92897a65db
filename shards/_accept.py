"""How a shard comes by its connections.

By the loop's own servers (`LoopServers`), as a rule. libuv accepts one connection a turn of the loop, and while the executor
is busy a turn takes half a millisecond: that alone would cap a shard at 2,000 connections a second. So the callback that
makes a connection's protocol takes more of those that wait, if anything is runnable; else the next turn comes at once, and
looking for more would cost a system call for each connection. Rejected: several servers on copies of a socket, which is as
fast when many wait, but wakes all of them for each connection; and accepting everything here, which costs a short connection
8 % more than the loop's server does.

By an `Acceptor` where the loop's servers will not do: with a limit on open connections, or where the supervisor accepts and
hands connections over. Either way somebody wants to know how many are open. That the socket itself tells: a protocol may
have no room for a wrapper (`__slots__`), and may give its transport to another (`set_protocol`). At the limit nothing is
refused. The shard takes no more, and connections wait where they are: in the listening sockets' queues, as long as the
backlog allows, or with the supervisor, which gives them to another shard.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from clockworker.executor import Executor, QueueHandle
from clockworker.shards._limiter import Limiter, more

log = logging.getLogger("clockworker.shard")

_AT_ONCE = 64  # connections taken in one go, so that nothing else waits long
_MORE = 16  # those taken beside one that the loop has accepted, while other tasks wait
_NO_DESCRIPTORS_S = 0.5

# How long the queues may take to become empty. Some never do: of sockets that others hold and go on with.
_EMPTY_S = 5.0

ProtocolFactory: TypeAlias = Callable[[], asyncio.BaseProtocol]


class Accepting(Protocol):
    """What brings a shard its connections."""

    async def add(self, listening: Sequence[socket.socket]) -> None:
        """Accept from these, too."""

    def remove(self, listening: Sequence[socket.socket]) -> None:
        """Accept from these no longer. What waits there is left to others who hold them."""

    async def close(self, *, take_all: bool, starved: Callable[[], None]) -> None:
        """Accept no more, and return when what has been accepted is connected. take_all: but first all that waits. starved:
        told if that takes longer, because descriptors for it have to become free."""


class _Connector:
    """Makes connections of sockets that have been accepted outside of the loop."""

    def __init__(self, factory: ProtocolFactory, queue: QueueHandle) -> None:
        self._loop = asyncio.get_running_loop()
        self._factory = factory
        self._queue = queue
        self._connecting: set[asyncio.Task[None]] = set()

    def connect(self, accepted: socket.socket) -> None:
        # A task of the queue: the protocol's callbacks run in the context of whoever made the connection.
        task = self._queue.spawn(self._connect(accepted), name="connect").task
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def wait_connected(self) -> None:
        await asyncio.gather(*self._connecting, return_exceptions=True)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, accepted)
        except BaseException:
            accepted.close()
            raise


class LoopServers:
    """The loop's servers on a shard's listening sockets. `backlog` is set again: `create_server` always does, to 100 unless
    it is told."""

    def __init__(self, factory: ProtocolFactory, queue: QueueHandle, executor: Executor, backlog: int) -> None:
        self._factory = factory
        self._queue = queue
        self._executor = executor
        self._backlog = backlog
        self._connector = _Connector(factory, queue)
        self._servers: dict[socket.socket, asyncio.AbstractServer] = {}
        self._complaints = Limiter()

    async def add(self, listening: Sequence[socket.socket]) -> None:
        # uvloop runs a server's callbacks in the context of the task that made it: hence a task of the queue.
        await self._queue.spawn(self._create(listening), name="listen")

    def remove(self, listening: Sequence[socket.socket]) -> None:
        for sock in listening:
            if (server := self._servers.pop(sock, None)) is not None:
                server.close()

    async def close(self, *, take_all: bool, starved: Callable[[], None]) -> None:
        if take_all:
            await self._empty_queues()
        self.remove([*self._servers])
        await self._connector.wait_connected()

    async def _create(self, listening: Sequence[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for sock in listening:
            create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
            self._servers[sock] = await create(self._taking_more(sock), sock=sock, backlog=self._backlog)

    def _taking_more(self, sock: socket.socket) -> ProtocolFactory:
        executor, factory = self._executor, self._factory

        def protocol() -> asyncio.BaseProtocol:
            if executor.is_busy:
                self._take(sock, _MORE)
            self._look_for_descriptors(sock)
            return factory()

        return protocol

    def _look_for_descriptors(self, sock: socket.socket) -> None:
        """libuv closes connections that it has no descriptor for, and says nothing."""
        try:
            os.close(os.dup(sock.fileno()))
        except OSError as error:
            unsaid = self._complaints.may_say(asyncio.get_running_loop().time())
            if unsaid is not None:
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                log.error(
                    "no descriptor is left (%s, of %d), further connections are closed; raise the limit (ulimit -n), or "
                    "have them wait (--max-connections)%s",
                    error.strerror,
                    limit,
                    more(unsaid),
                )

    def _take(self, sock: socket.socket, most: int) -> None:
        for _ in range(most):
            try:
                accepted = sock.accept()[0]
            except OSError as error:
                if error.errno == errno.ECONNABORTED:  # it left while it waited
                    continue
                return  # there is none, or no descriptor for it
            accepted.setblocking(False)
            self._connector.connect(accepted)

    async def _empty_queues(self) -> None:
        waiting = select.poll()
        for sock in self._servers:
            waiting.register(sock, select.POLLIN)
        deadline = time.monotonic() + _EMPTY_S
        while waiting.poll(0) and time.monotonic() < deadline:  # no event tells of it
            for sock in self._servers:
                self._take(sock, _AT_ONCE)
            await asyncio.sleep(0)


def accept(sock: socket.socket) -> socket.socket:
    """The next connection of a listening socket."""
    return sock.accept()[0]


class _Connection(socket.socket):
    """Takes over a socket, and tells once when it is given up: uvloop detaches it then, asyncio closes it."""

    __slots__ = ("_lost",)

    def __init__(self, taken: socket.socket, lost: Callable[[], None]) -> None:
        super().__init__(taken.family, taken.type, taken.proto, fileno=taken.detach())
        self._lost: Callable[[], None] | None = lost
        self.setblocking(False)

    def detach(self) -> int:
        self._tell()
        return super().detach()

    def close(self) -> None:
        self._tell()
        super().close()

    def _tell(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()


class Acceptor:
    """Opens a connection of `factory`'s protocols for all that `sources` bring, up to `limit` at once: `accept` from listening
    sockets, and `receive` from the supervisor's line.

    changed: told how many connections have been taken and how many are open, whenever that changes.
    """

    def __init__(
        self,
        sources: dict[socket.socket, Callable[[socket.socket], socket.socket]],
        factory: ProtocolFactory,
        queue: QueueHandle,
        limit: int | None,
        changed: Callable[[int, int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sources = sources
        self._connector = _Connector(factory, queue)
        self._limit = limit
        self._changed = changed
        self._taken = 0
        self._open = 0
        self._accepting = False
        self._closing = False
        self._emptied = asyncio.Event()
        self._complaints = Limiter()
        self._accept()

    async def add(self, listening: Sequence[socket.socket]) -> None:
        for sock in listening:
            self._sources[sock] = accept
            if self._accepting:
                self._loop.add_reader(sock.fileno(), self._take, sock)

    def remove(self, listening: Sequence[socket.socket]) -> None:
        for sock in listening:
            if self._sources.pop(sock, None) is not None:
                self._loop.remove_reader(sock.fileno())

    def lift_limit(self) -> None:
        self._limit = None
        self._accept()

    async def close(self, *, take_all: bool, starved: Callable[[], None]) -> None:
        """Takes all that is there in any case: what is on the supervisor's line is ours already."""
        self._limit = None
        self._closing = True
        for sock in [*self._sources]:
            while self._take(sock):
                pass
        if take_all and self._sources:
            starved()
            await self._emptied.wait()
        self._pause()
        self._sources.clear()
        await self._connector.wait_connected()

    def _accept(self) -> None:
        if not self._accepting:
            self._accepting = True
            for sock in self._sources:
                self._loop.add_reader(sock.fileno(), self._take, sock)

    def _pause(self) -> None:
        self._accepting = False
        for sock in self._sources:
            self._loop.remove_reader(sock.fileno())

    def _take(self, sock: socket.socket) -> bool:
        """Take some of what is there. Returns whether there may be more that can be taken now."""
        for _ in range(_AT_ONCE):
            if self._limit is not None and self._open >= self._limit:
                self._pause()
                return False
            if not self._take_one(sock):
                return False
        return True

    def _take_one(self, sock: socket.socket) -> bool:
        try:
            taken = self._sources[sock](sock)
        except OSError as error:
            if error.errno == errno.ECONNABORTED:  # it left while it waited
                return True
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._complain(error)
                self._pause()
                self._loop.call_later(_NO_DESCRIPTORS_S, self._accept)
            elif self._closing:
                self._empty(sock)
            return False
        self._taken += 1
        self._open += 1
        self._changed(self._taken, self._open)
        self._connector.connect(_Connection(taken, self._lost))
        return True

    def _complain(self, error: OSError) -> None:
        if (unsaid := self._complaints.may_say(self._loop.time())) is not None:
            log.error("no connection can be accepted: %s%s", error.strerror, more(unsaid))

    def _empty(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        del self._sources[sock]
        if not self._sources:
            self._emptied.set()

    def _lost(self) -> None:
        self._open -= 1
        self._changed(self._taken, self._open)
        self._accept()
