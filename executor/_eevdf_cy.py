# cython: language_level=3, annotation_typing=False
"""EEVDF: which of the runnable queues runs next.

Earliest Eligible Virtual Deadline First, Stoica and Abdel-Wahab, 1995 (technical report TR-95-22, Old Dominion
University); Linux has used it between tasks since 6.6. Here it decides between queues.

Each `Entity` has a `share` and a virtual runtime, which advances by `elapsed / share` as it runs. The average of the
virtual runtimes of all active entities, weighted by share, is the virtual time V: where an ideal machine, which runs
everything at once, would stand. `lag = V - vruntime` is what the entity is owed (positive) or owes (negative); over all
active entities, lag times share sums to zero. An entity is *eligible* while its lag is not negative. Its *deadline* is
the virtual time by which it should have run one slice, `vruntime + slice / share`, renewed when reached. Among the
eligible the earliest deadline wins. A short slice therefore means sooner, not more.

Choices:

- Integers only, in units of nanoseconds / 2**10 per share, rounded up: the error of one charge is below
  share / 1,024 ns. V itself is never stored: the sum of share x vruntime is, and that is exact.
- An entity that leaves takes its lag along. When it comes back it is placed so that it has that lag again *after* its
  own weight has moved V (hence the factor (W + w) / W). Positive lag is clamped to one slice: sleep banks no credit
  beyond it. Negative lag is not clamped: an overrun is paid for, however long the sleep. Only running alone forgives
  it, when there is nobody to owe anything.
- Two heaps instead of the kernel's augmented red-black tree: the eligible by deadline, the waiting by virtual runtime.
  While somebody runs V only moves forward, so the waiting become eligible in the order of their virtual runtimes, and a
  choice costs O(log n) for those that change sides. Who has run, or whom a departure with debt has left ahead of V, is
  found out when it comes to the top of the eligible, and put with the waiting then.

Policy only: no clock, no asyncio. Elapsed times and slices are nanoseconds.
"""

from __future__ import annotations

from clockworker.executor._heap_cy import Heap, HeapNode

_SHIFT = 10
MAX_SHARE = 10_000  # as cgroup v2's cpu.weight
# All virtual times are moved back before the sum can leave 64 bits. V is at most the sum of the active; when sleepers join
# it is multiplied by their shares, all together at most 1,024 x 10,000 < 2**24. 2**39 come by twice a second.
_REBASE_AT = 1 << 39


class Entity(HeapNode):
    """One queue in the eyes of the policy. `item` is whatever the owner wants to find in what `Eevdf.pick` returns.

    While active, `key` is the deadline (eligible) or the virtual runtime (waiting), as the heap that holds it wants.
    """

    item: object
    share: int
    slice_ns: int
    vruntime: int  # meaningful while active
    deadline: int  # meaningful while active
    kept_lag: int  # meaningful while inactive: what it was owed when it left
    active: bool
    eligible: bool  # in the heap of the eligible, rather than of the waiting; `pick` makes sure

    def __init__(self, item: object, share: int, slice_ns: int, tie: int) -> None:
        super().__init__()
        self.tie = tie
        self.item = item
        self.share = share
        self.slice_ns = slice_ns
        self.vruntime = 0
        self.deadline = 0
        self.kept_lag = 0
        self.active = False
        self.eligible = False


class Eevdf:
    """The choice between the active ones of a set of entities."""

    total_share: int  # of the active
    _weighted: int  # sum over the active of share x vruntime
    _entities: int
    _eligible: Heap
    _waiting: Heap

    def __init__(self) -> None:
        self.total_share = 0
        self._weighted = 0
        self._entities = 0
        self._eligible = Heap()
        self._waiting = Heap()

    def add(self, item: object, share: int, slice_ns: int) -> Entity:
        """A new, inactive entity. Among equals, those added earlier win."""
        self._entities += 1
        return Entity(item, share, slice_ns, self._entities)

    def virtual_time(self) -> int:
        """V, rounded down. Some entity must be active."""
        return self._weighted // self.total_share

    def lag_ns(self, entity: Entity) -> int:
        """What the entity is owed, in nanoseconds of its own running, rounded down; negative if it owes."""
        lag = self.virtual_time() - entity.vruntime if entity.active else entity.kept_lag
        return (lag * entity.share) >> _SHIFT

    def activate(self, entity: Entity) -> None:
        """The entity has something to run."""
        span = virtual_span(entity.slice_ns, entity.share)
        if self.total_share == 0:
            # Nobody is there to owe or be owed: start over, which also keeps the numbers small.
            self._weighted = 0
            entity.vruntime = 0
        else:
            lag = entity.kept_lag
            if lag > span:
                lag = span
            entity.vruntime = self.virtual_time() - lag - lag * entity.share // self.total_share
        entity.deadline = entity.vruntime + span
        entity.active = True
        self.total_share += entity.share
        self._weighted += entity.share * entity.vruntime
        self._insert(entity)

    def deactivate(self, entity: Entity) -> None:
        """The entity has nothing left to run."""
        entity.kept_lag = self.virtual_time() - entity.vruntime
        self._withdraw(entity)
        entity.active = False
        self.total_share -= entity.share
        self._weighted -= entity.share * entity.vruntime

    def charge(self, entity: Entity, elapsed_ns: int) -> None:
        """The active entity has run for `elapsed_ns`."""
        advance = virtual_span(elapsed_ns, entity.share)
        entity.vruntime += advance
        self._weighted += entity.share * advance
        if entity.vruntime >= entity.deadline:
            entity.deadline = entity.vruntime + virtual_span(entity.slice_ns, entity.share)
            if entity.eligible:
                entity.key = entity.deadline
                self._eligible.update(entity)
        if not entity.eligible:
            entity.key = entity.vruntime
            self._waiting.update(entity)
        if self._weighted > _REBASE_AT:
            self._rebase()

    def pick(self) -> Entity | None:
        """The entity that should run now; it stays active. None if none is active."""
        if self.total_share == 0:
            return None
        entity: Entity
        virtual_time = self.virtual_time()
        while self._waiting.count:
            entity = self._waiting.top()
            if entity.key > virtual_time:
                break
            self._withdraw(entity)
            self._insert(entity)
        while True:
            entity = self._eligible.top()
            if entity.vruntime <= virtual_time:
                return entity
            self._withdraw(entity)
            self._insert(entity)

    def set_share(self, entity: Entity, share: int) -> None:
        """Change the share; what the entity is owed in nanoseconds stays, and so does V."""
        old_share = entity.share
        if not entity.active:
            entity.kept_lag = entity.kept_lag * old_share // share
            entity.share = share
            return
        virtual_time = self.virtual_time()
        self._withdraw(entity)
        self.total_share += share - old_share
        self._weighted -= old_share * entity.vruntime
        entity.vruntime = virtual_time + (entity.vruntime - virtual_time) * old_share // share
        entity.deadline = virtual_time + (entity.deadline - virtual_time) * old_share // share
        entity.share = share
        self._weighted += share * entity.vruntime
        self._insert(entity)

    def _insert(self, entity: Entity) -> None:
        entity.eligible = entity.vruntime <= self.virtual_time()
        if entity.eligible:
            entity.key = entity.deadline
            self._eligible.push(entity)
        else:
            entity.key = entity.vruntime
            self._waiting.push(entity)

    def _withdraw(self, entity: Entity) -> None:
        if entity.eligible:
            self._eligible.remove(entity)
        else:
            self._waiting.remove(entity)

    def _rebase(self) -> None:
        # Everything moves by the same amount, so neither heap's order changes.
        step = self.virtual_time()
        self._weighted -= step * self.total_share
        for heap in (self._eligible, self._waiting):
            for entity in heap.nodes[: heap.count]:
                entity.vruntime -= step
                entity.deadline -= step
                entity.key -= step


def virtual_span(duration_ns: int, share: int) -> int:
    """`duration_ns` of running, in virtual time, rounded up."""
    return ((duration_ns << _SHIFT) + share - 1) // share
