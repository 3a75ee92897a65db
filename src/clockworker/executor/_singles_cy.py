# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Single steps: of no task, and yet in the queues.

A call from another shard whose method cannot suspend is one step, and to make a task of it would cost more than most such
methods do. So the step is given its place in a queue, is counted and charged and fails as a task's only step would, but no
task is made. Who asks for the current task meanwhile is given a *carrier*: a genuine task that is there for no other purpose
and serves for many steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._cpython_cy import find_current_tasks, holds
from clockworker.executor._members_cy import shown
from clockworker.executor._runnable_cy import Runnable
from clockworker.executor._tasks_cy import JoinHandle, Membership

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._native import Py_REFCNT, is_context, run_in_context
else:
    from clockworker.executor._clock_cy import now_ns
    from clockworker.executor._pure import is_context, run_in_context

# C globals when compiled: attributes of modules would be looked up at each step.
_enter_task = asyncio._enter_task
_leave_task = asyncio._leave_task


# To enter and leave a task by it is a third of what asyncio's functions take, which was a seventh of a one-way request.
_current_tasks = find_current_tasks() if holds("current") else None
_COUNTS_TELL = holds("refcount")


def _ignore(*args: Any, **keywords: Any) -> None:
    pass


_SPARE = 64  # what one ring can bring in one turn


async def _panic(error: BaseException) -> None:
    raise error


class _Carrier(asyncio.Task[None]):
    """A genuine task that goes, one day, without having been done, and says nothing of it."""

    def __del__(self) -> None:
        pass


class Singles(Runnable):
    """The single steps of one executor."""

    singles: int  # that have not run
    _spare: list[JoinHandle]  # of steps that have run, for the next ones
    _carrier: asyncio.Task[Any] | None  # is the current task; it stays that from one single step to the next

    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self.singles = 0
        self._spare = []
        self._carrier = None

    def spawn_step(self, membership: Membership, carrier: asyncio.Task[Any], step: Callable[[], object]) -> None:
        """Have `step` called once, in the membership's queue and group, as the only step of a task would be: for what cannot
        suspend. No task is made; while the step runs `carrier` is the current one.

        An exception that escapes from it is a panic. If the executor ends before its turn comes, it is not called.
        """
        if not self.accepting:
            raise UsageError("the executor is not running")
        if not callable(step):
            raise TypeError(f"a step is called, and {shown(step)} cannot be")
        state = self._spare.pop() if self._spare else JoinHandle.__new__(JoinHandle)
        state.begin(carrier, membership, None)
        self._give_place(state)
        state.single = True
        state.callback = step
        state.first_seen_ns = now_ns()
        self._join(state, membership)
        self.singles += 1
        queue = state.membership.queue
        queue.spawned += 1
        if queue.fifo is None:
            self._singles_of_others.add(state)
        self._enqueue(state)

    def carrier(self, name: str) -> asyncio.Task[Any]:
        """A genuine task, to be the current one during steps that are no task's. It never runs itself and is never done."""

        async def never() -> None:
            pass

        coroutine = never()
        loop: Any = self.loop
        call_soon = loop.call_soon
        loop.call_soon = _ignore  # its first step
        try:
            task = _Carrier(coroutine, loop=loop, name=name)
        finally:
            loop.call_soon = call_soon
        coroutine.close()
        asyncio._unregister_task(task)
        return task

    def _run_single(self, state: JoinHandle) -> BaseException | None:
        """Call what `spawn_step` was given. Returns what went wrong and is not the step's own doing, or ends the program."""
        if not self.accepting:
            return None
        if self._carrier is not state.task:
            failure = self._change_carrier(state.task)
            if failure is not None:
                return failure
        context = state.membership.context_or_error()
        if not is_context(context):
            return context  # type: ignore[return-value]
        state.context = context  # type: ignore[assignment]
        error = run_in_context(state.callback, None, context)
        return None if error is None else self._single_failed(state, error)

    def _single_failed(self, state: JoinHandle, error: BaseException) -> BaseException | None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        try:
            if not isinstance(error, asyncio.CancelledError):
                # Its panic is dealt with as that of any task.
                self.spawn(state.membership, _panic(error), state.task.get_name())
            return None
        except BaseException as failure:
            return failure

    def _change_carrier(self, task: asyncio.Task[Any]) -> BaseException | None:
        """The current task is this one. Returns what keeps it from being that."""
        try:
            self._enter_carrier(task)
        except BaseException as failure:
            return failure
        return None

    def _enter_carrier(self, task: asyncio.Task[Any]) -> None:
        """The current task is this one."""
        if self._carrier is not None:
            self._leave_carrier()
        loop: Any = self.loop
        if _current_tasks is None or _current_tasks.setdefault(loop, task) is not task:
            _enter_task(loop, task)  # which says what is wrong
        self._carrier = task

    def _leave_carrier(self) -> None:
        """There is no current task."""
        loop: Any = self.loop
        task: asyncio.Task[Any] = self._carrier  # type: ignore[assignment]
        self._carrier = None
        if _current_tasks is None:
            _leave_task(loop, task)
        else:
            _current_tasks.pop(loop, None)

    def _leave_single(self, state: JoinHandle) -> None:
        self.singles -= 1
        if self._singles_of_others:
            self._singles_of_others.discard(state)
        state.membership.queue.finished += 1
        self._depart(state)
        state.callback = None
        state.context = None

    def _spare_single(self, state: JoinHandle) -> None:
        """It has been left, and nobody has anything more to do with it than the caller, if nobody else holds it."""
        if (
            cython.compiled
            and _COUNTS_TELL
            and Py_REFCNT(cython.cast(cython.p_void, state)) == 1
            and len(self._spare) < _SPARE
            and state.membership.queue.fifo is not None
        ):
            state.service_ns = 0
            state.slot = None
            state.group = None
            state.task = None  # type: ignore[assignment]
            state.membership = None  # type: ignore[assignment]
            self._spare.append(state)
