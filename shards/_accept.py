"""How a shard comes by its connections: it accepts them itself, from its listening sockets or from the supervisor's line.

A loop's own servers would cost no less, and could not do what is needed. They count nothing and know no limit; a connection's
callbacks run in the one context of the server, so that a context variable set for one client is seen by the next; libuv
closes what it has no descriptor for without a word; and it accepts one connection a turn, which alone would cap a shard at 2,000
a second while the executor is busy and a turn takes half a millisecond. Here one is accepted a turn too if nothing is
runnable, since the next turn comes at once, and looking for more would cost a system call for each connection; else as many
as wait.

Each connection has a context of its own, a copy of the one in which the server was made, in the server's queue. The
coroutine that opens it (`connect_accepted_socket`) waits once, for `connection_made`; it is driven here, without a task.

At the limit nothing is refused. The shard takes no more, and connections wait where they are: in the listening sockets'
queues, as long as the backlog allows, or with the supervisor, which gives them to another shard.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeAlias

from clockworker.executor import Executor
from clockworker.shards._connections import Connection, Connections
from clockworker.shards._limiter import Limiter, more

log = logging.getLogger("clockworker.shard")

_AT_ONCE = 64  # connections taken in one go, so that nothing else waits long
_NO_DESCRIPTORS_S = 0.5

# How long the queues may take to become empty. Some never do: of sockets that others hold and go on with.
_EMPTY_S = 5.0

# The next connection of a source. Raises `BlockingIOError` if there is none, another `OSError` if it can't be taken.
Take: TypeAlias = Callable[[socket.socket], socket.socket]


def accept(sock: socket.socket) -> socket.socket:
    """The next connection of a listening socket."""
    return sock.accept()[0]


class Acceptor:
    """Opens what `sources` bring, up to the connections' limit at once: `accept` from listening sockets, and `receive` from the
    supervisor's line. The sources stay open. Begins when it is made."""

    def __init__(self, sources: dict[socket.socket, Take], connections: Connections, executor: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self._sources: dict[socket.socket, Take] = {}
        self._connections = connections
        self._executor = executor
        self._context = connections.queue.context()
        self._opening: set[_Opening] = set()
        self._paused = False
        self._closed = False
        self._complaints = Limiter()
        connections.when_room = self._go_on
        self.add(sources)

    def add(self, sources: dict[socket.socket, Take]) -> None:
        """Accept from these, too."""
        self._sources.update(sources)
        if not self._paused:
            self._watch(sources)

    def remove(self, sources: Iterable[socket.socket]) -> None:
        """Accept from these no more."""
        for sock in sources:
            if self._sources.pop(sock, None) is not None:
                self._loop.remove_reader(sock.fileno())

    def lift_limit(self) -> None:
        self._connections.limit = None
        self._go_on()

    async def close(self, take_all: Iterable[socket.socket], *, starved: Callable[[], None]) -> None:
        """Accept no more, and return when what has been accepted is connected. take_all: but first all that waits at these.
        starved: told if that takes longer, because descriptors for it have to become free."""
        self._connections.limit = None
        last = [sock for sock in take_all if sock in self._sources]
        self.remove([sock for sock in self._sources if sock not in last])
        deadline = time.monotonic() + _EMPTY_S
        while last and time.monotonic() < deadline:
            result = self._take(last[-1], _AT_ONCE)
            if result is None:
                last.pop()
            elif not result:
                starved()
                deadline = float("inf")
                await self._connections.wait_for_an_end(_NO_DESCRIPTORS_S)
            else:
                await asyncio.sleep(0)
        self._closed = True
        self._pause()
        while self._opening:
            await asyncio.sleep(0)  # connection_made is called in the next turn of the loop

    def _watch(self, sources: Iterable[socket.socket]) -> None:
        for sock in sources:
            self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            for sock in self._sources:
                self._loop.remove_reader(sock.fileno())

    def _go_on(self) -> None:
        """There may be room again."""
        if self._paused and not self._closed and not self._connections.full:
            self._paused = False
            self._watch(self._sources)

    def _readable(self, sock: socket.socket) -> None:
        if self._connections.full:
            self._pause()
        elif self._take(sock, _AT_ONCE if self._executor.is_busy else 1) is False:
            self._pause()
            self._loop.call_later(_NO_DESCRIPTORS_S, self._go_on)

    def _take(self, sock: socket.socket, most: int) -> bool | None:
        """Take so many, at the most. Returns None if there are no more, and False if they can't be taken now."""
        take = self._sources[sock]
        for _ in range(most):
            if self._connections.full:
                self._pause()
                return True
            try:
                taken = take(sock)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._complain(error)
                    return False
                continue  # it left while it waited, or broke: the next one's turn
            self._open(self._connections.take(taken))
        return True

    def _open(self, connection: Connection) -> None:
        make = partial(self._connections.server.protocol, connection)
        opening = self._loop.connect_accepted_socket(make, connection)
        _Opening(opening, connection, self).begin(self._context.copy())

    def _complain(self, error: OSError) -> None:
        if (unsaid := self._complaints.may_say(self._loop.time())) is not None:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            log.error(
                "no connection can be accepted: %s (%d descriptors are allowed), they wait; raise the limit (ulimit -n), or "
                "have them wait for others to end (--max-connections)%s",
                error.strerror,
                limit,
                more(unsaid),
            )


class _Opening:
    """The coroutine that opens a connection, driven as a task would drive it."""

    __slots__ = ("_acceptor", "_connection", "_context", "_coroutine")

    def __init__(
        self, coroutine: Coroutine[Any, None, tuple[asyncio.Transport, object]], connection: Connection, acceptor: Acceptor
    ) -> None:
        self._coroutine = coroutine
        self._connection = connection
        self._acceptor = acceptor

    def begin(self, context: Any) -> None:
        self._context = context
        self._acceptor._opening.add(self)
        context.run(self._step)

    def _step(self, _: object = None) -> None:
        try:
            future = self._coroutine.send(None)
        except StopIteration as done:
            self._connection.transport = done.value[0]
        except Exception as error:
            self._connection.close()
            self._acceptor._connections.failed("a connection could not be opened", error)
        else:
            future._asyncio_future_blocking = False
            future.add_done_callback(self._step, context=self._context)
            return
        self._acceptor._opening.discard(self)
