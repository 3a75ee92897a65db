"""The gate: which tasks of a run are an executor's own, and the place of each. With `Steps` it is one object, trio's run queue.

A task's membership is looked up once, when trio first schedules the task; then its `Place` is in a table until the task is
done. It counts in its queue and its group, and the group is there for as long as it has tasks.

*What is not ours.* Schedulers, keys of groups and callbacks are the application's, and may raise anything. Each is called where
the books are right; what it raises goes to the log, once. What a scheduler was holding is known here too, so that no task is
lost with one that fails: a RunnableFifo takes its place.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from types import CoroutineType
from typing import Any, Protocol, TypeVar

import trio
from trio.lowlevel import enable_ki_protection

from clockworker._errors import UsageError
from clockworker.executor import _clock_cy as clock
from clockworker.executor._core_cy import compiled
from clockworker.executor._members_cy import check_schedulers, shown
from clockworker.executor._schedulers_cy import RunnableFifo, Scheduler, set_owner
from clockworker.trio import _seam
from clockworker.trio._steps_cy import Membership, Place, QueueState, Steps
from clockworker.trio._tasks import MEMBERSHIP, JoinHandle

T = TypeVar("T")

log = logging.getLogger("clockworker.trio")

_PUSH_BITS = 20  # of a place's `tie`, in which ArrivalFifo counts


if not compiled:
    enable_ki_protection(Steps.append)


class Owner(Protocol):
    """Whom the gate tells of what it does: the Executor."""

    def panicked(self, error: BaseException) -> None:
        """A spawned task of a queue that propagates has raised, and nobody was waiting for it."""

    def emptied(self) -> None:
        """No task is left in any queue."""

    def was_slow(self, place: Place, elapsed_ns: int) -> None:
        """A step took as long as its queue's limit, or longer."""


class Gate(Steps):
    """The queues and tasks of one executor on trio. `Executor` is its public face."""

    def __init__(self, owner: Owner, driver_yield_ns: int, max_polls: int) -> None:
        super().__init__(driver_yield_ns, max_polls)
        self.owner = owner
        self.queues: dict[Hashable, QueueState] = {}
        self.default: Membership | None = None  # of tasks that bring none; None: those are not ours
        self.nursery: Any = None  # whose `start_soon` starts what is spawned; None: nothing can be
        self.contained = False  # in the nursery nothing may fail
        self.live = 0
        self._thread = 0
        self._arrivals = 0
        self._spawning: tuple[Any, JoinHandle[Any]] | None = (
            None  # the coroutine and the handle of what is being spawned
        )

    def declare(self, key: Hashable, share: int, slice_ns: int, scheduler: Scheduler, catch: bool) -> QueueState:
        """A queue more, before the first run."""
        queue = self.queues[key] = self.add_queue(key, share, slice_ns, scheduler, catch)
        return queue

    def check_thread(self, what: str) -> None:
        """Raise UsageError in another thread than the run's. what: the call that was made, as its caller knows it."""
        if self.runner is not None and threading.get_ident() != self._thread:
            raise UsageError(
                f"{what} was called from another thread than its executor's, and nothing was done. "
                f"From here: trio.from_thread.run_sync({what}, ...)"
            )

    def contains_caller(self) -> bool:
        """Whether the caller is a task of this executor."""
        return _seam.in_task() and trio.lowlevel.current_task() in self.places

    # The run

    def attach(self) -> None:
        """Take the caller's run: from now on steps of members come here."""
        check_schedulers(self.queues.values(), self)
        runner = _seam.current_runner()
        clock.begin()
        self._thread = threading.get_ident()
        self.runner = runner
        try:
            _seam.put_in_place(runner, self)
        except BaseException:
            self.runner = None
            raise
        for queue in self.queues.values():
            set_owner(queue.scheduler, self)
        self._turn_ended = clock.read()
        self._steal.begin(self._turn_ended)

    def is_attached(self) -> bool:
        """Whether it has a run."""
        return self.runner is not None

    def detach(self) -> None:
        """Give the run its own queue back. Tasks that are still there go on as trio's own."""
        if self.runner is None:
            return
        runner, self.runner = self.runner, None
        self.nursery = None
        left = self._passing
        self._passing = []
        for queue in self.queues.values():
            while (place := self._take(queue)) is not None:
                left.append(place.task)
            if queue.entity.active:
                self._eevdf.deactivate(queue.entity)
            set_owner(queue.scheduler, None)
        self._next = None
        _seam.take_out(runner, left)
        for place in self.places.values():
            self._depart(place)
        if self.places:
            self.places.clear()
            self.owner.emptied()
        self._steal.meter.close()

    # Coming

    def group(self, queue: QueueState, key: Hashable) -> Membership:
        """The membership of a group: the group's own while it has tasks, else a new one."""
        membership = queue.groups.get(key)
        return Membership(self, queue, key) if membership is None else membership

    def spawn(self, membership: Membership, coroutine: Coroutine[Any, Any, T], name: str | None) -> JoinHandle[T]:
        """A new task in the membership's queue and group."""
        if type(coroutine) is not CoroutineType and not isinstance(coroutine, Coroutine):
            raise TypeError(f"spawn() takes a coroutine, such as work() of `async def work`, and got {coroutine!r}")
        try:
            self._check_running("queue.spawn")
        except BaseException:
            coroutine.close()
            raise
        if name is None:
            name = getattr(coroutine, "__qualname__", "?")
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
        """The same, of an async function."""
        self._check_running("queue.start_soon")
        coroutine = async_fn(*args)
        if not isinstance(coroutine, Coroutine):
            raise TypeError(f"start_soon() takes an async function, and {async_fn!r} returned {coroutine!r}")
        if name is not None:
            name = str(getattr(name, "__qualname__", name))
        self.spawn(membership, coroutine, name)

    def _check_running(self, what: str) -> None:
        if self.nursery is None:
            raise UsageError("the executor is not running: spawn inside its `async with`, before it ends")
        self.check_thread(what)

    @enable_ki_protection
    def _adopt(self, task: trio.lowlevel.Task) -> Place | None:
        membership = task.context.get(MEMBERSHIP)
        if membership is None or membership.gate is not self:
            membership = self.default
            if membership is None or task.parent_nursery is None:  # the last is trio's own, that has all others
                return None
        membership = self._enter(membership)
        handle = None
        if self._spawning is not None and self._spawning[0] is task.coro:
            handle = self._spawning[1]
            handle.task = task
        place = Place(task, membership, handle, *self._arrival(membership.queue))
        if handle is not None:
            handle._place = place
        self.places[task] = place
        return place

    def _arrival(self, queue: QueueState) -> tuple[int, int]:
        """The place in the order of arrival, and below that. What a task starts in its own queue has the task's place."""
        self._arrivals += 1
        parent = self.current
        if parent is None or parent.membership.queue is not queue:
            return self._arrivals, self._arrivals << _PUSH_BITS
        first = parent.tie >> _PUSH_BITS == parent.arrival
        return parent.arrival, self._arrivals << _PUSH_BITS if first else parent.tie

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
        self._depart(old)
        place = Place(old.task, self._enter(membership), old.handle, old.arrival, old.tie)
        place.service_ns, place.turn = old.service_ns, old.turn
        if place.handle is not None:
            place.handle._place = place
        self.places[place.task] = self.current = place

    def _leave(self, place: Place) -> None:
        del self.places[place.task]
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
        """A spawned task has raised. What is no Exception goes on into the nursery by itself, unless that must not fail."""
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

    # What is not ours

    @enable_ki_protection
    def _push_protected(self, queue: QueueState, place: Place) -> bool:
        return self._push_to(queue, place)

    def _replace_scheduler(self, queue: QueueState, scheduler: Scheduler, error: BaseException) -> None:
        """This scheduler has failed. A RunnableFifo goes on with what it was holding."""
        if queue.scheduler is not scheduler:
            return  # it has failed once more, further down
        held = [place for place in self.places.values() if place.queued and place.membership.queue is queue]
        self.take_over(queue, RunnableFifo(), held)
        report(
            f"the scheduler {type(scheduler).__name__} of queue {shown(queue.key)} failed; "
            "a RunnableFifo has taken its place",
            error,
        )

    def _tell_of_slow(self, place: Place, elapsed: int) -> None:
        try:
            self.owner.was_slow(place, elapsed)
        except BaseException as error:
            report("reporting a slow step failed", error)


def report(message: str, error: BaseException) -> None:
    """What code that is not ours has raised: to the log."""
    log.error(message, exc_info=error)
