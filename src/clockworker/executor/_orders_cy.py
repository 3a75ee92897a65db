# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
# cython: boundscheck=False, wraparound=False
"""Schedulers that keep an order: by arrival (`ArrivalFifo`), and by attained service (`LAS`, `QLAS`).

The core calls these for every step, by C methods that can neither fail nor call anything of the application's: `_put`, `_get`
and `_charge`. Where one of them would have to (there is no room, or a group's key is seen for the first time) it says so, and
the core goes the way that it goes with a scheduler of the application's. What a step costs here:

- A task that is alone, is again the first, or has just been started by the first, is kept before the heap (`_next`).
- What a task without a group has attained is in its own node (`key`), what a group has in the group's.
- An account that is runnable again after its step, when no other has become so meanwhile, goes on for a *stint*: until it is
  5 us ahead of the next (LAS), or has had 5 us (QLAS), and for 64 steps at most. A choice after each of shorter steps would
  cost more than it is worth; between queues it is the same (`_eevdf_cy`). Who comes is compared at once: a task that has
  started or woken others, and ends its step, finds that those with less have run.
- What is attained only grows. So a node in the heap (a `KeyHeap`) is moved down when it has come to the top, and not at each
  step.
"""

from __future__ import annotations

from collections.abc import Hashable

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._heap_cy import HeapNode, KeyHeap, Line
from clockworker.executor._schedulers_cy import ScheduledTask, Scheduler

if cython.compiled:
    from cython.cimports.clockworker.executor._native import address_of, bit_length
else:
    from clockworker.executor._pure import address_of

    bit_length = int.bit_length

# Every 16th pop of QLAS ignores the levels. A power of two.
_ROUND_ROBIN_EVERY = 16
# The lower bits of a task's `tie`, in which ArrivalFifo counts its pushes. The others are the place below `arrival`.
PUSH_BITS = 20
_PUSH_MASK = (1 << PUSH_BITS) - 1
# Bit 0 of the levels. Its type in the .pxd has 64 bits; a plain 1 would be shifted as a C int, which has 32.
_LEVEL_0 = 1
# For how long an account goes on without being compared, and for how many steps.
_STINT_NS = 5_000
_STINT_STEPS = 64


class ArrivalFifo(Scheduler):
    """First spawned, first run, whenever it is runnable.

    What a task starts in its queue has that task's place, and so on. Those that one task has started are in the order in
    which it did; what is alike in both goes in the order in which it became runnable.
    """

    _heap: KeyHeap
    _pushes: int
    _next: ScheduledTask | None  # comes before all of the heap
    _next_tie: int

    def __init__(self) -> None:
        self._heap = KeyHeap()
        self._pushes = 0
        self._next = None
        self._next_tie = 0

    def push(self, task: ScheduledTask) -> None:
        self._heap.make_room()
        self._put(task)

    def pop(self) -> ScheduledTask:
        task = self._get()
        if task is None:
            raise IndexError("pop from an empty scheduler")
        return task

    def __len__(self) -> int:
        return self._heap.count + (self._next is not None)

    def _put(self, task: ScheduledTask) -> bool:
        heap = self._heap
        if heap.count == heap.room:
            return False
        self._pushes = (self._pushes + 1) & _PUSH_MASK
        task.key = task.arrival
        task.tie = (task.tie & ~_PUSH_MASK) | self._pushes
        first = self._next
        if first is None:
            if heap.count and not _before(task.arrival, task.tie, heap.places[0].key, heap.places[0].tie):
                heap.push(task.arrival, task.tie, task)
                return True
        elif _before(task.arrival, task.tie, first.arrival, self._next_tie):
            heap.push(first.arrival, self._next_tie, first)
        else:
            heap.push(task.arrival, task.tie, task)
            return True
        self._next = task
        self._next_tie = task.tie
        return True

    def _get(self) -> ScheduledTask | None:
        task = self._next
        if task is not None:
            self._next = None
            return task
        return cython.cast(ScheduledTask, self._heap.pop()) if self._heap.count else None

    def _charge(self, task: ScheduledTask, elapsed_ns: int) -> bool:
        return True


def _before(key: int, tie: int, other_key: int, other_tie: int) -> bool:
    return key < other_key or (key == other_key and tie < other_tie)


@cython.final
@cython.cclass
class ServiceGroup(HeapNode):
    """The tasks that share one account of attained service: `key`, in nanoseconds."""

    first: ScheduledTask | None  # of the runnable ones; None: there are none
    more: Line | None  # behind it

    def __init__(self) -> None:
        super().__init__()
        self.first = None
        self.more = None

    def add(self, task: ScheduledTask) -> bool:
        """A runnable task. False: there is no room for it."""
        if self.first is None:
            self.first = task
        elif self.more is None or self.more.count == self.more.room:
            return False
        else:
            self.more.push(task)
        return True

    def make_room(self) -> None:
        """For one more."""
        if self.first is not None:
            if self.more is None:
                self.more = Line()
            self.more.make_room()

    def take(self) -> ScheduledTask:
        """The first. There must be one."""
        task: ScheduledTask = self.first  # type: ignore[assignment]
        self.first = cython.cast(ScheduledTask, self.more.pop()) if self.more is not None and self.more.count else None
        return task


class _ServiceScheduler(Scheduler):
    """What LAS and QLAS share: the accounts.

    An account, which has a place in line when any of its tasks is runnable, is a `ServiceGroup`, or the task itself if it has
    no group.
    """

    _groups: dict[Hashable, ServiceGroup]
    _count: int

    def __init__(self) -> None:
        self._groups = {}
        self._count = 0

    def push(self, task: ScheduledTask) -> None:
        account: HeapNode = task
        if task.group is not None:
            group = self._group_of(task)
            group.make_room()
            account = group
        if not self._put(task):
            self._make_room(account)
            self._put(task)

    def pop(self) -> ScheduledTask:
        task = self._get()
        if task is None:
            raise IndexError("pop from an empty scheduler")
        return task

    def observe(self, task: ScheduledTask, elapsed_ns: int) -> None:
        if task.group is not None:
            self._group_of(task)
        self._charge(task, elapsed_ns)
        if elapsed_ns < 0:
            self._has_less()

    def forget_task(self, task: ScheduledTask) -> None:
        task.slot = None
        task.key = 0

    def forget_group(self, group: Hashable) -> None:
        self._groups.pop(group, None)

    def __len__(self) -> int:
        return self._count

    def _put_in_group(self, task: ScheduledTask) -> bool:
        """`_put` of a task that has one."""
        if type(task.slot) is not ServiceGroup:
            return False
        group = cython.cast(ServiceGroup, task.slot)
        if group.first is None and not self._enter(group):
            return False
        if not group.add(task):
            return False
        self._count += 1
        return True

    def _first_of(self, group: ServiceGroup) -> ScheduledTask:
        """`_get`, when it is the group's turn."""
        task = group.take()
        if group.first is not None and not self._enter(group):
            self._make_room(group)
            self._enter(group)
        return task

    def _charge(self, task: ScheduledTask, elapsed_ns: int) -> bool:
        if task.group is None:
            task.key += elapsed_ns
            return True
        if type(task.slot) is not ServiceGroup:
            return False
        cython.cast(ServiceGroup, task.slot).key += elapsed_ns
        return True

    def _group_of(self, task: ScheduledTask) -> ServiceGroup:
        # Looked up once a task: from then on the task's slot knows.
        if type(task.slot) is ServiceGroup:
            return task.slot
        group = self._groups.get(task.group)
        if group is None:
            group = self._groups[task.group] = ServiceGroup()
        task.slot = group
        return group

    # The order of the accounts

    def _enter(self, account: HeapNode) -> bool:
        """The account has a runnable task now. False if there is no room for it."""
        raise NotImplementedError

    def _make_room(self, account: HeapNode) -> None:
        """For this one."""
        raise NotImplementedError

    def _has_less(self) -> None:
        """Some account has less than it had."""


# Functions, and not methods of the base: the core comes here for every step, and a call of a method goes through a table.


def counted(scheduler: _ServiceScheduler, entered: bool) -> bool:
    """One runnable task more, if it has entered."""
    if entered:
        scheduler._count += 1
    return entered


def task_of(scheduler: _ServiceScheduler, account: HeapNode) -> ScheduledTask:
    """The task of the account whose turn it is. It is runnable no longer."""
    scheduler._count -= 1
    if type(account) is ServiceGroup:
        return scheduler._first_of(cython.cast(ServiceGroup, account))
    return cython.cast(ScheduledTask, account)  # type: ignore[no-any-return]


class LAS(_ServiceScheduler):
    """Least attained service first, by group; equals in the order in which they became runnable."""

    _heap: KeyHeap  # by what each had when it entered
    _turn: int
    _next: HeapNode | None  # in line, and not in the heap: it ran last, or came before all when it entered
    _next_turn: int
    _ran: int  # the address of the account whose turn it was last; it may be gone
    _ran_turn: int
    _stint_steps: int  # that it has gone on for

    def __init__(self) -> None:
        super().__init__()
        self._heap = KeyHeap()
        self._turn = 0
        self._next = None
        self._next_turn = 0
        self._ran = 0
        self._ran_turn = 0
        self._stint_steps = 0

    def _put(self, task: ScheduledTask) -> bool:
        return self._put_in_group(task) if task.group is not None else counted(self, las_enter(self, task))

    def _get(self) -> ScheduledTask | None:
        return None if self._count == 0 else task_of(self, las_least(self))

    def _enter(self, account: HeapNode) -> bool:
        return las_enter(self, account)

    def _make_room(self, account: HeapNode) -> None:
        self._heap.make_room()

    def _has_less(self) -> None:
        self._heap.keys_changed()


def las_enter(las: LAS, account: HeapNode) -> bool:
    """The account has a runnable task now. False if there is no room for it."""
    heap = las._heap
    las._turn += 1
    if las._next is None and (heap.count == 0 or account.key < heap.places[0].key or las._ran == address_of(account)):
        las._next = account
        las._next_turn = las._turn
        return True
    if heap.count == heap.room:
        return False
    heap.push(account.key, las._turn, account)
    return True


def las_least(las: LAS) -> HeapNode:
    """Remove and return the account that has had least, or goes on. There must be one."""
    heap = las._heap
    first = las._next
    las._next = None
    account = first
    again = (
        first is not None and las._turn == las._ran_turn + 1 and las._ran == address_of(first)
    )  # only it has entered
    # By what the next had when it entered: it has no less.
    if again and heap.count and goes_on(las, first.key):  # type: ignore[union-attr]
        las._ran_turn = las._turn
        las._stint_steps += 1
        return first  # type: ignore[return-value]
    if heap.count:
        account = cython.cast(HeapNode, heap.nodes[heap.places[0].slot])
        while account.key != heap.places[0].key:  # it has had something since it entered
            heap.move_top(account.key)
            account = cython.cast(HeapNode, heap.nodes[heap.places[0].slot])
        if first is None:
            heap.pop()
        elif again and goes_on(las, first.key):
            las._ran_turn = las._turn
            las._stint_steps += 1
            return first
        elif _before(first.key, las._next_turn, heap.places[0].key, heap.places[0].tie):
            account = first
        else:
            heap.replace_top(first.key, las._next_turn, first)
    las._ran = address_of(account)
    las._ran_turn = las._turn
    las._stint_steps = 0
    return account  # type: ignore[return-value]


def goes_on(las: LAS, key: int) -> bool:
    return key < las._heap.places[0].key + _STINT_NS and las._stint_steps < _STINT_STEPS


class QLAS(_ServiceScheduler):
    """Least attained service first, between powers of two of microseconds; round robin within one.

    A group's level is the bit length of its service in microseconds. Every 16th pop takes from the levels in turn instead
    of the lowest.
    """

    _levels: list[Line]
    _occupied: int  # bit i: level i has groups
    _last_level: int  # served by the last round-robin pop
    _picks: int
    _next: HeapNode | None  # in line, and in no level yet: it ran last
    _ran: int  # the address of the account whose turn it was last; it may be gone
    _goes_on_to: int  # what it may have had in the end
    _others: bool  # have entered since then

    def __init__(self) -> None:
        super().__init__()
        self._levels = [Line() for _ in range(64)]
        self._occupied = 0
        self._last_level = 63
        self._picks = 0
        self._next = None
        self._ran = 0
        self._goes_on_to = 0
        self._others = False

    # A group that waits in a level keeps its place until it is next popped: one poll late, and no search.

    def _put(self, task: ScheduledTask) -> bool:
        return self._put_in_group(task) if task.group is not None else counted(self, qlas_enter(self, task))

    def _get(self) -> ScheduledTask | None:
        return None if self._count == 0 else task_of(self, qlas_next(self))

    def _enter(self, account: HeapNode) -> bool:
        return qlas_enter(self, account)

    def _make_room(self, account: HeapNode) -> None:
        if self._next is not None:
            cython.cast(Line, self._levels[_level(self._next.key)]).make_room()
            line_up(self, self._next)
            self._next = None
        cython.cast(Line, self._levels[_level(account.key)]).make_room()


def qlas_enter(qlas: QLAS, account: HeapNode) -> bool:
    """The account has a runnable task now. False if there is no room for it."""
    if qlas._next is None:
        if qlas._ran == address_of(account):
            qlas._next = account
            return True
        qlas._others = True
    elif line_up(qlas, qlas._next):
        qlas._next = None
        qlas._others = True
    else:
        return False
    return line_up(qlas, account)


def qlas_next(qlas: QLAS) -> HeapNode:
    """Remove and return the account whose turn it is. There must be one."""
    qlas._picks += 1
    round_robin = qlas._picks & (_ROUND_ROBIN_EVERY - 1) == 0
    account = qlas._next
    if account is not None:
        if account.key < qlas._goes_on_to and not round_robin and not qlas._others:
            qlas._next = None
            return account
        if not line_up(qlas, account):
            qlas._make_room(account)
        qlas._next = None
    lowest = number = _lowest_above(qlas._occupied, 0)
    if round_robin:
        number = _lowest_above(qlas._occupied, (qlas._last_level + 1) & 63)
        qlas._last_level = number
    level = cython.cast(Line, qlas._levels[number])
    account = cython.cast(HeapNode, level.pop())
    if level.count == 0:
        qlas._occupied &= ~(_LEVEL_0 << number)
    qlas._ran = address_of(account)
    qlas._others = False
    # No further than the end of the level; not at all while a lower one waits, or beyond weeks.
    level_ends = (_LEVEL_0 << number) * 1_000 if number == lowest and number < 50 else 0
    qlas._goes_on_to = min(account.key + _STINT_NS, level_ends)
    return account  # type: ignore[no-any-return]


def line_up(qlas: QLAS, account: HeapNode) -> bool:
    """In its level. False if there is no room."""
    number = _level(account.key)
    level = cython.cast(Line, qlas._levels[number])
    if level.count == level.room:
        return False
    level.push(account)
    qlas._occupied |= _LEVEL_0 << number
    return True


def _lowest_above(occupied: int, level: int) -> int:
    """The lowest occupied level from `level` on, or else the lowest of all."""
    above = occupied >> level << level
    candidates = above if above else occupied
    lowest: int = bit_length(candidates & -candidates)
    return lowest - 1


def _level(service_ns: int) -> int:
    # Below 0 if somebody has told us so.
    return bit_length(max(service_ns, 0) // 1000)  # type: ignore[no-any-return]


BUILT_IN = (ArrivalFifo, LAS, QLAS)


def is_built_in(scheduler: Scheduler) -> bool:
    """Whether the core may call `_put`, `_get` and `_charge`: of a subclass these would miss what it has overridden."""
    return type(scheduler) in BUILT_IN
