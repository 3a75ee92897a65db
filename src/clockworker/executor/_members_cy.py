# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Members: the tasks that are an executor's own, and the place of each.

A task's *membership* (`_tasks_cy`) is looked up once, when the task is first seen at the seam; then it is in a table until it
is done. The table's reference is strong: a pending task of a queue is never collected. It counts in its queue and its group,
and the group is there for as long as it has tasks.

`spawn` knows the membership before there is a task, and the task's constructor calls our `call_soon` with its first step: so
the seam is told what to expect, and takes the next first step for the one that was announced.

*What is not ours.* Schedulers, keys of groups, futures, tracers and callbacks are the application's: they may raise anything,
answer what is not true, and call back into us. So each is called where the books are right, from a method of its own that lets
no exception out; what it raises is reported to the loop's exception handler, once (`report`). What a scheduler was holding is
known here too, so that no task is lost with one that fails. KeyboardInterrupt and SystemExit, which end the program, wait for
the end of the turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import operator
import types
from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError, UsageError
from clockworker.executor._cpython_cy import holds
from clockworker.executor._running_queue_cy import RunningQueue
from clockworker.executor._schedulers_cy import RunnableFifo, Scheduler, owner_of
from clockworker.executor._seam_cy import Seam
from clockworker.executor._table_cy import TaskTable
from clockworker.executor._task_maker_cy import TaskMaker
from clockworker.executor._tasks_cy import JoinHandle, Membership, QueueState

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._native import PyThread_get_thread_ident
    from cython.cimports.clockworker.executor._orders_cy import PUSH_BITS
    from cython.cimports.clockworker.executor._registry_cy import leave_out
    from cython.cimports.clockworker.executor._schedulers_cy import fifo_push
    from cython.cimports.clockworker.executor._seam_cy import has_exception
    from cython.cimports.clockworker.executor._tasks_cy import MEMBERSHIP
else:
    from threading import get_ident as PyThread_get_thread_ident

    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._orders_cy import PUSH_BITS
    from clockworker.executor._registry_cy import leave_out
    from clockworker.executor._schedulers_cy import fifo_push
    from clockworker.executor._seam_cy import has_exception
    from clockworker.executor._tasks_cy import MEMBERSHIP

# A C global when compiled: an attribute of a module would be looked up at each spawn.
_CoroutineType = types.CoroutineType
_Task = asyncio.Task
_PLAIN = not (holds("step") and holds("wakeup"))
_FORCE = holds("force")
_ARRIVAL = operator.attrgetter("arrival", "tie")


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
    _calling_out: int  # the application's code is called, and nothing of ours must begin before it returns
    _ending: BaseException | None  # ends the program, as soon as this turn is over
    _turn_must_end: int  # when

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
        self._calling_out = 0
        self._ending = None
        self._turn_must_end = 0

    def runs(self, handle: Any) -> bool:
        """Whether the caller is a step of that task."""
        if self.loop is None:  # its tasks are the loop's own
            return asyncio.current_task() is handle.task
        return self.current is handle

    def contains_caller(self) -> bool:
        """Whether the caller runs in a place of this executor."""
        membership = MEMBERSHIP.get(None)
        return membership is not None and membership.core is self

    def report(self, message: str, error: BaseException) -> None:
        """Tell the loop's exception handler what code that is not ours has raised. What ends the program ends the turn."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self.end_program(error)
            return
        loop = self.loop
        if loop is not None:
            self._calling_out += 1
            try:
                loop.call_exception_handler({"message": message, "exception": error})
            except (KeyboardInterrupt, SystemExit) as worse:
                self.end_program(worse)
            except BaseException:
                pass  # a handler that fails has had its chance
            finally:
                self._calling_out -= 1

    def end_program(self, error: BaseException) -> None:
        """KeyboardInterrupt or SystemExit, to leave the loop with when the turn, which ends now, is over."""
        if self._ending is None:
            self._ending = error
        self._turn_must_end = 0

    def tasks(self) -> list[JoinHandle]:
        """All member tasks that are not done."""
        return self._table.states()

    def pending(self) -> list[asyncio.Task[Any]]:
        """The tasks that are not done. One that has ended outside of our steps, in the hands of a future that woke it twice, is
        left here and now: nothing else would come of it."""
        found = []
        for state in self._table.states():
            if not state.task.done():
                found.append(state.task)
            elif not state.queued and state is not self.current:
                self._leave(state)
        return found

    def group(self, queue: QueueState, key: Hashable) -> Membership:
        """The membership of a group: the group's own while it has tasks, else a new one."""
        membership = queue.groups.get(key)
        return Membership(self, queue, key) if membership is None else membership

    # Coming

    def spawn(self, membership: Membership, coroutine: Coroutine[Any, Any, Any], name: str | None) -> JoinHandle:
        """A new task in the membership's queue and group, its first step queued."""
        loop = self.loop
        if not self.accepting or loop is None:
            close_unstarted(coroutine)
            raise UsageError("the executor is not running: spawn inside its `async with`, before it ends")
        if PyThread_get_thread_ident() != self._thread and not self.is_own_thread():
            close_unstarted(coroutine)
            self.check_thread("queue.spawn")
        if type(coroutine) is not _CoroutineType and not asyncio.iscoroutine(coroutine):
            raise TypeError(f"spawn() takes a coroutine, such as work() of `async def work`, and got {coroutine!r}")
        if membership.group is not None and membership.live == 0:
            check_group(membership.group, coroutine)
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
            if not isinstance(task, _Task):  # its fields are read in C
                raise UsageError(
                    f"the loop's task factory made {shown(task)}; an executor runs asyncio.Task and its subclasses only"
                )
            state = self._table.get(task)
        if state is None:
            # An eager task factory has run its first step already, perhaps its last.
            state = JoinHandle.__new__(JoinHandle)
            state.begin(task, membership, membership.context())
            self._give_place(state)
            if not task.done():
                self._enter(state)
        state.spawned = True
        membership.queue.spawned += 1
        return state

    def _expected(self, task: asyncio.Task[Any], context: contextvars.Context) -> JoinHandle:
        """The state of a task that `spawn` has announced."""
        if _PLAIN:
            known = self._table.get(task)
            if known is not None:  # a finalizer has woken it meanwhile, and wake-ups look like steps
                return known
        membership: Membership = self._spawning  # type: ignore[assignment]
        self._spawning = None  # first: while memory is allocated a finalizer may spawn
        state = JoinHandle.__new__(JoinHandle)
        state.begin(task, membership, context)
        self._give_place(state)
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
        if self.loop is None:  # who kept our call_soon beyond our time: nothing here would run the task
            return None
        state = JoinHandle.__new__(JoinHandle)
        state.begin(task, membership, context)
        self._give_place(state)
        self._enter(state)
        return state

    def _give_place(self, state: JoinHandle) -> None:
        """In the order of arrival. What a task starts in its own queue is work of its own, and has its place: else who is first
        would have to wait for all others whenever it waits for a task that it has started. There is one level below: those that
        one task has started are in the order in which it did, so one that only starts others does not make them all alike."""
        self._arrivals += 1
        parent = self.current
        if parent is None or parent.membership.queue is not state.membership.queue:
            state.arrival = self._arrivals
            state.tie = self._arrivals << PUSH_BITS
        else:
            state.arrival = parent.arrival
            first = parent.tie >> PUSH_BITS == parent.arrival
            state.tie = self._arrivals << PUSH_BITS if first else parent.tie

    def _enter(self, state: JoinHandle) -> None:
        state.first_seen_ns = now_ns()
        self._join(state, state.membership)
        self._table.put(state)

    def _join(self, state: JoinHandle, membership: Membership) -> None:
        queue = membership.queue
        if membership.group is not None and membership.live == 0:
            membership = self._begin_group(membership)
        state.membership = membership
        state.group = membership.group
        state.key = 0  # whatever the scheduler of another queue has counted there
        membership.live += 1
        queue.live += 1

    # Moving, and going

    def switch(self, membership: Membership) -> None:
        """Move the task whose step is running. What this step costs is still its old queue's."""
        state = self.current
        self.check_thread("switch_to")
        if state is None:
            raise UsageError("switch_to() moves the task that calls it, and the caller is in no queue of this executor")
        if state.queued:
            raise UsageError(
                "switch_to() was called by a task that what it waited for has woken twice, and is in its queue"
            )
        if membership.group is not None:
            check_group(membership.group, None)
        MEMBERSHIP.set(membership)
        self._depart(state)
        self._join(state, membership)

    def _leave(self, state: JoinHandle) -> None:
        """The task is done."""
        task = state.task
        queue = state.membership.queue
        awaited = state.first_waiter is not None
        state.context = None
        self._table.remove(state, awaited)
        self._depart(state)
        queue.finished += 1
        if awaited:
            state.wake_waiters()
        # The exception is None if it was cancelled. Not task.exception(): that would count as retrieved, and asyncio would
        # not report one that nobody awaits.
        if state.spawned and has_exception(task):
            queue.panics += 1
            if not queue.catch and not awaited:  # else it is raised there
                self._tell_of_panic(state)

    def _depart(self, state: JoinHandle) -> None:
        membership = state.membership
        queue = membership.queue
        queue.live -= 1
        membership.live -= 1
        last = membership.live == 0 and membership.group is not None and self._end_group(membership)
        if queue.built_in is not None and not last:
            state.slot = None
            state.key = 0
        elif queue.fifo is None:
            self._forget(state, membership, last)

    def _begin_group(self, membership: Membership) -> Membership:
        """Its first task. A group may have ended and come back while a context still held the old membership: then that one."""
        self._calling_out += 1
        try:
            return membership.queue.groups.setdefault(membership.group, membership)  # type: ignore[no-any-return]
        except BaseException as error:
            self.report("the key of a group failed; the group has an account of its own", error)
            return membership
        finally:
            self._calling_out -= 1

    def _end_group(self, membership: Membership) -> bool:
        """Its last task is done. False if the group stays: the key fails, or has just started another."""
        groups = membership.queue.groups
        self._calling_out += 1
        try:
            groups.pop(membership.group, None)
            if membership.live:
                groups.setdefault(membership.group, membership)
        except BaseException as error:
            self.report("the key of a group failed; what was counted of the group stays", error)
            return False
        finally:
            self._calling_out -= 1
        return membership.live == 0

    # What is not ours

    def _forget(self, state: JoinHandle, membership: Membership, last: bool) -> None:
        queue = membership.queue
        scheduler = queue.scheduler
        self._calling_out += 1
        try:
            scheduler.forget_task(state)
            if last:
                scheduler.forget_group(membership.group)
        except BaseException as error:
            self._replace_scheduler(queue, scheduler, error)
        finally:
            self._calling_out -= 1

    def cancel(self, task: asyncio.Task[Any]) -> bool:
        """`task.cancel()`. False if what the task waits for has raised instead, which is reported."""
        try:
            task.cancel()
        except BaseException as error:
            self.report("a task could not be cancelled: what it waits for refused", error)
            return False
        return True

    def cancel_by_force(self, task: asyncio.Task[Any]) -> bool:
        """For one that could not be cancelled and has to end: cancel the future that it waits for, whatever the future's class
        says to that. False if it is no asyncio.Future."""
        try:
            future = task._fut_waiter if _FORCE else None  # type: ignore[attr-defined]
            return isinstance(future, asyncio.Future) and asyncio.Future.cancel(future)
        except BaseException as error:
            self.report("a task could not be cancelled by force", error)
            return False

    def _tell_of_panic(self, state: JoinHandle) -> None:
        try:
            self.owner.panicked(state)
        except BaseException as error:
            self.report("a panic could not be dealt with", error)

    def _replace_scheduler(self, queue: QueueState, scheduler: Scheduler, error: BaseException) -> None:
        """This scheduler has failed. A RunnableFifo goes on with what it was holding."""
        if queue.scheduler is not scheduler:
            return  # it has failed once more, further down
        fifo = RunnableFifo()
        queue.use(fifo)
        queue.runnable = 0 if queue.suspended is None else 1
        for state in sorted([*self._table.states(), *self._singles_of_others], key=_ARRIVAL):
            if state.membership.queue is queue:
                state.slot = None  # what the failed one had put there means nothing to another queue's
            if state.queued and not state.held and state.membership.queue is queue:
                state.next = None
                fifo_push(fifo, state)
                queue.runnable += 1
        self.report(
            f"the scheduler {type(scheduler).__name__} of queue {shown(queue.key)} failed; "
            "a RunnableFifo has taken its place",
            error,
        )


def shown(thing: object) -> str:
    """Its repr, for a message that has to come."""
    try:
        return repr(thing)
    except Exception:
        return object.__repr__(thing)


def check_schedulers(queues: Iterable[RunningQueue], core: object) -> None:
    """Whether those of the queues are free to work for this core. Raises `ConfigurationError`."""
    for queue in queues:
        owner = owner_of(queue.scheduler)
        if owner is not None and owner is not core and owner.is_attached():
            raise ConfigurationError(
                f"the scheduler of queue {shown(queue.key)} works for another executor, which is running: "
                f"an instance serves one queue of one executor; make a {type(queue.scheduler).__name__}() for each"
            )


def check_group(key: Hashable, coroutine: object) -> None:
    """A key that fails does so before anything is done."""
    try:
        hash(key)
    except BaseException:
        close_unstarted(coroutine)
        raise


def close_unstarted(coroutine: object) -> None:
    """What was to be spawned and will not be: else Python would complain that nobody has awaited it."""
    if asyncio.iscoroutine(coroutine):
        coroutine.close()
