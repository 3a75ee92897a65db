"""How a shard comes by its connections: it accepts them itself, from its listening sockets or from the supervisor's line.

A loop's own servers cost less, and cannot do what is needed. They count nothing and know no limit; a connection's callbacks
run in the one context of the server, so that a context variable set for one client is seen by the next; libuv closes what
it has no descriptor for without a word; and it accepts one connection a turn, which alone would cap a shard at 2,000 a second
while the executor is busy and a turn takes half a millisecond. Here one is accepted a turn too if nothing is runnable, since
the next turn comes at once, and looking for more would cost a system call for each connection; else some, as long as the loop
has no more than a third of the time.

Each connection has a context of its own, a copy of the one in which the server was made, in the server's queue.

At the limit nothing is refused. The shard takes no more, and connections wait where they are: in the listening sockets'
queues, as long as the backlog allows, or with the supervisor, which gives them to another shard.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable, Iterable

from clockworker.executor import Executor
from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.protocol._handover import receive
from clockworker.shards.worker._accepted_cy import AT_ONCE, Intake, Source
from clockworker.shards.worker._connections import Connections

log = logging.getLogger("clockworker.shard")

_NO_DESCRIPTORS_S = 0.5
_NEVER_NS = 1 << 62

# How long the queues may take to become empty. Some never do: of sockets that others hold and go on with.
_EMPTY_S = 5.0


class _Line(Source):
    """The supervisor's line."""

    def take(self) -> int:
        with receive(self.sock) as taken:
            self.family = int(taken.family)
            return taken.detach()


class Acceptor(Intake):
    """Opens what listening sockets and the supervisor's line bring, up to the connections' limit at once. Their sockets stay
    open."""

    def __init__(self, connections: Connections, executor: Executor) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(self._loop, connections, connections.queue.context(), executor._core)
        self._sources: dict[socket.socket, Source] = {}
        self._connections = connections
        self._places = connections.places
        self._paused = False
        self._closed = False
        self._complaints = Limiter()
        self._places.tell(self._go_on)

    def add(self, listening: Iterable[socket.socket]) -> None:
        """Accept from these, too."""
        for sock in listening:
            self._add(Source(sock))

    def add_line(self, line: socket.socket) -> None:
        """Take what the supervisor hands over."""
        self._add(_Line(line))

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
            result = self.take(self._sources[last[-1]], AT_ONCE, _NEVER_NS)
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

    def _add(self, source: Source) -> None:
        self._sources[source.sock] = source
        if not self._paused:
            self._watch(source)

    def _watch(self, source: Source) -> None:
        self._loop.add_reader(source.sock.fileno(), self.readable, source)

    def _pause(self) -> None:
        self._places.wait()
        if not self._paused:
            self._paused = True
            for sock in self._sources:
                self._loop.remove_reader(sock.fileno())

    def _go_on(self) -> None:
        """There may be room again."""
        if self._paused and not self._closed:
            if self._places.full:
                self._places.wait()
                return
            self._paused = False
            for source in self._sources.values():
                self._watch(source)

    # What happens while it takes.

    def is_full(self) -> None:
        self._pause()

    def wait_for_room(self) -> None:
        self._pause()
        self._loop.call_later(_NO_DESCRIPTORS_S, self._go_on)

    def has_no_room(self, error: OSError) -> None:
        self._complain(error)

    def could_not_open(self, error: Exception) -> None:
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
