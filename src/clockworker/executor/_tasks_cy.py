# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What the core keeps: of a queue, of a place in a queue, of a task, and of who waits for one.

*Membership* of a queue and group is a context variable, so all that a task starts, through any library, is in the same
queue. It is read once, when a task is first seen.

`JoinHandle` is one object for three purposes: what the user holds, what schedulers see (its base), and where the core keeps
the step that waits to run. A task costs one allocation here.

`Waiter` is why awaiting a handle is cheap: a future that only the core completes. It takes part in what the Task asks of a
future, whatever its class (`_asyncio_future_blocking`). Rejected: waiting for the task itself, for cancelling who waits on a
task cancels the task; and an `asyncio.Future` for each wait, which made `await handle` twice as expensive.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Generator, Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import TaskCancelled, TaskPanicked
from clockworker.executor._cpython_cy import holds
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._orders_cy import is_built_in
from clockworker.executor._outcome import Ok
from clockworker.executor._running_queue_cy import RunningQueue
from clockworker.executor._schedulers_cy import ScheduledTask, Scheduler
from clockworker.executor._seam_cy import Seam

if cython.compiled:
    from cython.cimports.clockworker.executor._native import (
        Py_REFCNT,
        PyContext_Copy,
        PyContext_CopyCurrent,
        PyContext_Enter,
        PyContext_Exit,
        PyContextVar_Set,
        PyObject_GC_IsTracked,
        PyObject_GC_Track,
        PyObject_GC_UnTrack,
        PyThread_get_thread_ident,
        context_value,
        copy_or_error,
        in_empty_context,
        proceed_by,
    )
    from cython.cimports.clockworker.executor._seam_cy import is_cancelled, is_done, is_wakeup, result_of
else:
    from threading import get_ident as PyThread_get_thread_ident

    from clockworker.executor._seam_cy import is_cancelled, is_done, result_of

_HIDES = holds("gc")  # C globals when compiled
_CONTEXT_SHOWS = holds("context")

MEMBERSHIP: contextvars.ContextVar[Membership] = contextvars.ContextVar("clockworker.membership")


@cython.final
@cython.cclass
class QueueState(RunningQueue):
    """One queue of an executor on asyncio: with what C may call of its scheduler, and the steps that are cut."""

    built_in: Scheduler | None  # the scheduler, if it is exactly one of those whose C methods the core may call
    sliced: bool  # its steps run in its fiber, and are cut
    suspended: JoinHandle | None  # whose step was cut
    fiber: Any  # `_fiber_cy.Fiber`, of a preemptive queue
    preemptive: bool
    cuts: int  # of steps
    refusals: dict[str, int]  # of cuts, by reason
    whole_step: Histogram  # all slices of each step together; of an ordinary queue, poll_time

    def __init__(self, key: Hashable, scheduler: Scheduler, catch: bool) -> None:
        RunningQueue.__init__(self, key, scheduler, catch)
        self.sliced = False
        self.suspended = None
        self.fiber = None
        self.preemptive = False
        self.cuts = 0
        self.refusals = {}
        self.whole_step = self.poll_time

    def use(self, scheduler: Scheduler) -> None:
        """Take the scheduler, which is empty."""
        RunningQueue.use(self, scheduler)
        self.built_in = scheduler if is_built_in(scheduler) else None


@cython.final
@cython.cclass
class Membership:
    """A place in a queue, with or without a group; the value of the context variable."""

    core: Seam
    queue: QueueState
    group: Hashable
    live: int  # tasks of the group; the group is dropped with the last
    service_ns: int  # CPU time of the group's tasks while it has lived
    _context_alone: contextvars.Context | None  # in which this is the only variable

    def __init__(self, core: Seam, queue: QueueState, group: Hashable) -> None:
        if core is None or queue is None:
            raise TypeError("a membership is of a queue of a core")
        self.core = core
        self.queue = queue
        self.group = group
        self.live = 0
        self.service_ns = 0
        self._context_alone = None

    def context(self) -> contextvars.Context:
        """A copy of the current context in which whatever is started has this membership."""
        if cython.compiled:
            if _CONTEXT_SHOWS and in_empty_context():
                # The most frequent case: copies of one context share what is in it.
                return PyContext_Copy(self._alone())  # type: ignore[no-any-return]
            context = PyContext_CopyCurrent()
            PyContext_Enter(context)
            try:
                PyContextVar_Set(MEMBERSHIP, self)
            finally:
                PyContext_Exit(context)
            return context  # type: ignore[no-any-return]
        context = contextvars.copy_context()
        context.run(MEMBERSHIP.set, self)
        return context

    def context_or_error(self) -> contextvars.Context | BaseException:
        """As `context`. An exception is returned: a `try` costs as much as half of the context does."""
        if cython.compiled and _CONTEXT_SHOWS and self._context_alone is not None and in_empty_context():
            return copy_or_error(self._context_alone)  # type: ignore[no-any-return]
        try:
            return self.context()
        except BaseException as error:
            return error

    def context_to_copy(self) -> contextvars.Context | None:
        """A context for a task's constructor to copy; None if the current one, which it copies anyway, has this membership.

        Not to be changed: it may be the one of all such tasks.
        """
        if context_value(MEMBERSHIP) == cython.cast(cython.p_void, self):
            return None
        return self._alone() if _CONTEXT_SHOWS and in_empty_context() else self.context()

    def _alone(self) -> contextvars.Context:
        if self._context_alone is None:
            self._context_alone = contextvars.Context()
            self._context_alone.run(MEMBERSHIP.set, self)
        return self._context_alone


@cython.freelist(64)
@cython.final
@cython.no_gc_clear
@cython.cclass
class Waiter:
    """Where one task waits for the end of another, once. Its iterator yields itself, which tells the Task to wait for it.

    Linked into its handle's list from then until it is over. Meanwhile, compiled, the collector of cycles looks neither into
    it nor into the wake-up: both are reachable through the table, which holds the task that is waited for. Before and after
    that anybody may keep it, in any cycle. It is not cleared by the collector: at its end it has to ask its handle something.
    """

    _asyncio_future_blocking: bool
    handle: JoinHandle
    quiet: bool  # only wait: neither raise nor return what became of the task
    waiting: bool  # has been yielded
    finished: bool  # who waits has been told
    was_cancelled: bool
    message: object  # of the cancellation
    callback: Any  # the wake-up of who waits
    context: contextvars.Context
    before: Waiter | None
    after: Waiter | None

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("what an `await` waits for is not made: `handle.__await__()` gives it")

    def __dealloc__(self) -> None:  # of compiled classes only
        if self.handle is not None and self.handle.hidden:
            if Py_REFCNT(cython.cast(cython.p_void, self.handle)) > 1:
                self.handle.show()
            elif Py_REFCNT(cython.cast(cython.p_void, self.handle.task)) > 1:  # the handle goes with its waiter
                PyObject_GC_Track(self.handle.task)

    def __iter__(self) -> Waiter:
        return self

    def __await__(self) -> Waiter:
        return self

    def __next__(self) -> Any:  # compiled: as `proceed_by` has it
        value = proceed(self)
        if value is self:
            return self
        raise StopIteration(value)

    # What asyncio asks of a future that a task waits for.

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:  # and no `get_loop`: a method is looked for first, and takes longer
        loop = self.handle.membership.core.loop
        return self.handle.task.get_loop() if loop is None else loop

    def add_done_callback(self, callback: Any, *, context: contextvars.Context) -> None:
        if cython.compiled and _HIDES and is_wakeup(callback):
            PyObject_GC_UnTrack(callback)
        self.callback = callback
        self.context = context

    def cancel(self, msg: object = None) -> bool:
        """Wake who waits with CancelledError. The task goes on."""
        if self.finished:
            return False
        self.was_cancelled = True
        self.message = msg
        if self.waiting:
            self.handle.remove(self)
        self.finish()
        return True

    def done(self) -> bool:
        return self.finished

    def cancelled(self) -> bool:
        return self.was_cancelled

    def result(self) -> None:
        if self.was_cancelled:
            raise asyncio.CancelledError() if self.message is None else asyncio.CancelledError(self.message)

    def show(self) -> None:
        """To the collector: it is in its handle's list no longer, or the table does not hold that."""
        if cython.compiled and self.waiting and not PyObject_GC_IsTracked(self):
            PyObject_GC_Track(self)

    def finish(self) -> None:
        """Tell who waits, if it has begun to."""
        self.finished = True
        self.show()
        if self.callback is not None:
            self.handle.membership.core.wake_waiter(self.callback, self, self.was_cancelled, self.context)
            self.callback = None


def proceed(awaited: Any) -> Any:
    """A handle is awaited: the waiter itself if it must wait, else what the task has returned. Raises what it has raised."""
    waiter: Waiter = awaited
    task = waiter.handle.task
    if is_done(task):
        if cython.compiled and waiter.handle.hidden and Py_REFCNT(cython.cast(cython.p_void, waiter)) > 1:
            waiter.handle.show()  # this one may be kept for longer than a moment
        if waiter.quiet:
            return None
        if is_cancelled(task):
            raise TaskCancelled(f"{task.get_name()} was aborted")
        return result_of(task)
    if waiter.waiting:
        raise RuntimeError("await wasn't used with future")
    core = waiter.handle.membership.core
    if PyThread_get_thread_ident() != core._thread and not core.is_own_thread():
        core.check_thread("await handle")
    if core.runs(waiter.handle):
        raise RuntimeError(f"Task cannot await on itself: {task.get_name()} awaits its own handle")  # as asyncio has it
    waiter.waiting = True
    waiter._asyncio_future_blocking = True
    waiter.handle.add(waiter)
    return waiter


if cython.compiled and holds("send"):
    proceed_by(Waiter, proceed)


@cython.final
@cython.cclass
class JoinHandle(ScheduledTask):
    """A spawned task, to wait for or to abort. Dropping the handle leaves the task running.

    `await handle` gives the task's value, raises the task's own exception, or `TaskCancelled` if the task was aborted. It
    may be awaited more than once, by several tasks. Cancelling one who waits does not touch the task.

    task: the genuine asyncio task. membership: its queue and group, as the executor has them.
    """

    # Tasks that were not spawned but inherited their queue have one too.
    membership: Membership
    callback: Any  # the step or wake-up that is queued, or the step that was last run
    argument: Any  # the wake-up's; None for a step
    queued: bool  # its step is; else it waits for something, runs, or is done
    context: contextvars.Context | None  # the task's, in which all its steps run; None once it is done
    held: bool  # back, with its step: it is not in the scheduler yet
    spawned: bool  # by `spawn`: then an exception that escapes it is a panic
    single: bool  # one step of no task (`Core.spawn_step`): `task` is its carrier, and not in the table
    hidden: bool  # done, and still out of the collector's sight: who waited has not gone on yet
    first_seen_ns: int  # 0 once it has been polled
    pushed_ns: int  # into its queue's scheduler, if this wait is measured; else 0
    first_waiter: Waiter | None
    last_waiter: Waiter | None

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a JoinHandle is not made: spawn() gives one")

    # Instead of a constructor, whose arguments would be packed and parsed at every spawn.
    def begin(self, task: asyncio.Task[Any], membership: Membership, context: contextvars.Context | None) -> None:
        """The core's: from here on it is the handle of this task, with membership and context, which has no place yet."""
        self.task = task
        self.context = context
        self.group = membership.group
        self.position = -1
        self.membership = membership
        if not cython.compiled:
            self.key = 0
            self.tie = 0
            self.service_ns = 0
            self.slot = None
            self.next = None
            self.callback = None
            self.argument = None
            self.queued = False
            self.held = False
            self.spawned = False
            self.single = False
            self.hidden = False
            self.first_seen_ns = 0
            self.pushed_ns = 0
            self.first_waiter = None
            self.last_waiter = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self.waiter(False)  # type: ignore[return-value]

    async def outcome(self) -> Ok[Any] | TaskPanicked | TaskCancelled:
        """Wait, and return what became of the task instead of raising it, for `match`."""
        task = self.task
        await self.waiter(True)  # type: ignore[misc]
        if task.cancelled():
            return TaskCancelled(f"{task.get_name()} was aborted")
        exception = task.exception()
        return Ok(task.result()) if exception is None else TaskPanicked(exception)

    def abort(self) -> bool:
        """Cancel the task at its next await, or before its first step. False if it was done already.

        Raises UsageError from a thread other than the executor's.
        """
        core: Any = self.membership.core
        core.check_thread("handle.abort")
        cancelled = self.task.cancel()
        if self.queued and self.membership.queue.fifo is None:
            core.let_begin(self)
        return cancelled

    def done(self) -> bool:
        """True once the task has returned, raised or been cancelled."""
        return self.task.done()

    __class_getitem__ = classmethod(types.GenericAlias)  # type: ignore[var-annotated]  # as type checkers know it

    def __repr__(self) -> str:
        return f"<JoinHandle of {self.task!r}>"

    def waiter(self, quiet: bool) -> Waiter:
        """What an `await` of this handle waits for. quiet: it wants the outcome, and not the exception."""
        waiter: Waiter = Waiter.__new__(Waiter)
        waiter.handle = self
        waiter.quiet = quiet
        if not cython.compiled:
            waiter._asyncio_future_blocking = False
            waiter.waiting = False
            waiter.finished = False
            waiter.was_cancelled = False
            waiter.message = None
            waiter.callback = None
            waiter.context = None  # type: ignore[assignment]
            waiter.before = None
            waiter.after = None
        return waiter

    def add(self, waiter: Waiter) -> None:
        """Wake `waiter` at the task's end, after those that have waited for longer."""
        if self.first_waiter is None:
            self.first_waiter = waiter
            if self.membership.core.loop is None:
                self.release_at_end()
        else:
            waiter.before = self.last_waiter
            self.last_waiter.after = waiter  # type: ignore[union-attr]
        self.last_waiter = waiter
        if cython.compiled and _HIDES and self.membership.core.loop is not None:
            PyObject_GC_UnTrack(waiter)

    def remove(self, waiter: Waiter) -> None:
        """`waiter` waits no longer."""
        if waiter.before is None:
            self.first_waiter = waiter.after
        else:
            waiter.before.after = waiter.after
        if waiter.after is None:
            self.last_waiter = waiter.before
        else:
            waiter.after.before = waiter.before
        waiter.before = None
        waiter.after = None

    def hide(self) -> None:
        """From the collector of cycles, with the task; why that may be is in _table_cy."""
        if cython.compiled and _HIDES:
            PyObject_GC_UnTrack(self)
            PyObject_GC_UnTrack(self.task)

    def show(self) -> None:
        """To the collector."""
        if cython.compiled and _HIDES:
            self.hidden = False
            PyObject_GC_Track(self)
            PyObject_GC_Track(self.task)
            if self.callback is not None and self.argument is None:
                PyObject_GC_Track(self.callback)

    def release_at_end(self) -> None:
        """The core will not see the task's end."""
        waiter = self.first_waiter
        while waiter is not None:
            waiter.show()
            waiter = waiter.after
        try:
            self.task.add_done_callback(self.release)
        except BaseException as error:
            self.membership.core.report("who waits for a task could not be told to it", error)

    def release(self, task: asyncio.Task[Any]) -> None:
        """The task is done, and says so itself, since the core has left it."""
        if self.task.done():
            self.wake_waiters()

    def wake_waiters(self) -> None:
        """Tell those who wait: the task is done."""
        while self.first_waiter is not None:
            waiter = self.first_waiter
            self.remove(waiter)
            waiter.finish()
