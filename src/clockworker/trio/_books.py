"""The books: which tasks of a run are an executor's own, and the place of each.

A task's membership is looked up once, when trio first schedules the task; then its `Place` is in a table until the task is
done. It counts in its queue and its group, and the group is there for as long as it has tasks.

*What is not ours.* Schedulers, keys of groups and callbacks are the application's, and may raise anything. Each is called where
the books are right; what it raises goes to the log, once. What a scheduler was holding is known here too, so that no task is
lost with one that fails: a RunnableFifo takes its place.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Protocol, TypeVar

import trio

from clockworker._errors import UsageError
from clockworker.executor._eevdf_cy import Eevdf
from clockworker.executor._members_cy import shown
from clockworker.executor._schedulers_cy import PUSH_BITS, RunnableFifo, Scheduler
from clockworker.trio._tasks import MEMBERSHIP, JoinHandle, Membership, Place, QueueState

T = TypeVar("T")

log = logging.getLogger("clockworker.trio")

# How long a queue goes on before it is compared with others, as on asyncio.
_GRANULARITY_NS = 20_000

now_ns = time.monotonic_ns


class Owner(Protocol):
    """Whom the gate tells of what it does: the Executor."""

    def panicked(self, error: BaseException) -> None:
        """A spawned task of a queue that propagates has raised, and nobody was waiting for it."""

    def emptied(self) -> None:
        """No task is left in any queue."""

    def was_slow(self, place: Place, elapsed_ns: int) -> None:
        """A step took as long as its queue's limit, or longer."""


class Books:
    """The tasks of one executor. Its subclass queues their steps."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.queues: dict[Hashable, QueueState] = {}
        self.default: Membership | None = None  # of tasks that bring none; None: those are not ours
        self.runner: Any = None  # trio's, of the run that this serves; None before and after
        self.nursery: Any = None  # whose `start_soon` starts what is spawned; None: nothing can be
        self.contained = False  # in the nursery nothing may fail
        self.places: dict[trio.lowlevel.Task, Place] = {}
        self.live = 0
        self.current: Place | None = None  # whose step runs
        self._eevdf = Eevdf(_GRANULARITY_NS)
        self._thread = 0
        self._arrivals = 0
        self._spawning: tuple[Any, JoinHandle[Any]] | None = None  # the coroutine and the handle of what is being spawned

    def add_queue(self, key: Hashable, share: int, slice_ns: int, scheduler: Scheduler, catch: bool) -> QueueState:
        queue = QueueState(key, scheduler, catch)
        queue.entity = self._eevdf.add(queue, share, slice_ns)
        self.queues[key] = queue
        return queue

    def set_share(self, queue: QueueState, share: int) -> None:
        self._eevdf.set_share(queue.entity, share)

    def check_thread(self, what: str) -> None:
        """Raise UsageError in another thread than the run's. what: the call that was made, as its caller knows it."""
        if self.runner is not None and threading.get_ident() != self._thread:
            raise UsageError(
                f"{what} was called from another thread than its executor's, and nothing was done. "
                f"From here: trio.from_thread.run_sync({what}, ...)"
            )

    def contains_caller(self) -> bool:
        """Whether the caller is a task of this executor."""
        return trio.lowlevel.current_task() in self.places

    # Coming

    def group(self, queue: QueueState, key: Hashable) -> Membership:
        """The membership of a group: the group's own while it has tasks, else a new one."""
        membership = queue.groups.get(key)
        return Membership(self, queue, key) if membership is None else membership  # type: ignore[arg-type]

    def spawn(self, membership: Membership, coroutine: Coroutine[Any, Any, T], name: str | None) -> JoinHandle[T]:
        """A new task in the membership's queue and group."""
        if not inspect.iscoroutine(coroutine):
            raise TypeError(f"spawn() takes a coroutine, such as work() of `async def work`, and got {coroutine!r}")
        try:
            self._check_running("queue.spawn")
        except BaseException:
            coroutine.close()
            raise
        if name is None:
            name = coroutine.__qualname__
        handle = JoinHandle(membership, coroutine, name)
        drive = handle.drive()
        self._spawning = (drive, handle)
        before = MEMBERSHIP.set(membership)
        try:
            self.nursery.start_soon(lambda: drive, name=name)
        except BaseException:
            drive.close()
            coroutine.close()
            raise
        finally:
            MEMBERSHIP.reset(before)
            self._spawning = None
        membership.queue.spawned += 1
        return handle

    def start_soon(
        self, membership: Membership, async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], name: object
    ) -> None:
        """The same, of a function that is called by trio in the task's context."""
        self._check_running("queue.start_soon")

        async def call() -> None:
            await async_fn(*args)

        call.__qualname__ = name if isinstance(name, str) else getattr(name or async_fn, "__qualname__", repr(async_fn))
        self.spawn(membership, call(), call.__qualname__)

    def _check_running(self, what: str) -> None:
        if self.nursery is None:
            raise UsageError("the executor is not running: spawn inside its `async with`, before it ends")
        self.check_thread(what)

    def _adopt(self, task: trio.lowlevel.Task) -> Place | None:
        """The place of a task that is seen for the first time; None if it is none of ours."""
        membership = task.context.get(MEMBERSHIP)
        if membership is None or membership.gate is not self:
            membership = self.default
            if membership is None:
                return None
        membership = self._enter(membership)
        handle = None
        if self._spawning is not None and self._spawning[0] is task.coro:
            handle = self._spawning[1]
            handle.task = task
        place = Place(task, membership, handle, *self._arrival(membership.queue))
        if handle is not None:
            handle._place = place
        place.first_seen_ns = now_ns()
        self.places[task] = place
        return place

    def _arrival(self, queue: QueueState) -> tuple[int, int]:
        """The place in the order of arrival, and below that. What a task starts in its own queue has the task's place."""
        self._arrivals += 1
        parent = self.current
        if parent is None or parent.membership.queue is not queue:
            return self._arrivals, self._arrivals << PUSH_BITS
        first = parent.tie >> PUSH_BITS == parent.arrival
        return parent.arrival, self._arrivals << PUSH_BITS if first else parent.tie

    def _enter(self, membership: Membership) -> Membership:
        """One more task there. The membership that counts it: a group may have ended and come back meanwhile."""
        if membership.group is not None and membership.live == 0:
            try:
                membership = membership.queue.groups.setdefault(membership.group, membership)
            except BaseException as error:
                report("the key of a group failed; the group has an account of its own", error)
        membership.live += 1
        membership.queue.live += 1
        self.live += 1
        return membership

    # Moving, and going

    def switch(self, membership: Membership) -> None:
        """Move the task whose step is running. What this step costs is still its old queue's."""
        self.check_thread("switch_to")
        old = self.current
        if old is None:
            raise UsageError("switch_to() moves the task that calls it, and the caller is in no queue of this executor")
        hash(membership.group)
        MEMBERSHIP.set(membership)
        task: Any = old.task
        self._depart(old)
        place = Place(task, self._enter(membership), old.handle, old.arrival, old.tie)
        place.service_ns = old.service_ns
        if place.handle is not None:
            place.handle._place = place
        self.places[task] = self.current = place

    def _leave(self, place: Place) -> None:
        """The task is done."""
        task: Any = place.task
        del self.places[task]
        place.membership.queue.finished += 1
        self._depart(place)
        if self.live == 0:
            self.owner.emptied()

    def _depart(self, place: Place) -> None:
        membership = place.membership
        queue = membership.queue
        self.live -= 1
        queue.live -= 1
        membership.live -= 1
        last = membership.live == 0 and membership.group is not None
        if last:
            try:
                queue.groups.pop(membership.group, None)
            except BaseException as error:
                report("the key of a group failed; what was counted of the group stays", error)
        if queue.fifo is None:
            scheduler = queue.scheduler
            try:
                scheduler.forget_task(place)
                if last:
                    scheduler.forget_group(membership.group)
            except BaseException as error:
                self._replace_scheduler(queue, scheduler, error)

    def panicked(self, handle: JoinHandle[Any], error: BaseException) -> None:
        """A spawned task has raised. What is no Exception goes on into the nursery by itself."""
        queue = handle._membership.queue if handle._place is None else handle._place.membership.queue
        queue.panics += 1
        if not handle._is_told and not (queue.catch and isinstance(error, Exception)):
            handle._is_told = True
            self.owner.panicked(error)

    def cancel_all(self) -> None:
        """Abort what was spawned."""
        for place in [*self.places.values()]:
            if place.handle is not None:
                place.handle.abort()

    def _replace_scheduler(self, queue: QueueState, scheduler: Scheduler, error: BaseException) -> None:
        """This scheduler has failed. A RunnableFifo goes on with what it was holding."""
        if queue.scheduler is not scheduler:
            return  # it has failed once more, further down
        queue.use(RunnableFifo())
        assert queue.fifo is not None
        queue.fifo.extend(
            place for place in self.places.values() if place.queued and place.membership.queue is queue
        )
        self._counts(queue, len(queue.fifo))
        report(
            f"the scheduler {type(scheduler).__name__} of queue {shown(queue.key)} failed; "
            "a RunnableFifo has taken its place",
            error,
        )

    def _counts(self, queue: QueueState, runnable: int) -> None:
        """So many of the queue's tasks are runnable."""
        raise NotImplementedError


def report(message: str, error: BaseException) -> None:
    """What code that is not ours has raised: to the log."""
    log.error(message, exc_info=error)
