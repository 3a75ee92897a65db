"""The ideal that a fair scheduler is measured against: a fluid machine that runs all active queues at once.

Generalised processor sharing (Parekh and Gallager, 1993): while a queue is active it is entitled to share / (sum of the active
shares) of the service that is given to anybody. The model is told what really ran, and keeps for each queue how far what it
got is from what it was entitled to, its lag: positive if it is owed. Its sum over all queues is zero.

Entitlement grows in proportion to one virtual clock, so only the queue that something happens to is looked at. While
others run, a queue's lag rises; while it runs itself, the lag falls: all extremes are at starts and ends of its own steps.

What a queue may take along when it sleeps is the scheduler's promise: what it is owed up to one slice, and all that it owes.
Credit beyond that is dropped when it wakes.
"""

from __future__ import annotations


class FluidQueue:
    """Nanoseconds, all of them."""

    def __init__(self, share: int, slice_ns: float) -> None:
        self.share = share
        self.slice_ns = slice_ns
        self.active = False
        self.lag_ns = 0.0  # as of `_seen`
        self.served_ns = 0.0
        self.most_owed_ns = 0.0
        self.most_ahead_ns = 0.0
        self.dropped_ns = 0.0  # credit that sleep has cost
        self.seen = 0.0  # virtual time up to which lag_ns counts


class FluidModel:
    """Told of every step, wake-up, sleep and change of shares, in their order."""

    def __init__(self, shares: list[int], slice_ns: float) -> None:
        self.queues = [FluidQueue(share, slice_ns) for share in shares]
        self._active_share = 0
        self._virtual = 0.0  # nanoseconds of entitlement for each unit of share

    def wake(self, number: int) -> None:
        queue = self.queues[number]
        queue.seen = self._virtual
        if queue.lag_ns > queue.slice_ns:
            queue.dropped_ns += queue.lag_ns - queue.slice_ns
            queue.lag_ns = queue.slice_ns
        queue.active = True
        self._active_share += queue.share

    def sleep(self, number: int) -> None:
        queue = self.queues[number]
        self._settle(queue)
        queue.active = False
        self._active_share -= queue.share

    def run(self, number: int, elapsed_ns: float) -> None:
        """A step of that queue."""
        queue = self.queues[number]
        self._settle(queue)
        self._virtual += elapsed_ns / self._active_share
        queue.lag_ns -= elapsed_ns
        queue.served_ns += elapsed_ns
        self._settle(queue)

    def set_share(self, number: int, share: int) -> None:
        """What the queue is owed stays."""
        queue = self.queues[number]
        self._settle(queue)
        if queue.active:
            self._active_share += share - queue.share
        queue.share = share

    def end(self) -> None:
        for queue in self.queues:
            self._settle(queue)

    def _settle(self, queue: FluidQueue) -> None:
        if queue.active:
            queue.lag_ns += queue.share * (self._virtual - queue.seen)
            queue.seen = self._virtual
        queue.most_owed_ns = max(queue.most_owed_ns, queue.lag_ns)
        queue.most_ahead_ns = max(queue.most_ahead_ns, -queue.lag_ns)
