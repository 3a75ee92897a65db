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

More of them have modules of their own: `FairGroups`, `FairFifo`, `EDF`, `FairSRPT`.

A task that was spawned without a group is a group of its own. ArrivalFifo, LAS and QLAS are in `_orders_cy`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._heap_cy import HeapNode

if cython.compiled:
    from cython.cimports.clockworker.executor._native import document


class ScheduledTask(HeapNode):
    """A task as schedulers and the executor see it: one object a task, from its first step to its last.

    task: asyncio's.
    group: None if it was spawned without one: then it is its own.
    arrival: 1 for the executor's first task, and so on; of one that a task of its queue has started, that one's.
    service_ns: CPU time attained so far.
    slot: for the scheduler's own use; it dies with the task.
    next: RunnableFifo's link, None while not in such a list.
    key: a heap's, the smallest first; LAS and QLAS count in it what the task has attained, if it has no group.
    tie: a heap's, the smallest first of those with equal keys.
    position: in a heap; -1 while it is in none.
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
        self.tie = arrival << 20  # PUSH_BITS of _orders_cy
        self.position = -1
        self.task = task
        self.group = group
        self.arrival = arrival
        self.service_ns = 0
        self.slot = None
        self.next = None


if cython.compiled:
    # Each field says what it is, as the class does.
    for field, said in re.findall(r"^    (\w+): (.*)$", str(ScheduledTask.__doc__), re.MULTILINE):
        if (descriptor := getattr(ScheduledTask, field, None)) is not None:
            document(descriptor, said.encode())


class Scheduler:
    """Base class: override all of `push`, `pop` and `__len__`, and what else your policy needs.

    A scheduler that raises, or returns what it was not holding, is reported to the loop's exception handler and replaced by a
    `RunnableFifo`. No task is lost.
    """

    _owner: Any  # the core of the executor that it works for, while that has a loop
    # Of ours only: pop() may return None, since none of those inside may run now. Then the queue rests until a task of it ends
    # or is pushed, or the core is told to `reconsider` it.
    _holds: bool

    def push(self, task: ScheduledTask) -> None:
        """`task` has become runnable. It is not in the scheduler already."""
        raise NotImplementedError(f"{type(self).__name__} must define push(task)")

    def pop(self) -> ScheduledTask:
        """Remove and return the task to run next. Only called while `len()` is not 0; those built in raise IndexError else."""
        raise NotImplementedError(f"{type(self).__name__} must define pop()")

    def observe(self, task: ScheduledTask, elapsed_ns: int) -> None:
        """A step of `task` took `elapsed_ns`. It may be runnable again already."""

    def forget_task(self, task: ScheduledTask) -> None:
        """`task` is done. It is not in the scheduler."""

    def forget_group(self, group: Hashable) -> None:
        """No task of `group` is left in this queue."""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__()")

    def _let_begin(self, task: ScheduledTask) -> None:
        """Of one that holds: this task, which is inside, must end soon. It was aborted."""

    def _let_go(self, all_of_them: bool) -> None:
        """Of one that holds: from now on nothing is held, since all tasks leave. False: that is over."""

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


def owner_of(scheduler: Scheduler) -> Any:
    """The core that it works for, or None."""
    return scheduler._owner if cython.compiled else getattr(scheduler, "_owner", None)


def set_owner(scheduler: Scheduler, core: Any) -> None:
    """From now on it works for this core; None: for nobody."""
    scheduler._owner = core


if not cython.compiled:
    Scheduler._holds = False

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
