# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""Schedulers: which of a queue's runnable tasks runs next.

A `Scheduler` holds the runnable tasks of one queue. The executor pushes a task when it becomes runnable, pops the next
one, and after the step tells what it cost (`observe`). When a task or the last task of a group is done, its state goes
(`forget_task`, `forget_group`). A user's own scheduler is a subclass in plain Python.

- `RunnableFifo`: in the order in which they became runnable, what asyncio does. Keeps no state but a linked list.
- `ArrivalFifo`: in the order in which they were spawned; the oldest, and what it has started, always goes first.
- `LAS`, least attained service (Kleinrock, Queueing Systems II, 1976; "foreground-background"): the group that has had the
  least CPU time so far. Favours short work without being told how long it is; a group that has had much
  waits for as long as those with less keep the queue busy.
- `QLAS`: LAS between powers of two of microseconds, round robin within one, and every 16th pop goes round robin over the
  levels, so that nobody starves (multi-level feedback, Corbato et al., 1962).

A task that was spawned without a group is a group of its own.

*What the built-in ones cost.* The core calls them for every step, by C methods that can neither fail nor call anything of the
application's: `_put`, `_get` and `_charge`. Where one of these would have to (memory, a group's key that is seen for the first
time) it says so, and the core goes the way that a scheduler of the application's goes. A task that is alone, is
again the first, or has just been started by who is, is kept before the heap (`_next`). What a group has attained is in the
node's `key`; it only grows, so a node in the heap is moved down when it has come to the top, and not at each step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._heap_cy import HeapNode, KeyHeap, Line

if cython.compiled:
    from cython.cimports.clockworker.executor._native import bit_length
else:
    bit_length = int.bit_length

# Every 16th pop of QLAS ignores the levels.
_ROUND_ROBIN_EVERY = 16
# The lower bits of a task's `tie`, in which ArrivalFifo counts its pushes. The others are the place below `arrival`.
PUSH_BITS = 20
_PUSH_MASK = (1 << PUSH_BITS) - 1
# Bit 0 of the levels. Its type in the .pxd has 64 bits; a plain 1 would be shifted as a C int, which has 32.
_LEVEL_0 = 1


class ScheduledTask(HeapNode):
    """A task as schedulers and the executor see it: one object a task, from its first step to its last.

    task: asyncio's.
    group: None if it was spawned without one: then it is its own.
    arrival: 1 for the executor's first task, and so on; of one that a task of its queue has started, that one's.
    service_ns: CPU time attained so far.
    slot: for the scheduler's own use; it dies with the task.
    next: RunnableFifo's link, None while not in such a list. key, tie, position: a heap's, for a scheduler that has one. LAS
        and QLAS count in `key` what the task has attained, if it has no group.
    """

    task: asyncio.Task[Any]
    group: Hashable
    arrival: int
    service_ns: int
    slot: object
    next: ScheduledTask | None

    # No call of super's: one of these is made for every task that is spawned.
    def __init__(self, task: asyncio.Task[Any], group: Hashable, arrival: int) -> None:
        self.key = 0
        self.tie = 0
        self.position = -1
        self.task = task
        self.group = group
        self.arrival = arrival
        self.service_ns = 0
        self.slot = None
        self.next = None


class Scheduler:
    """Base class: override all of `push`, `pop` and `__len__`, and what else your policy needs.

    A scheduler that raises, or returns what it was not holding, is reported to the loop's exception handler and replaced by a
    `RunnableFifo`. No task is lost.
    """

    _owner: Any  # the core of the executor that it works for, while that has a loop

    def push(self, task: ScheduledTask) -> None:
        """The task has become runnable. It is not in the scheduler already."""
        raise NotImplementedError(f"{type(self).__name__} must define push(task)")

    def pop(self) -> ScheduledTask:
        """Remove and return the task to run next. Only called while `len()` is not 0."""
        raise NotImplementedError(f"{type(self).__name__} must define pop()")

    def observe(self, task: ScheduledTask, elapsed_ns: int) -> None:
        """The task's step took `elapsed_ns`. It may be runnable again already."""

    def forget_task(self, task: ScheduledTask) -> None:
        """The task is done. It is not in the scheduler."""

    def forget_group(self, group: Hashable) -> None:
        """No task of the group is left in this queue."""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__()")

    # Of those that are built in (`is_built_in`), in C.

    def _put(self, task: ScheduledTask) -> bool:
        """`push`. False: nothing is done, and it must be called instead."""
        return False

    def _get(self) -> ScheduledTask | None:
        """`pop`; None if there is none."""
        return None

    def _charge(self, task: ScheduledTask, elapsed_ns: int) -> bool:
        """`observe`. False: nothing is done, and it must be called instead."""
        return False


class RunnableFifo(Scheduler):
    """First runnable, first run. The default.

    The core of an executor keeps a linked list in it by `fifo_push` and `fifo_pop`, which nobody else can reach: a task that is
    put into two lists would break both. By hand, and by a subclass, tasks are pushed to another place.
    """

    _first: ScheduledTask | None
    _last: ScheduledTask | None
    _count: int
    _ahead: Any  # compiled: what _look_ahead.pxd has come to
    _by_hand: deque[ScheduledTask] | None

    def __init__(self) -> None:
        self._first = None
        self._last = None
        self._count = 0
        self._by_hand = None

    def push(self, task: ScheduledTask) -> None:
        if self._by_hand is None:
            self._by_hand = deque()
        self._by_hand.append(task)

    def pop(self) -> ScheduledTask:
        if not self._by_hand:
            raise IndexError("pop from an empty scheduler")
        return self._by_hand.popleft()

    def __len__(self) -> int:
        return self._count + (len(self._by_hand) if self._by_hand is not None else 0)


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

    def _put(self, task: ScheduledTask) -> bool:
        if task.group is None:
            if not self._enter(task):
                return False
        else:
            if type(task.slot) is not ServiceGroup:
                return False
            group: ServiceGroup = task.slot
            if group.first is None and not self._enter(group):
                return False
            if not group.add(task):
                return False
        self._count += 1
        return True

    def _get(self) -> ScheduledTask | None:
        if self._count == 0:
            return None
        account = self._least()
        self._count -= 1
        if type(account) is ServiceGroup:
            group: ServiceGroup = account
            task = group.take()
            if group.first is not None and not self._enter(group):
                self._make_room(group)
                self._enter(group)
            return task
        return cython.cast(ScheduledTask, account)  # type: ignore[return-value]

    def _charge(self, task: ScheduledTask, elapsed_ns: int) -> bool:
        if task.group is None:
            task.key += elapsed_ns
            return True
        if type(task.slot) is not ServiceGroup:
            return False
        group: ServiceGroup = task.slot
        group.key += elapsed_ns
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

    def _least(self) -> HeapNode:
        """Remove and return the account whose turn it is. There must be one."""
        raise NotImplementedError

    def _has_less(self) -> None:
        """Some account has less than it had."""


class LAS(_ServiceScheduler):
    """Least attained service first, by group; equals in the order in which they became runnable."""

    _heap: KeyHeap  # by what each had when it entered
    _turn: int
    _next: HeapNode | None  # in line, and not in the heap, the first of which it came before when it entered
    _next_turn: int

    def __init__(self) -> None:
        super().__init__()
        self._heap = KeyHeap()
        self._turn = 0
        self._next = None
        self._next_turn = 0

    def _enter(self, account: HeapNode) -> bool:
        heap = self._heap
        self._turn += 1
        if self._next is None and (heap.count == 0 or account.key < heap.places[0].key):
            self._next = account
            self._next_turn = self._turn
            return True
        if heap.count == heap.room:
            return False
        heap.push(account.key, self._turn, account)
        return True

    def _make_room(self, account: HeapNode) -> None:
        self._heap.make_room()

    def _least(self) -> HeapNode:
        heap = self._heap
        first = self._next
        if first is None:
            first = cython.cast(HeapNode, heap.nodes[heap.places[0].slot])
            if first.key == heap.places[0].key:
                return cython.cast(HeapNode, heap.pop())
            return self._least_of_heap(None)
        self._next = None
        if heap.count == 0 or _before(first.key, self._next_turn, heap.places[0].key, heap.places[0].tie):
            return first
        return self._least_of_heap(first)

    def _least_of_heap(self, first: HeapNode | None) -> HeapNode:
        """Or `first`, if it comes before what has come to the top."""
        heap = self._heap
        while True:
            account = cython.cast(HeapNode, heap.nodes[heap.places[0].slot])
            if account.key == heap.places[0].key:
                break
            heap.move_top(account.key)  # it has had something since it entered
            if first is not None and _before(first.key, self._next_turn, heap.places[0].key, heap.places[0].tie):
                return first
        if first is None:
            heap.pop()
        else:
            heap.replace_top(first.key, self._next_turn, first)
        return account

    def _has_less(self) -> None:
        self._heap.keys_changed()


class QLAS(_ServiceScheduler):
    """Least attained service first, between powers of two of microseconds; round robin within one.

    A group's level is the bit length of its service in microseconds. Every 16th pop takes from the levels in turn instead
    of the lowest.
    """

    _levels: list[Line]
    _occupied: int  # bit i: level i has groups
    _last_level: int  # served by the last round-robin pop
    _picks: int

    def __init__(self) -> None:
        super().__init__()
        self._levels = [Line() for _ in range(64)]
        self._occupied = 0
        self._last_level = 63
        self._picks = 0

    # A group that waits already keeps its place until it is next popped: one poll late, and no search.

    def _enter(self, account: HeapNode) -> bool:
        number = _level(account.key)
        level: Line = self._levels[number]
        if level.count == level.room:
            return False
        level.push(account)
        self._occupied |= _LEVEL_0 << number
        return True

    def _make_room(self, account: HeapNode) -> None:
        level: Line = self._levels[_level(account.key)]
        level.make_room()

    def _least(self) -> HeapNode:
        self._picks += 1
        number = self._lowest_above(0)
        if self._picks % _ROUND_ROBIN_EVERY == 0:
            number = self._lowest_above((self._last_level + 1) & 63)
            self._last_level = number
        level: Line = self._levels[number]
        account = cython.cast(HeapNode, level.pop())
        if level.count == 0:
            self._occupied &= ~(_LEVEL_0 << number)
        return account

    def _lowest_above(self, level: int) -> int:
        """The lowest occupied level from `level` on, or else the lowest of all."""
        above = self._occupied >> level << level
        candidates = above if above else self._occupied
        lowest: int = bit_length(candidates & -candidates)
        return lowest - 1


def _level(service_ns: int) -> int:
    return bit_length(max(service_ns, 0) // 1000)  # below 0 if somebody has told us so


BUILT_IN = (ArrivalFifo, LAS, QLAS)


def is_built_in(scheduler: Scheduler) -> bool:
    """Whether the core may call `_put`, `_get` and `_charge`: of a subclass these would miss what it has overridden."""
    return type(scheduler) in BUILT_IN


def owner_of(scheduler: Scheduler) -> Any:
    """The core that it works for, or None."""
    return scheduler._owner if cython.compiled else getattr(scheduler, "_owner", None)


def set_owner(scheduler: Scheduler, core: Any) -> None:
    """From now on it works for this core; None: for nobody."""
    scheduler._owner = core


if not cython.compiled:

    def fifo_push(fifo: RunnableFifo, task: ScheduledTask) -> None:
        """To the end of the core's list."""
        if fifo._count == 0:
            fifo._first = task
        else:
            fifo._last.next = task  # type: ignore[union-attr]
        fifo._last = task
        fifo._count += 1

    def fifo_pop(fifo: RunnableFifo) -> ScheduledTask | None:
        """The first of the core's list; None if it is empty."""
        task = fifo._first
        if task is None:
            return None
        fifo._first = task.next
        task.next = None
        fifo._count -= 1
        if fifo._count == 0:
            fifo._last = None
        return task
