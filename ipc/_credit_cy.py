# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Credit: how many calls may be in flight to one peer, and who waits until there are fewer.

No more than `credit` calls are in flight to one peer for each queue that they run in there, each owes exactly one reply, even
when its caller has left, and only that reply gives the credit back. So two full rings cannot wait for each other: each side
always takes in what comes. A call that finds no credit waits here, encoded; the reply that brings credit sends it at once,
before its caller has run again, so nobody overtakes it.

Credit is counted for each queue (a `Lane`), so that a flood of calls into one does not keep a call into another waiting. A
one-way request is owed no reply; the peer counts those that are done (`Debts`) and gives their credit back many at a time.
"""

from __future__ import annotations

from collections import OrderedDict

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.ipc._call_cy import Call
from clockworker.ipc._ring_cy import PoisonedRing


@cython.final
@cython.cclass
class Lane:
    """The credit for one queue of the peer, and who waits for it, first come, first served."""

    queue: int  # its identifier
    credit: int
    waiting: OrderedDict[Call, None]

    def __init__(self, queue: int, credit: int) -> None:
        self.queue = queue
        self.credit = credit
        self.waiting = OrderedDict()


@cython.final
@cython.cclass
class Credit:
    """What a peer lets us send it. limit: in each lane."""

    limit: int
    lanes: dict[int, Lane]  # those in which something was sent, by queue

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lanes = {}
        self._last: Lane | None = None  # mostly the next call is into the same queue

    def lane(self, queue: int) -> Lane:
        """Of the queue with this identifier."""
        lane = self._last
        if lane is None or lane.queue != queue:
            lane = self.lanes.get(queue)
            if lane is None:
                lane = self.lanes[queue] = Lane(queue, self.limit)
            self._last = lane
        return lane

    def lane_of_done(self, queue: int, count: int) -> Lane:
        """Where the credit of so many one-way requests belongs that the peer says are done."""
        lane = self.lanes.get(queue)
        if lane is None or lane.credit + count > self.limit:
            raise PoisonedRing(f"credit for {count} requests that were not sent")
        return lane

    def restore(self) -> None:
        """Nothing is in flight any more: the peer is gone."""
        for lane in self.lanes.values():
            lane.credit = self.limit

    def clear(self) -> list[Call]:
        """Forget all lanes. Returns those who waited."""
        waiting = [call for lane in self.lanes.values() for call in lane.waiting]
        self.lanes = {}
        self._last = None
        return waiting


@cython.final
@cython.cclass
class Debt:
    """Credit that we owe the peer."""

    queue: int  # the identifier of ours in which its one-way requests ran
    done: int  # how many of them

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self.done = 0


@cython.final
@cython.cclass
class Debts:
    """All that we owe one incarnation of a peer, which lets us have `limit` requests in each queue."""

    def __init__(self, limit: int) -> None:
        self._many = max(1, limit // 4)
        self._debts: dict[int, Debt] = {}
        self._last: Debt | None = None

    def add(self, queue: int) -> int:
        """A one-way request is done. For how many the credit should be given back now; 0: later, with others."""
        debt = self._last
        if debt is None or debt.queue != queue:
            debt = self._debts.get(queue)
            if debt is None:
                debt = self._debts[queue] = Debt(queue)
            self._last = debt
        debt.done += 1
        if debt.done < self._many:
            return 0
        done = debt.done
        debt.done = 0
        return done
