"""What is kept: of a queue, of a place in a queue, of a task, and of who waits for one.

*Membership* of a queue and group is a context variable, so all that a task starts, in any nursery and through any library, is in
the same queue. It is read once, when trio first schedules the task.

A task that was spawned has a cancel scope of its own, around all of its coroutine: `abort()` cancels that. Its exception stays in
the handle; only what is no `Exception` (trio's Cancelled, KeyboardInterrupt) goes on into the nursery.
"""

from __future__ import annotations

import contextvars
import logging
from collections import deque
from collections.abc import Coroutine, Generator, Hashable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from clockworker._errors import TaskCancelled, TaskPanicked
from clockworker.executor._eevdf_cy import Entity
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._outcome import Ok
from clockworker.executor._schedulers_cy import RunnableFifo, ScheduledTask, Scheduler

if TYPE_CHECKING:
    from clockworker.trio._gate import Gate

T = TypeVar("T")

log = logging.getLogger("clockworker.trio")

MEMBERSHIP: contextvars.ContextVar[Membership | None] = contextvars.ContextVar(
    "clockworker.trio.membership", default=None
)


class QueueState:
    """One queue while it runs: its entity in the policy, its scheduler, its counters."""

    __slots__ = (
        "catch",
        "entity",
        "fifo",
        "finished",
        "first_poll_wait",
        "groups",
        "key",
        "live",
        "busy_ns",
        "panics",
        "poll_time",
        "polls",
        "preemptions",
        "pushes_to_sample",
        "runnable",
        "scheduler",
        "slice_overruns",
        "slow_ns",
        "slow_polls",
        "spawned",
        "stolen_ns",
        "wait",
    )

    entity: Entity
    scheduler: Scheduler
    fifo: deque[Place] | None  # in the scheduler's place, if that is exactly the default one, which does not fail

    def __init__(self, key: Hashable, scheduler: Scheduler, catch: bool) -> None:
        self.key = key
        self.use(scheduler)
        self.catch = catch
        self.groups: dict[Hashable, Membership] = {}
        self.runnable = 0
        self.live = 0
        self.polls = 0
        self.busy_ns = 0
        self.stolen_ns = 0
        self.spawned = 0
        self.finished = 0
        self.panics = 0
        self.slice_overruns = 0
        self.preemptions = 0
        self.poll_time = Histogram()
        self.first_poll_wait = Histogram()
        self.wait = Histogram()
        self.pushes_to_sample = 1
        self.slow_ns = 0
        self.slow_polls = 0

    def use(self, scheduler: Scheduler) -> None:
        """Take the scheduler, which is empty."""
        self.scheduler = scheduler
        self.fifo = deque() if type(scheduler) is RunnableFifo else None


class Membership:
    """A place for tasks: a queue, with or without a group; the value of the context variable."""

    __slots__ = ("gate", "group", "live", "queue", "service_ns")

    def __init__(self, gate: Gate, queue: QueueState, group: Hashable) -> None:
        self.gate = gate
        self.queue = queue
        self.group = group
        self.live = 0  # tasks of the group, which is dropped with the last
        self.service_ns = 0  # CPU time of its tasks while it has lived


class Place(ScheduledTask):
    """A task of a queue: what schedulers see (the base), and what the gate keeps of it. A task that moves gets another."""

    membership: Membership
    queued: bool  # its step is; else it waits for something, runs, or is done
    first_seen_ns: int  # 0 once it has been polled
    pushed_ns: int  # into its queue, if this wait is measured; else 0
    handle: JoinHandle[Any] | None  # None: it was not spawned, and has inherited its queue

    def __init__(
        self,
        task: trio.lowlevel.Task,
        membership: Membership,
        handle: JoinHandle[Any] | None,
        arrival: int,
        tie: int,
    ) -> None:
        super().__init__(task, membership.group, arrival)  # type: ignore[arg-type]  # to schedulers a task is a task
        self.tie = tie
        self.membership = membership
        self.queued = False
        self.first_seen_ns = 0
        self.pushed_ns = 0
        self.handle = handle


class JoinHandle(Generic[T]):
    """A spawned task, to wait for or to abort. Dropping the handle leaves the task running.

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
        self._waiters = trio.lowlevel.ParkingLot()
        self._is_told = False  # somebody knows, or will know, what becomes of it
        self.task: trio.lowlevel.Task | None = None

    @property
    def group(self) -> Hashable:
        return self._membership.group if self._place is None else self._place.membership.group

    @property
    def service_ns(self) -> int:
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
        """Wait, and return what became of the task instead of raising it, for `match`."""
        self._is_told = True
        if self._outcome is not None:
            await trio.lowlevel.checkpoint()
            return self._outcome
        if self.task is not None and trio.lowlevel.current_task() is self.task:
            raise RuntimeError(f"{self._name} awaits its own handle")
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
        outcome: Ok[T] | TaskPanicked | TaskCancelled = TaskCancelled(f"{self._name} was aborted")
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
            self._end(outcome)
            del self  # an exception that is on its way out keeps this frame, and would keep the handle in a cycle

    def _end(self, outcome: Ok[T] | TaskPanicked | TaskCancelled) -> None:
        self._outcome = outcome
        self.task = None
        awaited = len(self._waiters) != 0
        self._waiters.unpark_all()
        self._is_told |= awaited
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
