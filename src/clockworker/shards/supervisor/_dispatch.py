"""Least connections: the supervisor accepts, and hands each connection to the shard that has the fewest.

The kernel's hash knows nothing of load: of a few long-lived connections one shard may get most. Here the supervisor knows
how many each shard has: those it has handed over and the shard has not yet taken, plus those that the shard says it has
open (in the memory of its pulse). It costs the supervisor's time for every connection, some thousands a second at most;
that is why it is a choice.

A connection is never lost on the way. The supervisor keeps both ends of the line to each shard, so what a dead or
departed shard has not taken is read back and goes to another; while no shard can take one, connections wait in the
listening sockets' queues. A shard that stalls gets none, and what it was given before that showed and has not taken is
given to others.

Each bind has a dispatcher and lines of its own, so that a server without room holds up no other's connections. Which shard has
the fewest is counted over all binds.

Before the server stops, those that wait are handed over whatever the limit, as shards that accept for themselves do it: what
waits at a socket that is closed is reset, and its client has perhaps asked already. Rejected: letting them wait for places
that become free while the shards drain. An application that closes its own connections has to know which they are.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence

from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.observe._admission import LEFT
from clockworker.shards.protocol._messages import TakeAll
from clockworker.shards.supervisor._member import Member
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

_AT_ONCE = 64  # connections accepted in one go, so that nothing else waits long
_RETRY_S = 0.01  # while every shard is full or stalled
_NO_DESCRIPTORS_S = 0.5


class Dispatcher:
    """For one bind. limit: connections that a shard may have at once, of all servers that have no limit of their own. stalled:
    whether a shard should be spared."""

    def __init__(
        self,
        bind: str,
        listening: Sequence[socket.socket],
        members: Sequence[Member],
        limit: int | None,
        stalled: Callable[[ShardProcess], bool],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._bind = bind
        self._listening = listening
        self._members = members
        self._limit = limit
        self._unlimited = False  # the last are handed over
        self._stalled = stalled
        self._next = 0  # of equals the one whose turn it is
        self._returned: deque[socket.socket] = deque()
        self._accepting = False
        self._finished: Callable[[], None] | None = None  # whom to tell; set while the last are handed over
        self._give_up: asyncio.TimerHandle | None = None
        self._last: list[socket.socket] = []  # whose queues are then still to be emptied
        self._ended = False
        self._told: set[ShardProcess] = set()  # to take all
        self._retry: asyncio.TimerHandle | None = None
        self._complaints = Limiter()

    def go_on(self) -> None:
        """Some shard may be able to take connections again."""
        if self._ended:
            return
        self._cancel_retry()
        self._accept_last()
        while self._returned:
            process = self._choose()
            if process is None or not self._hand_over(process, self._returned.popleft()):
                if self._finished is not None and not self._anybody_ready():
                    break
                self._pause(_RETRY_S)
                return
        if self._finished is not None:
            if self._last and not self._returned:
                self._pause(_RETRY_S)
            else:
                self._end()
        elif not self._accepting:
            self._accepting = True
            try:
                for sock in self._listening:
                    self._loop.add_reader(sock.fileno(), self._accept, sock)
            except OSError as error:
                self._complain(error)

    def take_back(self, process: ShardProcess) -> None:
        """The shard has ended, or stands still while others do not: what it did not take is for others."""
        while (connection := process.lines[self._bind].take_back()) is not None:
            self._returned.append(connection)
        if self._ended:
            self._close_returned()
        elif self._returned:
            self.go_on()

    def stands_still(self, process: ShardProcess) -> None:
        """Its loop does."""
        if not self._ended and self._choose() is not None:
            self.take_back(process)

    def finish(self, seconds: float, finished: Callable[[], None]) -> None:
        """Accept and hand over what is in the listening sockets' queues, and no more: all are about to stop.

        What nobody has taken after these seconds is closed.
        """
        self._stop_accepting()
        self._unlimited = True
        self._finished = finished
        self._give_up = self._loop.call_later(seconds, self._end)
        self._last.extend(self._listening)
        self.go_on()

    def _accept_last(self) -> None:
        """As many as there are descriptors for; those that are handed over become free."""
        while self._last and self._retry is None:
            accepted = self._accept_from(self._last[-1])
            if accepted is not None:
                self._returned.append(accepted)
            elif self._retry is None:
                self._last.pop()

    def _end(self) -> None:
        self._ended = True
        self._stop_accepting()
        self._cancel_retry()
        assert self._give_up is not None
        assert self._finished is not None
        self._give_up.cancel()
        finished, self._finished = self._finished, None
        self._close_returned()
        finished()

    def _close_returned(self) -> None:
        if self._returned:
            log.warning("%d connections that waited were closed: no shard took them", len(self._returned))
        while self._returned:
            self._returned.popleft().close()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            if not self._accept_one(sock):
                return

    def _accept_one(self, sock: socket.socket) -> bool:
        process = self._choose()
        if process is None:
            self._pause(_RETRY_S)
            return False
        connection = self._accept_from(sock)
        if connection is None:
            return False
        if self._hand_over(process, connection):
            return True
        self._pause(_RETRY_S)
        return False

    def _accept_from(self, sock: socket.socket) -> socket.socket | None:
        while True:
            try:
                return sock.accept()[0]
            except OSError as error:
                if error.errno in LEFT:
                    continue
                if not isinstance(error, BlockingIOError):
                    self._complain(error)
                return None

    def _complain(self, error: OSError) -> None:
        """And wait: shortages pass."""
        if (unsaid := self._complaints.may_say(self._loop.time())) is not None:
            log.error("no connection can be accepted: %s%s", error.strerror, more(unsaid))
        self._pause(_NO_DESCRIPTORS_S)

    def _hand_over(self, process: ShardProcess, connection: socket.socket) -> bool:
        if self._finished is not None and process not in self._told:
            self._told.add(process)
            process.send(TakeAll())
        if not process.lines[self._bind].give(connection):
            self._returned.append(connection)
            return False
        connection.close()
        return True

    def _choose(self) -> ShardProcess | None:
        """The ready shard with the fewest connections, if one may have another."""
        count = len(self._members)
        best: ShardProcess | None = None
        fewest = 1 << 62
        for offset in range(count):
            member = self._members[(self._next + offset) % count]
            process = member.process
            if process is None or not member.takes(self._bind) or self._stalled(process):
                continue
            loads = process.loads()
            load = sum(loads.values())
            if load < fewest and self._has_room(process, loads):
                best, fewest = process, load
        self._next = (self._next + 1) % count
        return best

    def _has_room(self, process: ShardProcess, loads: dict[str, int]) -> bool:
        if self._unlimited:
            return True
        own = process.lines[self._bind].limit
        if own is not None:
            return loads[self._bind] < own
        return self._limit is None or self._limit > sum(
            load for bind, load in loads.items() if process.lines[bind].limit is None
        )

    def _anybody_ready(self) -> bool:
        return any(member.takes(self._bind) and member.process is not None for member in self._members)

    def _pause(self, seconds: float) -> None:
        self._stop_accepting()
        self._cancel_retry()
        self._retry = self._loop.call_later(seconds, self.go_on)

    def _stop_accepting(self) -> None:
        self._accepting = False
        for sock in self._listening:
            self._loop.remove_reader(sock.fileno())

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
