"""Who waits to be sent, for how long, and why; what waits for seconds is said in the log.

Calls wait in their lanes (`_credit_cy`). Nobody looks at them as long as none does: the first that must wait starts a timer,
and the timer ends with the last. One line in ten seconds says what waits longest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from clockworker.ipc.calls._credit_cy import Lane
from clockworker.ipc.calls._link_cy import Link

if TYPE_CHECKING:
    from clockworker.executor import QueueHandle
    from clockworker.ipc.calls._shared_cy import Shared

logger = logging.getLogger("clockworker.ipc")

LOOK_S = 1.0
LONG_NS = 2_000_000_000
_AGAIN_NS = 10_000_000_000


class Waiting(NamedTuple):
    """How many wait, and for how long the first of them has."""

    calls: int
    longest_ns: int


class OwnLane:
    """The credit for a shard's one-way requests to itself, in one queue and at one depth."""

    def __init__(self, queue: QueueHandle, credit: int, shared: Shared) -> None:
        self.queue = queue
        self.credit = credit
        self.waiting: OrderedDict[asyncio.Future[None], int] = OrderedDict()  # since when, ns
        self._shared = shared

    def take_nowait(self) -> bool:
        """False if there is none."""
        if self.credit <= 0:
            return False
        self.credit -= 1
        return True

    async def take(self) -> None:
        """Wait for some."""
        if self.take_nowait():
            return
        turn: asyncio.Future[None] = self._shared.loop.create_future()
        self.waiting[turn] = time.monotonic_ns()
        if not self._shared.watched:
            self._shared.watch()
        try:
            await turn
        except BaseException:
            self.waiting.pop(turn, None)
            if turn.done() and not turn.cancelled():  # it came at the same time
                self.give_back()
            raise

    def give_back(self) -> None:
        """To who has waited longest."""
        while self.waiting:
            turn, _ = self.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self.credit += 1


class Waits:
    """Looks at who waits, once a second while anybody does. queues: their keys, by identifier."""

    def __init__(
        self, shared: Shared, links: list[Link], own: Mapping[Any, OwnLane], queues: Mapping[int, object]
    ) -> None:
        self._shared = shared
        self._links = links
        self._own = own
        self._queues = queues
        self._timer: asyncio.TimerHandle | None = None
        self._said_ns = 0
        shared.watch = self._watch
        shared.watched = False

    def of(self, link: Link) -> Waiting:
        """Those of one peer."""
        return _sum(lane.waiting for lane in link.credit.lanes.values())

    def all(self) -> Waiting:
        """Those of all peers, and of the shard's requests to itself."""
        return _sum(waiting for waiting, _ in self._lanes())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shared.watched = True

    def _lanes(self) -> Iterator[tuple[Mapping[Any, int], tuple[Link, Lane] | OwnLane]]:
        for own in list(self._own.values()):
            yield own.waiting, own
        for link in self._links:
            for lane in list(link.credit.lanes.values()):
                yield lane.waiting, (link, lane)

    def _watch(self) -> None:
        self._shared.watched = True
        self._timer = self._shared.loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        found = [(next(iter(waiting.values())), where) for waiting, where in self._lanes() if waiting]
        if not found:
            self._shared.watched = False
            return
        self._watch()
        self._shared.core.wake()  # a shard that only waits is at rest, and one at rest writes its figures seldom
        now = time.monotonic_ns()
        since, where = min(found, key=lambda each: each[0])
        if now - since >= LONG_NS and (not self._said_ns or now - self._said_ns >= _AGAIN_NS):
            self._said_ns = now
            logger.warning("%s", self._line((now - since) / 1e9, where, self.all().calls))

    def _line(self, seconds: float, where: tuple[Link, Lane] | OwnLane, count: int) -> str:
        here = f"shard {self._shared.shard_id}"
        if isinstance(where, OwnLane):
            text = (
                f"{len(where.waiting):,} one-way requests of {here} to itself wait for credit in queue {where.queue.key!r}, "
                f"the first for {seconds:.1f} s: those before them have not ended"
            )
            waiting = len(where.waiting)
        else:
            link, lane = where
            waiting = len(lane.waiting)
            queue = self._queues.get(lane.queue, "(of that shard)")
            first = next(iter(lane.waiting)).method.name
            text = (
                f"{waiting:,} calls of {here} to {link.where()} in queue {queue!r}"
                f"{f' at depth {lane.depth}' if lane.depth else ''} wait for {self._what(link, lane)}, the first, {first}, "
                f"for {seconds:.1f} s"
            )
        return text + (f"; {count - waiting:,} more wait elsewhere" if count > waiting else "")

    def _what(self, link: Link, lane: Lane) -> str:
        if link.holding:
            return "its successor, to which it hands over its state"
        if lane.credit > 0:
            return f"room in the ring, before which {link.connection.backlog_bytes:,} bytes wait"
        asked = Counter(
            call.method.name
            for call in link.pending.values()
            if call.lane is lane and (call.opening or not call.method.streams)
        )
        one_way = link.credit.limit - asked.total()
        named = [f"{number:,} {name}" for name, number in asked.most_common(3)]
        if one_way > 0:
            named.append(f"{one_way:,} one-way requests")
        return f"credit, all {link.credit.limit:,} of which is in use ({', '.join(named)})"


def _sum(lanes: Any) -> Waiting:
    count, since = 0, 0
    for waiting in lanes:
        if waiting:
            count += len(waiting)
            first = next(iter(waiting.values()))
            since = min(since, first) if since else first
    return Waiting(count, max(0, time.monotonic_ns() - since) if since else 0)
