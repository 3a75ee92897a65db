# cython: language_level=3, annotation_typing=False, auto_pickle=False
"""Members: the tasks that are an executor's own, and the place of each.

A task's *membership* (`_tasks_cy`) is looked up once, when the task is first seen at the seam; then it is in a table until it
is done. The table's reference is strong: a pending task of a queue is never collected. It counts in its queue and its group,
and the group is there for as long as it has tasks.

`spawn` knows the membership before there is a task, and the task's constructor calls our `call_soon` with its first step: so
the seam is told what to expect, and takes the next first step for the one that was announced.

A scheduler may be a user's own, and fail. What it was holding is known here too, so no task is lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import operator
import types
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._schedulers_cy import RunnableFifo
from clockworker.executor._seam_cy import Seam
from clockworker.executor._table_cy import TaskTable
from clockworker.executor._task_maker_cy import TaskMaker
from clockworker.executor._tasks_cy import JoinHandle, Membership, QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._registry_cy import leave_out
    from cython.cimports.clockworker.executor._seam_cy import has_exception
    from cython.cimports.clockworker.executor._tasks_cy import MEMBERSHIP
else:
    from time import monotonic_ns as now_ns

    from clockworker.executor._registry_cy import leave_out
    from clockworker.executor._seam_cy import has_exception
    from clockworker.executor._tasks_cy import MEMBERSHIP

# A C global when compiled: an attribute of a module would be looked up at each spawn.
_CoroutineType = types.CoroutineType
_ARRIVAL = operator.attrgetter("arrival")


class Members(Seam):
    """The tasks of one executor. Its subclass queues their steps (`take`)."""

    owner: Any  # the Executor; told of panics
    default: Membership | None  # of tasks that bring none; None: those are not ours
    accepting: bool
    current: JoinHandle | None  # whose step runs
    _maker: TaskMaker
    _get_task_factory: Callable[[], object]
    _table: TaskTable
    _arrivals: int
    _spawning: Membership | None  # set while `spawn` makes a task
    _spawned: JoinHandle | None  # what the seam made of it
    _singles_of_others: set[JoinHandle]  # single steps, in queues whose scheduler may fail; they are in no table

    def __init__(self, owner: Any) -> None:
        super().__init__()
        self.owner = owner
        self.default = None
        self.accepting = False
        self.current = None
        self._maker = TaskMaker()
        self._table = TaskTable()
        self._arrivals = 0
        self._spawning = None
        self._spawned = None
        self._singles_of_others = set()

    def tasks(self) -> list[JoinHandle]:
        """All member tasks that are not done."""
        return self._table.states()

    def group(self, queue: QueueState, key: Hashable) -> Membership:
        """The membership of a group: the group's own while it has tasks, else a new one."""
        membership = queue.groups.get(key)
        return Membership(self, queue, key) if membership is None else membership

    # Coming

    def spawn(self, membership: Membership, coroutine: Coroutine[Any, Any, Any], name: str | None) -> JoinHandle:
        """A new task in the membership's queue and group, its first step queued."""
        loop = self.loop
        if not self.accepting or loop is None:
            if asyncio.iscoroutine(coroutine):
                coroutine.close()
            raise UsageError("the executor is not running: spawn inside its `async with`, before it ends")
        if type(coroutine) is not _CoroutineType and not asyncio.iscoroutine(coroutine):
            raise TypeError(f"spawn() takes a coroutine, such as work() of `async def work`, and got {coroutine!r}")
        if self._get_task_factory() is None:
            # The constructor calls our call_soon, which need not look up what is known here.
            self._spawning = membership
            self._spawned = None
            try:
                task = self._maker.make(coroutine, name, membership)
            finally:
                self._spawning = None
            state = self._spawned
            self._spawned = None
            if state is None or state.task is not task:
                # While memory was allocated, a finalizer started a task of its own: that one came first.
                state = self._table.get(task)
        else:
            if name is None:
                name = getattr(coroutine, "__qualname__", None)
            context = membership.context()
            task = loop.create_task(coroutine, name=name, context=context)
            state = self._table.get(task)
        if state is None:
            # An eager task factory has run its first step already, perhaps its last.
            state = JoinHandle.__new__(JoinHandle)
            state.begin(task, membership, membership.context(), 0)
            if not task.done():
                self._enter(state)
        state.spawned = True
        membership.queue.spawned += 1
        return state

    def _expected(self, task: asyncio.Task[Any], context: contextvars.Context) -> JoinHandle:
        """The state of a task that `spawn` has announced."""
        membership: Membership = self._spawning  # type: ignore[assignment]
        self._spawning = None  # first: while memory is allocated a finalizer may spawn
        state = JoinHandle.__new__(JoinHandle)
        self._arrivals += 1
        state.begin(task, membership, context, self._arrivals)
        self._enter(state)
        self._spawned = state
        leave_out(task)
        return state

    def _adopt(self, task: asyncio.Task[Any], context: contextvars.Context) -> JoinHandle | None:
        """The state of a task that is seen for the first time; None if it is none of ours."""
        membership = context.get(MEMBERSHIP)
        if membership is None or membership.core is not self:
            membership = self.default
            if membership is None:
                return None
        state = JoinHandle.__new__(JoinHandle)
        self._arrivals += 1
        state.begin(task, membership, context, self._arrivals)
        self._enter(state)
        return state

    def _enter(self, state: JoinHandle) -> None:
        state.first_seen_ns = now_ns()
        self._join(state, state.membership)
        self._table.put(state)

    def _join(self, state: JoinHandle, membership: Membership) -> None:
        queue = membership.queue
        if membership.group is not None:
            # A group may have ended and come back while a context still held the old membership.
            membership = queue.groups.setdefault(membership.group, membership)
        state.membership = membership
        state.group = membership.group
        membership.live += 1
        queue.live += 1

    # Moving, and going

    def switch(self, membership: Membership) -> None:
        """Move the task whose step is running. What this step costs is still its old queue's."""
        state = self.current
        if state is None:
            raise UsageError("switch_to() moves the task that calls it, and the caller is in no queue of this executor")
        MEMBERSHIP.set(membership)
        self._depart(state)
        self._join(state, membership)

    def _leave(self, state: JoinHandle) -> None:
        """The task is done."""
        task = state.task
        queue = state.membership.queue
        state.context = None
        self._table.remove(state, state.first_waiter is not None)
        self._depart(state)
        queue.finished += 1
        if state.first_waiter is not None:
            state.release(task)
        # The exception is None if it was cancelled. Not task.exception(): that would count as retrieved, and asyncio would
        # not report one that nobody awaits.
        if state.spawned and has_exception(task):
            queue.panics += 1
            if not queue.catch:
                self.owner.panicked(state)

    def _depart(self, state: JoinHandle) -> None:
        membership = state.membership
        queue = membership.queue
        queue.live -= 1
        membership.live -= 1
        last = membership.live == 0 and membership.group is not None
        if last:
            queue.groups.pop(membership.group, None)
        if queue.fifo is None:
            try:
                queue.scheduler.forget_task(state)
                if last:
                    queue.scheduler.forget_group(membership.group)
            except Exception as error:
                self._replace_scheduler(queue, error)

    def _replace_scheduler(self, queue: QueueState, error: Exception) -> None:
        """A scheduler has failed. A RunnableFifo goes on with what it was holding."""
        failed = type(queue.scheduler).__name__
        queue.use(RunnableFifo())
        queue.runnable = 0
        for state in sorted([*self._table.states(), *self._singles_of_others], key=_ARRIVAL):
            if state.queued and not state.held and state.membership.queue is queue:
                state.next = None
                queue.scheduler.push(state)
                queue.runnable += 1
        self.loop.call_exception_handler(  # type: ignore[union-attr]
            {
                "message": f"the scheduler {failed} of queue {queue.key!r} failed; a RunnableFifo has taken its place",
                "exception": error,
            }
        )
