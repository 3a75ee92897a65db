"""What a user holds of a task: JoinHandle; and the context variable by which tasks inherit their place.

*Membership* of a queue and group is a context variable, so all that a task starts, in any nursery and through any library, is
in the same queue. It is read once, when trio first schedules the task.

A task that was spawned has a cancel scope of its own, around all of its coroutine: `abort()` cancels that. Its exception stays
in the handle; only what is no `Exception` (trio's Cancelled, KeyboardInterrupt) goes on into the nursery.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Coroutine, Generator, Hashable
from typing import Any, Generic, TypeVar

import trio

from clockworker._errors import TaskCancelled, TaskPanicked
from clockworker.executor._outcome import Ok
from clockworker.trio._steps_cy import Membership, Place

T = TypeVar("T")

log = logging.getLogger("clockworker.trio")

MEMBERSHIP: contextvars.ContextVar[Membership | None] = contextvars.ContextVar(
    "clockworker.trio.membership", default=None
)


class JoinHandle(Generic[T]):
    """A spawned task, to wait for or to abort. Made by `spawn`. Dropping the handle leaves the task running.

    `await handle` gives the task's value, raises the task's own exception, or `TaskCancelled` if the task was aborted. It
    is a checkpoint, may be awaited more than once, and by several tasks. Cancelling one who waits does not touch the task.

    task: trio's, None once it is done. group: the task's, None if it was spawned without one. service_ns: CPU time attained.
    """

    def __init__(self, membership: Membership, coroutine: Coroutine[Any, Any, T], name: str) -> None:
        self._membership = membership
        self._coroutine: Coroutine[Any, Any, T] | None = coroutine  # until it begins
        self._name = name
        self._scope = trio.CancelScope()
        self._place: Place | None = None
        self._outcome: Ok[T] | TaskPanicked | TaskCancelled | None = None
        self._waiters: trio.lowlevel.ParkingLot | None = None
        self._is_told = False  # somebody knows, or will know, what becomes of it
        self.task: trio.lowlevel.Task | None = None

    @property
    def group(self) -> Hashable:
        """The key of the task's group; None if it was spawned without one."""
        return self._membership.group if self._place is None else self._place.membership.group

    @property
    def service_ns(self) -> int:
        """CPU time that the task has attained."""
        return 0 if self._place is None else self._place.service_ns

    def __await__(self) -> Generator[Any, None, T]:
        return self._value().__await__()

    async def _value(self) -> T:
        outcome = await self.outcome()
        if isinstance(outcome, Ok):
            return outcome.value
        if isinstance(outcome, TaskPanicked):
            raise outcome.exception
        raise TaskCancelled(*outcome.args)  # each who waits has one of its own, with its own traceback

    async def outcome(self) -> Ok[T] | TaskPanicked | TaskCancelled:
        """Wait, and return what became of the task instead of raising it, for `match`. RuntimeError in the task itself."""
        self._is_told = True
        if self._outcome is not None:
            await trio.lowlevel.checkpoint()
            return self._outcome
        if self.task is not None and trio.lowlevel.current_task() is self.task:
            raise RuntimeError(f"{self._name} awaits its own handle")
        if self._waiters is None:
            self._waiters = trio.lowlevel.ParkingLot()
        try:
            await self._waiters.park()
        except BaseException:
            self._is_told = False
            raise
        assert self._outcome is not None
        return self._outcome

    def abort(self) -> bool:
        """Cancel the task at its next checkpoint, or before its first step. False if it was done already.

        Raises UsageError from a thread other than the executor's.
        """
        if self._outcome is not None:
            return False
        self._membership.gate.check_thread("handle.abort")
        self._scope.cancel()
        return True

    def done(self) -> bool:
        """True once the task has returned, raised or been cancelled."""
        return self._outcome is not None

    def __repr__(self) -> str:
        state = "running" if self._outcome is None else type(self._outcome).__name__
        return f"<JoinHandle of {self._name}: {state}>"

    async def drive(self) -> None:
        """All that the task does, from its first step to its last."""
        coroutine, self._coroutine = self._coroutine, None
        assert coroutine is not None
        self.task = trio.lowlevel.current_task()
        scope = self._scope
        if scope.cancel_called:  # before the first step
            coroutine.close()
            self._end(TaskCancelled(f"{self._name} was aborted"))
            return
        outcome: Ok[T] | TaskPanicked | None = None
        try:
            with scope:
                outcome = Ok(await coroutine)
        except Exception as error:
            outcome = TaskPanicked(error)
        except BaseException as error:
            if is_cancellation(error):
                raise
            outcome = TaskPanicked(error)
            if not self._membership.gate.contained:
                self._is_told = True  # by the nursery
                raise
        finally:
            self._end(TaskCancelled(f"{self._name} was aborted") if outcome is None else outcome)
            del self  # an exception that is on its way out keeps this frame, and would keep the handle in a cycle

    def _end(self, outcome: Ok[T] | TaskPanicked | TaskCancelled) -> None:
        self._outcome = outcome
        self.task = None
        if self._waiters:  # some wait
            self._is_told = True
            self._waiters.unpark_all()
        if isinstance(outcome, TaskPanicked):
            self._membership.gate.panicked(self, outcome.exception)

    def __del__(self) -> None:
        if isinstance(self._outcome, TaskPanicked) and not self._is_told:
            log.error("%s failed, and nobody has awaited it", self._name, exc_info=self._outcome.exception)


def is_cancellation(error: BaseException) -> bool:
    """trio's Cancelled, or a group of nothing else, as nurseries make it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)
