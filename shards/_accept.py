"""How a shard comes by its connections: it accepts them itself, from its listening sockets or from the supervisor's line.

A loop's own servers cost less, and cannot do what is needed. They count nothing and know no limit; a connection's callbacks
run in the one context of the server, so that a context variable set for one client is seen by the next; libuv closes what
it has no descriptor for without a word; and it accepts one connection a turn, which alone would cap a shard at 2,000 a second
while the executor is busy and a turn takes half a millisecond. Here one is accepted a turn too if nothing is runnable, since
the next turn comes at once, and looking for more would cost a system call for each connection; else as many as wait.

Each connection has a context of its own, a copy of the one in which the server was made, in the server's queue.

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
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from clockworker.executor import Executor
from clockworker.shards._connections import Connection, Connections
from clockworker.shards._handover import receive
from clockworker.shards._limiter import Limiter, more

log = logging.getLogger("clockworker.shard")

_AT_ONCE = 64  # connections taken in one go, so that nothing else waits long
_NO_DESCRIPTORS_S = 0.5

# How long the queues may take to become empty. Some never do: of sockets that others hold and go on with.
_EMPTY_S = 5.0

# The next connection: its address family and descriptor. Raises `BlockingIOError` if there is none, and another `OSError` if it
# can't be taken.
_Take: TypeAlias = Callable[[], tuple[int, int]]


def _accepting(listening: socket.socket) -> _Take:
    family = int(listening.family)
    # What `socket.accept` is made of: a socket object would cost more than the system call.
    accept: Callable[[], tuple[int, object]] = listening._accept  # type: ignore[attr-defined]

    def take() -> tuple[int, int]:
        descriptor, _ = accept()
        return family, descriptor

    return take


def _receiving(line: socket.socket) -> _Take:
    def take() -> tuple[int, int]:
        with receive(line) as taken:
            return int(taken.family), taken.detach()

    return take


class Acceptor:
    """Opens what listening sockets and the supervisor's line bring, up to the connections' limit at once. Their sockets stay
    open."""

    def __init__(self, connections: Connections, executor: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        self._sources: dict[socket.socket, _Take] = {}
        self._connections = connections
        self._executor = executor
        self._context = connections.queue.context()
        self._paused = False
        self._closed = False
        self._complaints = Limiter()
        self._places = connections.places

    def add(self, listening: Iterable[socket.socket]) -> None:
        """Accept from these, too."""
        for sock in listening:
            self._add(sock, _accepting(sock))

    def add_line(self, line: socket.socket) -> None:
        """Take what the supervisor hands over."""
        self._add(line, _receiving(line))

    def remove(self, sources: Iterable[socket.socket]) -> None:
        """Take no more from these."""
        for sock in sources:
            if self._sources.pop(sock, None) is not None:
                self._loop.remove_reader(sock.fileno())

    def lift_limit(self) -> None:
        self._places.lift()

    async def close(self, take_all: Iterable[socket.socket], *, starved: Callable[[], None]) -> None:
        """Accept no more, and return when what has been accepted is connected. take_all: but first all that waits at these.
        starved: told if that takes longer, because descriptors for it have to become free."""
        self._places.lift()
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
        while self._connections.are_opening:  # noqa: ASYNC110  # connection_made is called in the next turn of the loop
            await asyncio.sleep(0)

    def _add(self, sock: socket.socket, take: _Take) -> None:
        self._sources[sock] = take
        if not self._paused:
            self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._places.wait(self._go_on)
            for sock in self._sources:
                self._loop.remove_reader(sock.fileno())

    def _go_on(self) -> None:
        """There may be room again."""
        if self._paused and not self._closed and not self._places.full:
            self._paused = False
            for sock in self._sources:
                self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _readable(self, sock: socket.socket) -> None:
        if self._take(sock, _AT_ONCE if self._executor.is_busy else 1) is False:
            self._pause()
            self._loop.call_later(_NO_DESCRIPTORS_S, self._go_on)

    def _take(self, sock: socket.socket, most: int) -> bool | None:
        """Take so many, at the most. Returns None if there are no more, and False if they can't be taken now."""
        take = self._sources[sock]
        for _ in range(most):
            if self._places.full:
                self._pause()
                return True
            try:
                taken = take()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._complain(error)
                    return False
                continue  # it left while it waited, or broke: the next one's turn
            self._open(self._connections.take(*taken))
        return True

    def _open(self, connection: Connection) -> None:
        make = partial(self._connections.server.protocol, connection)
        try:
            self._context.copy().run(connection.open, self._loop, make)
        except Exception as error:
            connection.give_up()
            self._connections.failed("a connection could not be opened", error)

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
