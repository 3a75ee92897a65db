"""The executor on trio as its users see it, and the ways to get one."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from clockworker._errors import ConfigurationError, UsageError
from clockworker.executor._loops import use_also
from clockworker.executor._queue import (
    OnPanic,
    Queue,
    QueueGroup,
    check_on_panic,
    check_queues,
    check_slow_limit,
    check_times,
    unknown_key,
)
from clockworker.executor._schedulers_cy import RunnableFifo
from clockworker.executor._stats import ExecutorStats, QueueStats, executor_stats, queue_stats
from clockworker.trio import _seam
from clockworker.trio._gate import Gate, report
from clockworker.trio._handles import QueueHandle
from clockworker.trio._steps_cy import Membership, Place
from clockworker.trio._tasks import is_cancellation

T = TypeVar("T")


class _SystemNursery:
    """Where tasks are spawned that no `async with` stands around: trio's own system nursery, which lasts as long as the run."""

    def start_soon(self, async_fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> None:
        trio.lowlevel.spawn_system_task(async_fn, *args, name=name, context=contextvars.copy_context())


class _EndOfRun(trio.abc.Instrument):
    """Lets go of a run that ends with tasks of `run_until`, which end with it."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def after_run(self) -> None:
        self._gate.detach()


class Executor:
    """Divides one run of trio fairly between queues of tasks.

    queues: their declarations (`clockworker.Queue`); preemptive ones, groups of queues and `FairFifo` need asyncio.
    on_panic: what becomes of an Exception that escapes a spawned task. If a task is waiting for that one, by `await handle` or
        `handle.outcome()`, it is raised or returned there, and that is all. If none is, "propagate": it is a panic; the other
        spawned tasks and the body are cancelled, and `async with` raises it. "catch": it is left to whoever awaits the task
        later, and logged if nobody ever does.
    sched_latency, min_slice: seconds. A queue without a `slice` of its own gets sched_latency divided by the number of
        queues, and no less than min_slice.
    driver_yield, max_polls_per_yield: seconds, and steps. After either trio looks for sockets and deadlines; after a quarter
        of the time while a queue sleeps, which they may be about to wake.

        async with Executor([Queue("foreground", share=8), Queue("background")]) as executor:
            value = await executor.queue("foreground").spawn(work())

    The tasks are trio's, in a nursery that is open inside `async with`. Leaving it cancels those that are left and waits for
    their end. `run_until` is the other way to run it.

    Raises ConfigurationError for a value that cannot be, and for queues that do not go together.
    """

    def __init__(
        self,
        queues: Iterable[Queue],
        *,
        on_panic: OnPanic = "propagate",
        sched_latency: float = 0.002,
        min_slice: float = 0.001,
        driver_yield: float = 0.0005,
        max_polls_per_yield: int = 256,
    ) -> None:
        declared = list(queues)
        check_on_panic(on_panic)
        check_queues(declared)
        check_times(
            sched_latency=sched_latency,
            min_slice=min_slice,
            driver_yield=driver_yield,
            max_polls_per_yield=max_polls_per_yield,
        )
        self._gate = Gate(self, round(driver_yield * 1e9), max_polls_per_yield)
        self._handles: dict[Hashable, QueueHandle] = {}
        default_slice = max(sched_latency / len(declared), min_slice)
        for queue in declared:
            if isinstance(queue, QueueGroup):
                raise ConfigurationError(
                    f"group of queues {queue.key!r} needs an event loop of asyncio's; give its queues"
                )
            if queue.scheduler is not None and queue.scheduler._holds:
                kind = type(queue.scheduler).__name__
                raise ConfigurationError(f"scheduler {kind} of queue {queue.key!r} needs an event loop of asyncio's")
            if queue.preemptive:
                raise ConfigurationError(f"queue {queue.key!r} is preemptive, which needs an event loop of asyncio's")
            state = self._gate.declare(
                queue.key,
                queue.share,
                round((queue.slice if queue.slice is not None else default_slice) * 1e9),
                queue.scheduler if queue.scheduler is not None else RunnableFifo(),
                (queue.on_panic or on_panic) == "catch",
            )
            self._handles[queue.key] = QueueHandle(self._gate, state)
        self._drained = trio.lowlevel.ParkingLot()
        self._end_of_run = _EndOfRun(self._gate)
        self._host: trio.CancelScope | None = (
            None  # around what runs it: the body of `async with`, or run_until's awaitable
        )
        self._nursery_manager: Any = None
        self._runs_own = False  # of an instrument, for as long as trio runs
        self._panic: BaseException | None = None  # the first
        self._report_slow: Callable[[Hashable, trio.lowlevel.Task, int], None] | None = None

    def queue(self, key: Hashable) -> QueueHandle:
        """The running queue of that key. An unknown key raises KeyError, listing those there are."""
        try:
            return self._handles[key]
        except (KeyError, TypeError):
            raise unknown_key("queue", key, self._handles) from None

    def queues(self) -> Sequence[QueueHandle]:
        """The running queues, in the order of their declaration."""
        return list(self._handles.values())

    def current_queue(self) -> QueueHandle | None:
        """The queue of the task whose step is running; None outside of all queues."""
        if not _seam.in_task():
            return None
        place = self._gate.places.get(trio.lowlevel.current_task())
        return None if place is None else self._handles[place.membership.queue.key]

    async def __aenter__(self) -> Self:
        self._check_free("`async with`")
        if self._gate.runner is None:
            self._gate.attach()
        manager = trio.open_nursery(strict_exception_groups=True)
        nursery = await manager.__aenter__()
        self._nursery_manager = manager
        self._gate.nursery = nursery
        self._gate.contained = False
        self._host = nursery.cancel_scope
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        manager, self._nursery_manager = self._nursery_manager, None
        self._gate.nursery = None
        assert self._host is not None
        self._host.cancel()
        # What the nursery is given it raises in a group, so it is given only what it may have to absorb. The rest of the body's
        # exceptions are raised as they are.
        given = isinstance(error, trio.Cancelled | BaseExceptionGroup) and not isinstance(error, Exception)
        left = None if given else error
        is_absorbed = False
        try:
            is_absorbed = (
                await manager.__aexit__(*((kind, error, traceback) if given else (None, None, None))) and given
            )
            if given and not is_absorbed:
                left = error
        except BaseException as raised:
            left = raised
        self._host = None
        self._gate.detach()
        panic, self._panic = self._panic, None
        try:
            if panic is not None:
                if left is None or is_cancellation(left):
                    raise panic
                raise BaseExceptionGroup("a spawned task and the body of the executor have failed", [panic, left])
            if left is not None and left is not error:
                raise left
        finally:
            del left, panic  # they hold this frame
        return is_absorbed

    async def run_until(self, awaitable: Awaitable[T]) -> T:
        """Run the queues until the awaitable is done, and return its result. What is still pending then stays pending, and
        goes on at the next `run_until` of the same run; `close`, or the end of trio's run, ends it.

        A panic cancels the awaitable and is raised here. Raises UsageError inside `async with` or another `run_until`, and from
        a task of this executor.
        """
        try:
            self._check_free("run_until")
            if self._gate.runner is None:
                self._gate.attach()
                trio.lowlevel.add_instrument(self._end_of_run)
        except BaseException:
            close = getattr(awaitable, "close", None)
            if close is not None:
                close()
            raise
        self._gate.nursery = _SystemNursery()
        self._gate.contained = True
        self._gate.paused = False
        try:
            with trio.CancelScope() as self._host:
                result = await awaitable
        finally:
            self._host = None
            self._gate.paused = True
            self._gate.nursery = None
            panic, self._panic = self._panic, None
        if panic is not None:
            raise panic
        return result

    async def close(self) -> None:
        """After `run_until`: cancel the tasks that are left, wait for their end, and leave the run as it was.

        Raises UsageError inside `async with` or `run_until`, and from a task of this executor."""
        if self._host is not None:
            raise UsageError("close() was called inside `async with` or run_until, which end by themselves")
        self._check_free("close()")
        if self._gate.runner is not None:
            self._gate.paused = False
            self._gate.cancel_all()
            try:
                with trio.CancelScope(shield=True):
                    await self._wait_empty()
            finally:
                trio.lowlevel.remove_instrument(self._end_of_run)
                self._gate.detach()
                self._panic = None

    def _check_free(self, what: str) -> None:
        """Nobody stops, or waits for, what carries the caller itself."""
        if self._runs_own:
            raise UsageError(
                f"{what}: this executor is its run's own and lasts as long as trio runs. Spawn into its queues"
            )
        if self._host is not None:
            raise UsageError("the executor is running already, in `async with` or run_until")
        if self._gate.runner is not None:
            if self._gate.runner is not _seam.current_runner():
                raise UsageError("the executor has tasks in another run of trio: close() it there first")
            if self._gate.contains_caller():
                raise UsageError(f"{what} was called by a task of this executor, which would wait for itself")

    async def drain(self) -> None:
        """Wait until no task of any queue is left, those included that they start meanwhile.

        Raises UsageError from within a task of this executor, which would wait for itself.
        """
        if self._gate.runner is not None and self._gate.contains_caller():
            raise UsageError("drain() was awaited by a task of this executor, which would wait for itself")
        await trio.lowlevel.checkpoint()
        await self._wait_empty()

    async def _wait_empty(self) -> None:
        while self._gate.live:
            await self._drained.park()

    def stats(self) -> ExecutorStats:
        """Counters over all queues, and gauges of now."""
        return executor_stats(self._gate, self._gate.queues.values())

    def queue_stats(self, *, top_groups: int = 8) -> dict[Hashable, QueueStats]:
        """Counters and gauges of each queue, by its key.

        top_groups: of how many groups to give the CPU time. Finding them means to look at all of the queue's groups.
        """
        return {key: queue_stats(queue, top_groups) for key, queue in self._gate.queues.items()}

    def report_slow_polls(
        self, limits: Mapping[Hashable, float], report: Callable[[Hashable, trio.lowlevel.Task, int], None]
    ) -> None:
        """Have steps reported that take as long as their queue's limit, or longer.

        limits: seconds, by queue; none for the queues that are not there. Less than a queue's slice counts as the slice.
        report: called after such a step with the queue's key, the task, and how long the step took without what
            others had of that time, in ns.

        Raises ConfigurationError for a limit that is no time.
        """
        for key, seconds in limits.items():
            check_slow_limit(key, seconds)
            self.queue(key)._queue.slow_ns = round(seconds * 1e9)
        self._report_slow = report

    @property
    def turns(self) -> int:
        """How many it has had of trio's run loop."""
        return self._gate.turns

    @property
    def is_busy(self) -> bool:
        """Whether anything is runnable in its queues."""
        return any(queue.runnable for queue in self._gate.queues.values())

    # The gate's words

    def panicked(self, error: BaseException) -> None:
        """A spawned task of a queue that propagates has raised `error`, and nobody was waiting for it."""
        if self._panic is None:
            self._panic = error
            self._gate.cancel_all()
            if self._host is not None:
                self._host.cancel()
        else:
            report("a spawned task failed after another, which is the one that is raised", error)

    def emptied(self) -> None:
        """No task is left in any queue."""
        self._drained.unpark_all()

    def was_slow(self, place: Place, elapsed_ns: int) -> None:
        """A step of the task at `place` took as long as its queue's limit, or longer: `elapsed_ns`."""
        if self._report_slow is not None:
            self._report_slow(place.membership.queue.key, place.task, elapsed_ns)  # type: ignore[arg-type]  # trio's


class QueuesInstrument(trio.abc.Instrument):
    """An executor for all of a run: `trio.run(main, instruments=[QueuesInstrument(queues)])`, or for anyio's and pytest-trio's
    runs. Every task of the run is gated; those that belong to no queue, main included, run in the first one.
    `current_executor()` finds it.

    queues, options: those of `Executor`. on_panic: "catch" unless given, since there is no `async with` to raise a panic.

    Raises ConfigurationError as `Executor` does, and with a trio whose run loop is another than the one that is known.
    """

    def __init__(self, queues: Iterable[Queue], *, on_panic: OnPanic = "catch", **options: Any) -> None:
        _seam.check()  # trio only logs what before_run raises
        self.executor = Executor(queues, on_panic=on_panic, **options)

    def before_run(self) -> None:
        """trio's word: no task is there yet. Raises UsageError if the executor runs already."""
        executor = self.executor
        executor._check_free("QueuesInstrument")
        executor._gate.default = Membership(executor._gate, executor.queues()[0]._queue, None)
        executor._gate.attach()
        executor._gate.nursery = _SystemNursery()
        executor._runs_own = True

    def after_run(self) -> None:
        """trio's word: no task is left."""
        self.executor._gate.detach()
        self.executor._runs_own = False


class _Runtime:
    """For code of anyio's, which may run on either: `clockworker.current_executor()` and its like answer here, too."""

    in_run = staticmethod(_seam.in_run)

    def current_executor(self) -> Executor:
        return current_executor()

    def should_yield(self) -> bool:
        return should_yield()

    async def yield_maybe(self) -> None:
        await yield_maybe()


use_also(_Runtime())


def current_executor() -> Executor:
    """The executor of the caller's run. Raises UsageError if it has none, RuntimeError outside of trio."""
    gate: Gate | None = _seam.executor_queue(Gate)
    if gate is None:
        raise UsageError("this run of trio has no executor: see Executor and QueuesInstrument")
    assert isinstance(gate.owner, Executor)
    return gate.owner


def should_yield() -> bool:
    """Whether the running task should give way soon: a queue with an earlier deadline has woken, its own slice is used up, or
    trio is due its turn. False in a task that is in no queue."""
    gate: Gate | None = _seam.executor_queue(Gate)
    return gate is not None and gate.should_yield()


async def yield_maybe() -> None:
    """Give way if `should_yield()`, else go on at once, having looked for a cancellation. For loops that compute: much cheaper
    than `trio.lowlevel.checkpoint()`."""
    if should_yield():
        await trio.lowlevel.checkpoint()
    else:
        await trio.lowlevel.checkpoint_if_cancelled()


def run(async_fn: Callable[..., Awaitable[T]], *args: Any, queues: Iterable[Queue], **options: Any) -> T:
    """Like `trio.run`, with an executor: runs `async_fn(*args)`, which finds it by `current_executor()`.

    queues, and options of `Executor`, go there; others (`clock`, `instruments`, ...) to `trio.run`. An exception that escapes a
    spawned task is raised here, unless `on_panic="catch"`.
    """
    names = ("on_panic", "sched_latency", "min_slice", "driver_yield", "max_polls_per_yield")
    executor = Executor(queues, **{name: options.pop(name) for name in names if name in options})

    async def with_executor() -> T:
        async with executor:
            return await async_fn(*args)
        raise AssertionError("what cancels the body is raised at its end")

    return trio.run(with_executor, **options)
