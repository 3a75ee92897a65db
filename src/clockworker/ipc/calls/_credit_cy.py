# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Credit: how many calls may be in flight to one peer, and who waits until there are fewer.

No more than `credit` calls are in flight to one peer for each queue that they run in there and each *depth*; each owes
exactly one reply, even when its caller has left, and only that reply gives the credit back. So two full rings cannot wait for
each other: each side always takes in what comes. A call that finds no credit waits here, encoded; the reply that brings
credit sends it at once, before its caller has run again, so nobody overtakes it. Credit is counted for each queue, so that a
flood of calls into one does not keep a call into another waiting.

*No standstill.* A call that is made while a request is served holds that request's credit and waits for more, and so calls
that call each other would wait in a circle if all credit were alike. It is not. What nobody has asked for has depth 0; what
is done for a request that was sent at depth d has depth d + 1. A call takes credit of its own depth (its `Lane` is that of a
queue and a depth). Whoever holds credit of depth d has therefore depth d + 1 and waits for credit of depth d + 1 or more
only: requests of the greatest depth that there is wait for no credit and end; they give back what those above wait for, who
then end, and so on up to 0. What holds is bounded, by `credit` for each depth, and there are `DEEPEST` + 1 depths. Calls
still deeper all have the last one, whose requests hold what they might wait for: so there no call waits, and one that finds
no credit ends in `ChannelFull`. The depth is in the frame's envelope, if it is not 0, and in a context variable (`_chain_cy`).

A function in a thread of `run_blocking` holds a thread as a request holds credit, and threads have depths too: what the
function calls is one deeper than what called `run_blocking` (`_chain_cy.deeper`).

An open stream holds no credit, for who reads it may call before reading on. Only its opening does, until the peer has begun
with the generator. What is under way is bounded by its window, and how many are open to one peer by `Limits.streams`; one
more does not wait, since it might for what its own caller holds, but ends in `ChannelFull`.

A one-way request is owed no reply; the peer counts those that are done (`Debts`) and gives their credit back many at a time.

What cannot be seen from here: a request that waits for something which another task holds or does, where that task has a
depth of its own and waits for credit (a lock around a call, a worker that calls on behalf of requests), or for a thread of
`asyncio.to_thread`, of which there is one small pool for all. What waits for
seconds is told (`_waits`), whatever the reason.

Rejected: calls made while serving pass beyond the credit (a served call may fan out, and what is in flight then has no
bound); letting one more go each second of a standstill (which undoes back-pressure towards a peer that is slow and well); a
greatest depth that nobody may exceed (a chain of one-way requests has no end and harms nobody); credit of a stream for as
long as it is open, by depth (the reader of one that opens another holds and waits at the same depth); counting a request's
own calls against its own credit (a tree of calls would need to know its size beforehand).

P. M. Merlin and P. J. Schweitzer, "Deadlock avoidance in store-and-forward networks I", IEEE Trans. Communications 28 (1980):
buffers are in classes, and a packet that has made i hops takes one of class i. models/credit.pml has the rule, and what
happens without it.
"""

from __future__ import annotations

from collections import OrderedDict

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.ipc.calls._call_cy import Call
from clockworker.ipc.rings._ring_cy import PoisonedRing

# A peer names its lanes itself, and one that named ever new ones would have us remember them all. What is done in one more is
# paid at once.
_MOST_DEBTS = 1_024


@cython.final
@cython.cclass
class Lane:
    """The credit for one queue of the peer and one depth, and who waits for it, first come, first served."""

    queue: int  # its identifier
    depth: int
    key: int
    credit: int
    waiting: OrderedDict[Call, int]  # since when, ns

    def __init__(self, queue: int, depth: int, key: int, credit: int) -> None:
        self.queue = queue
        self.depth = depth
        self.key = key
        self.credit = credit
        self.waiting = OrderedDict()


@cython.final
@cython.cclass
class Credit:
    """What a peer lets us send it. limit: in each lane."""

    limit: int
    lanes: dict[int, Lane]  # those in which something was sent, by queue and depth

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lanes = {}
        self._last: Lane | None = None  # mostly the next call is into the same queue

    def lane(self, queue: int, depth: int) -> Lane:
        """Of the queue with this identifier, at this depth."""
        key = queue | depth << 32
        lane = self._last
        if lane is None or lane.key != key:
            lane = self.lanes.get(key)
            if lane is None:
                lane = self.lanes[key] = Lane(queue, depth, key, self.limit)
            self._last = lane
        return lane

    def lane_of_done(self, queue: int, depth: int, count: int) -> Lane:
        """Where the credit of so many one-way requests belongs that the peer says are done."""
        lane = self.lanes.get(queue | depth << 32)
        if lane is None or lane.credit + count > self.limit:
            raise PoisonedRing(f"credit for {count} requests that were not sent")
        return lane

    def renew(self) -> None:
        """Nothing is in flight any more, and there will be another peer for those who wait."""
        for lane in self.lanes.values():
            lane.credit = self.limit

    def clear(self) -> list[Call]:
        """The peer is gone, and nothing is in flight: forget all lanes. Returns those who waited, and now wait nowhere."""
        waiting: list[Call] = []
        for lane in self.lanes.values():
            waiting += lane.waiting
            lane.waiting.clear()  # who is just sending those of this lane must find that there are none
        self.lanes = {}
        self._last = None
        return waiting


@cython.final
@cython.cclass
class Debt:
    """Credit that we owe the peer."""

    queue: int  # the queue and depth of its one-way requests: the key of the peer's lane
    done: int  # how many of them

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self.done = 0


@cython.final
@cython.cclass
class Debts:
    """All that we owe one incarnation of a peer, which lets us have `limit` requests in each lane."""

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
                if len(self._debts) >= _MOST_DEBTS:
                    return 1
                debt = self._debts[queue] = Debt(queue)
            self._last = debt
        debt.done += 1
        if debt.done < self._many:
            return 0
        done = debt.done
        debt.done = 0
        return done
