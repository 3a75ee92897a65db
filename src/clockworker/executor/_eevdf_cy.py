# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""EEVDF: which of the runnable queues runs next.

Earliest Eligible Virtual Deadline First, Stoica and Abdel-Wahab, 1995 (technical report TR-95-22, Old Dominion
University); Linux has used it between tasks since 6.6. Here it decides between queues.

The virtual time V advances by `elapsed / total share of the active`: it is how far an ideal machine, which runs everything
active at once in proportion, would have brought an entity of share 1. Each `Entity` has a virtual runtime, which advances by
`elapsed / share` while it runs itself. `lag = V - vruntime` is what it is owed (positive) or owes (negative). It is
*eligible* while its lag is not negative. Its *deadline* is the virtual time by which it should have run one slice,
`vruntime + slice / share`, renewed when reached. Among the eligible the earliest deadline wins. A short slice therefore means
sooner, not more.

Choices:

- V is a clock of its own, as in the paper's fluid model, and does not move when somebody comes or goes. Linux makes it the
  average of the active, weighted by share, which jumps at each departure with lag and jumps back at the return; who is
  active at one of the two moments but not at the other keeps the difference. With 16 queues of which half sleep now and
  then, that took queues to 1.8 times the bound of one slice and one poll in a second, and 4.4 times in ten; this stays
  below the bound.
- If all are ahead of V, which happens when those who are owed have left, V moves up to the first of them, as in WF2Q+
  (Bennett and Zhang, 1997). So an overrun is forgiven to who runs alone: there is nobody to owe anything.
- An entity that leaves takes its lag along and has it again when it comes back. Positive lag is clamped to one slice: sleep
  banks no credit beyond it. Negative lag is not clamped: an overrun is paid for, however long the sleep.
- Integers only, in units of nanoseconds / 2**10 per share. Runtimes are rounded up, so the error of one charge is below
  share / 1,024 ns; V carries its remainder.
- Two heaps instead of the kernel's augmented red-black tree: the eligible by deadline, the waiting by virtual runtime. V
  only moves forward, so the waiting become eligible in the order of their virtual runtimes, and a choice costs O(log n)
  for those that change sides. Who was picked last stays outside of both until another is, as in Linux: then charging it is
  arithmetic, and a queue that goes on, or is alone, costs no heap operation.
- Who is picked keeps its turn for a *stint*, `granularity_ns` of running, unless somebody becomes active meanwhile. Without
  it two queues of short steps would change places after each of them, which costs more than the choice is worth. Linux lets
  the picked run to parity or for a slice (RUN_TO_PARITY), which was too long here: a foreground p99 of 7.7 ms instead of
  5.8. A stint is far shorter than a slice; steps longer than a stint do not notice it. Charges within a stint are added up and
  applied at its end.

Policy only: no clock, no asyncio. Elapsed times and slices are nanoseconds.
"""

from __future__ import annotations

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._heap_cy import Heap, HeapNode

if cython.compiled:
    from cython.cimports.clockworker.executor._heap_cy import precedes
else:
    from clockworker.executor._heap_cy import precedes

_SHIFT = 10
MAX_SHARE = 10_000  # as cgroup v2's cpu.weight
# All virtual times are moved back before one can leave 64 bits: 2**60 are twelve days of a share of 1 without an idle moment.
_REBASE_AT = 1 << 60


@cython.final
@cython.cclass
class Entity(HeapNode):
    """One queue in the eyes of the policy. `item` is whatever the owner wants to find in what `Eevdf.pick` returns, `level` is
    for a policy of several levels (`_nested_cy`).

    While active, `key` is the deadline (eligible) or the virtual runtime (waiting), as the heap that holds it wants.
    """

    item: object
    level: object
    share: int
    slice_ns: int
    span: int  # a slice in virtual time
    vruntime: int  # meaningful while active
    deadline: int  # meaningful while active
    kept_lag: int  # meaningful while inactive: what it was owed when it left
    active: bool
    eligible: bool  # picked last or in the heap of the eligible, rather than of the waiting; `pick` makes sure

    def __init__(self, item: object, share: int, slice_ns: int, tie: int) -> None:
        super().__init__()
        self.tie = tie
        self.item = item
        self.level = None
        self.share = share
        self.slice_ns = slice_ns
        self.span = virtual_span(slice_ns, share)
        self.vruntime = 0
        self.deadline = 0
        self.kept_lag = 0
        self.active = False
        self.eligible = False


@cython.cclass
class Choice:
    """The choice between queues, as the core knows it: `Eevdf`, or more than one of them (`_nested_cy`)."""

    total_share: int  # of the active
    asleep: int  # how many are not active
    stint_ns: int  # for which who was picked goes on without being compared: until it has had so much, `pick` returns it again
    uncharged_ns: int  # of that, what it has had

    def add(self, item: object, share: int, slice_ns: int) -> Entity:
        """A new, inactive entity. Among equals, those added earlier win."""
        raise NotImplementedError

    def lag_ns(self, entity: Entity) -> int:
        """What the entity is owed, in nanoseconds of its own running, rounded down; negative if it owes."""
        raise NotImplementedError

    def activate(self, entity: Entity) -> None:
        """The entity has something to run."""
        raise NotImplementedError

    def deactivate(self, entity: Entity) -> None:
        """The entity has nothing left to run."""
        raise NotImplementedError

    def charge(self, entity: Entity, elapsed_ns: int) -> None:
        """The active entity has run for `elapsed_ns`."""
        raise NotImplementedError

    def pick(self) -> Entity | None:
        """The entity that should run now; it stays active. None if none is active."""
        raise NotImplementedError

    def set_share(self, entity: Entity, share: int) -> None:
        """Change the share; what the entity is owed in nanoseconds stays."""
        raise NotImplementedError

    def outranks(self, woken: Entity, running: Entity) -> bool:
        """Whether one that has just become active should run instead of the one that does."""
        raise NotImplementedError

    def stays(self, entity: Entity, elapsed_ns: int) -> bool:
        """Whether the entity, which was picked, would be picked again after running for `elapsed_ns`."""
        raise NotImplementedError


@cython.final
@cython.cclass
class Eevdf(Choice):
    """The choice between the active ones of a set of entities."""

    virtual_time: int
    _remainder: int  # of running time that has not moved V yet
    _entities: int
    _eligible: Heap
    _waiting: Heap
    _current: Entity | None  # picked last, active, and in neither heap
    _granularity_ns: int

    def __init__(self, granularity_ns: int = 0) -> None:
        self.total_share = 0
        self.asleep = 0
        self.virtual_time = 0
        self._remainder = 0
        self._entities = 0
        self._eligible = Heap()
        self._waiting = Heap()
        self._current = None
        self.stint_ns = 0
        self.uncharged_ns = 0
        self._granularity_ns = granularity_ns

    def add(self, item: object, share: int, slice_ns: int) -> Entity:
        self._entities += 1
        self.asleep += 1
        return Entity(item, share, slice_ns, self._entities)

    def lag_ns(self, entity: Entity) -> int:
        self._end_stint()
        lag = self.virtual_time - entity.vruntime if entity.active else entity.kept_lag
        return (lag * entity.share) >> _SHIFT

    def activate(self, entity: Entity) -> None:
        self._end_stint()
        alone = self.total_share == 0
        if alone:
            # Lags are all that anybody has; start over, to keep the numbers small.
            self.virtual_time = 0
        entity.vruntime = self.virtual_time - min(entity.kept_lag, entity.span)
        entity.deadline = entity.vruntime + entity.span
        entity.active = True
        self.asleep -= 1
        self.total_share += entity.share
        if alone:
            # As if it had been picked: it will be, unless somebody comes before that and is compared with it.
            entity.eligible = entity.vruntime <= self.virtual_time
            self._current = entity
        else:
            self._insert(entity)

    def deactivate(self, entity: Entity) -> None:
        if entity.share == self.total_share:
            # It is alone: what it has had in this stint has moved V as far as itself.
            self.stint_ns = 0
            self.uncharged_ns = 0
        else:
            self._end_stint()
        entity.kept_lag = self.virtual_time - entity.vruntime
        self._withdraw(entity)
        entity.active = False
        self.asleep += 1
        self.total_share -= entity.share

    def charge(self, entity: Entity, elapsed_ns: int) -> None:
        if entity is self._current:
            self.uncharged_ns += elapsed_ns
            if self.uncharged_ns >= self.stint_ns:
                self._settle()
        else:
            self._advance(entity, elapsed_ns)
            self._withdraw(entity)
            self._insert(entity)

    def _advance(self, entity: Entity, elapsed_ns: int) -> None:
        self._remainder += elapsed_ns << _SHIFT
        step = self._remainder // self.total_share
        self._remainder -= step * self.total_share
        self.virtual_time += step
        entity.vruntime += virtual_span(elapsed_ns, entity.share)
        if entity.vruntime >= entity.deadline:
            entity.deadline = entity.vruntime + entity.span
        if self.virtual_time > _REBASE_AT:
            self._rebase()

    def pick(self) -> Entity | None:
        current = self._current
        if current is not None:
            if self.uncharged_ns < self.stint_ns:
                return current
            if self.total_share == current.share:  # it is alone
                if current.vruntime > self.virtual_time:
                    self.virtual_time = current.vruntime
                self._begin_stint(current)
                return current
            self._promote()
            if current.vruntime <= self.virtual_time:
                current.key = current.deadline
                if self._eligible.count == 0 or precedes(current, self._eligible.top()):
                    self._begin_stint(current)
                    return current
            self._insert(current)
            self._current = None
        elif self.total_share == 0:
            return None
        entity: Entity
        while True:
            self._promote()
            while self._eligible.count:
                entity = self._eligible.top()
                if entity.vruntime <= self.virtual_time:
                    self._eligible.remove(entity)
                    self._current = entity
                    self._begin_stint(entity)
                    return entity
                self._eligible.remove(entity)
                self._insert(entity)
            entity = self._waiting.top()
            self.virtual_time = entity.key

    def _begin_stint(self, entity: Entity) -> None:
        # A slice may be shorter than any granularity; it is a promise, and this is not to take a visible part of it.
        self.stint_ns = min(self._granularity_ns, entity.slice_ns >> 4)

    def _end_stint(self) -> None:
        """Virtual times are true again, and the next choice compares."""
        self.stint_ns = 0
        if self.uncharged_ns:
            self._settle()

    def _settle(self) -> None:
        self.stint_ns = 0
        elapsed = self.uncharged_ns
        self.uncharged_ns = 0
        self._advance(self._current, elapsed)  # type: ignore[arg-type]

    def _promote(self) -> None:
        """V has moved: some of the waiting may be eligible."""
        while self._waiting.count:
            entity: Entity = self._waiting.top()
            if entity.key > self.virtual_time:
                break
            self._waiting.remove(entity)
            self._insert(entity)

    def set_share(self, entity: Entity, share: int) -> None:
        self._end_stint()
        old_share = entity.share
        entity.share = share
        entity.span = virtual_span(entity.slice_ns, share)
        if not entity.active:
            entity.kept_lag = entity.kept_lag * old_share // share
            return
        self._withdraw(entity)
        self.total_share += share - old_share
        entity.vruntime = self.virtual_time + (entity.vruntime - self.virtual_time) * old_share // share
        entity.deadline = self.virtual_time + (entity.deadline - self.virtual_time) * old_share // share
        self._insert(entity)

    def outranks(self, woken: Entity, running: Entity) -> bool:
        return woken.eligible and woken.deadline < running.deadline

    def stays(self, entity: Entity, elapsed_ns: int) -> bool:
        if self.total_share == entity.share:
            return True
        if entity is self._current:
            elapsed_ns += self.uncharged_ns
        virtual_time = self.virtual_time + (self._remainder + (elapsed_ns << _SHIFT)) // self.total_share
        vruntime = entity.vruntime + virtual_span(elapsed_ns, entity.share)
        deadline = entity.deadline if vruntime < entity.deadline else vruntime + entity.span
        first = vruntime
        for heap in (self._eligible, self._waiting):
            for other in heap.nodes[: heap.count]:
                if other is not entity and other.vruntime < first:
                    first = other.vruntime
        if first > virtual_time:  # all are ahead: V moves up
            virtual_time = first
        if vruntime > virtual_time:
            return False
        for heap in (self._eligible, self._waiting):
            for other in heap.nodes[: heap.count]:
                if other is entity or other.vruntime > virtual_time:
                    continue
                if other.deadline < deadline or (other.deadline == deadline and other.tie < entity.tie):
                    return False
        return True

    def _insert(self, entity: Entity) -> None:
        """Into the heap to which it belongs."""
        entity.eligible = entity.vruntime <= self.virtual_time
        if entity.eligible:
            entity.key = entity.deadline
            self._eligible.push(entity)
        else:
            entity.key = entity.vruntime
            self._waiting.push(entity)

    def _withdraw(self, entity: Entity) -> None:
        """Out of whatever holds it."""
        if entity is self._current:
            self._current = None
        elif entity.eligible:
            self._eligible.remove(entity)
        else:
            self._waiting.remove(entity)

    def _rebase(self) -> None:
        # Everything moves by the same amount, so neither heap's order changes.
        step = self.virtual_time
        self.virtual_time = 0
        current = self._current
        if current is not None:
            current.vruntime -= step
            current.deadline -= step
        for heap in (self._eligible, self._waiting):
            for entity in heap.nodes[: heap.count]:
                entity.vruntime -= step
                entity.deadline -= step
                entity.key -= step


def virtual_span(duration_ns: int, share: int) -> int:
    """`duration_ns` of running, in virtual time, rounded up."""
    return ((duration_ns << _SHIFT) + share - 1) // share
