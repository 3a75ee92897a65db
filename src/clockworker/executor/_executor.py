"""The executor as its users see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from clockworker._errors import UsageError
from clockworker.executor._core_cy import Core
from clockworker.executor._group_handle import QueueGroupHandle, Standing
from clockworker.executor._handles_cy import QueueHandle, queue_handle
from clockworker.executor._protocols import Tracer
from clockworker.executor._queue import (
    OnPanic,
    Queue,
    QueueGroup,
    check_on_panic,
    check_queues,
    check_slow_limit,
    check_times,
    queues_in,
    unknown_key,
)
from clockworker.executor._schedulers_cy import RunnableFifo
from clockworker.executor._stats import (
    DurationStats,
    ExecutorStats,
    QueueGroupStats,
    QueueStats,
    executor_stats,
    queue_stats,
)
from clockworker.executor._steps_cy import WorkSource
from clockworker.executor._tasks_cy import JoinHandle

T = TypeVar("T")


class Executor:
    """Divides one event loop's thread fairly between queues of tasks.

    queues: their declarations, and those of groups of queues; the first one is where tasks go that belong to none, on a loop
        from `new_event_loop`.
    on_panic: what becomes of an exception that escapes a spawned task. If a task is waiting for that one, by `await handle` or
        `handle.outcome()`, it is raised or returned there, and that is all. If none is, "propagate": it is a panic; the other
        tasks are cancelled, and `async with` raises it. "catch": it is left to whoever awaits the task later.
    sched_latency, min_slice: seconds. A queue without a `slice` of its own gets sched_latency divided by the number of
        queues, and no less than min_slice.
    driver_yield, max_polls_per_yield: seconds, and steps. After either the event loop has its turn; after a quarter of the
        time while a queue sleeps, which the loop may be about to wake.

        async with Executor([Queue("foreground", share=8), Queue("background")]) as executor:
            value = await executor.queue("foreground").spawn(work())

    Leaving `async with` cancels the tasks that are left and waits for their end. `run_until` is the other way to run it.

    Raises ConfigurationError for a value that cannot be, and for queues that do not go together.
    """

    def __init__(
        self,
        queues: Iterable[Queue | QueueGroup],
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
        self._core = Core(self, _nanoseconds(driver_yield), max_polls_per_yield)
        self._handles: dict[Hashable, QueueHandle] = {}
        self._standing = Standing()
        self._controlled: dict[Hashable, Any] = {}  # `Controlled`, by the key of its queue
        default_slice = max(sched_latency / len(list(queues_in(declared))), min_slice)

        def add(queue: Queue) -> None:
            state = self._core.add_queue(
                queue.key,
                queue.share,
                _nanoseconds(queue.slice if queue.slice is not None else default_slice),
                queue.scheduler if queue.scheduler is not None else RunnableFifo(),
                (queue.on_panic or on_panic) == "catch",
            )
            if queue.preemptive:
                self._core.make_preemptive(state, 0 if queue.slice is None else _nanoseconds(queue.slice))
            self._handles[queue.key] = queue_handle(self._core, state)

        if any(isinstance(each, QueueGroup) for each in declared):
            self._standing.add_all(self._core, self._core.nest(), declared, default_slice, add)
        else:
            for queue in queues_in(declared):
                add(queue)
        self._host: asyncio.Task[Any] | None = None
        self._loops_own = False  # of a loop that carries it, and is carried by nobody: see new_event_loop
        self._report_long: Callable[[Hashable, asyncio.Task[Any], int, int], None] | None = None
        self._panicked: asyncio.Task[Any] | None = None  # the first
        self._cancelled_host = False

    def queue(self, key: Hashable) -> QueueHandle:
        """The running queue of that key. An unknown key raises KeyError, listing those there are."""
        try:
            return self._handles[key]
        except (KeyError, TypeError):
            raise unknown_key("queue", key, self._handles) from None

    def queues(self) -> Sequence[QueueHandle]:
        """The running queues, in the order of their declaration."""
        return list(self._handles.values())

    def queue_group(self, key: Hashable) -> QueueGroupHandle:
        """The group of queues of that key. An unknown key raises KeyError, listing those there are."""
        try:
            return self._standing.groups[key]
        except (KeyError, TypeError):
            raise unknown_key("group of queues", key, self._standing.groups) from None

    def queue_groups(self) -> Sequence[QueueGroupHandle]:
        """The groups of queues, outer ones before those in them, in the order of their declaration."""
        return list(self._standing.groups.values())

    def group_stats(self) -> dict[Hashable, QueueGroupStats]:
        """What each group of queues has had, by its key. Groups of tasks within a queue are in `queue_stats`."""
        return {key: group.stats() for key, group in self._standing.groups.items()}

    def current_queue(self) -> QueueHandle | None:
        """The queue of the task whose step is running; None outside of all queues."""
        current = self._core.current if self._core.is_own_thread() else None
        return None if current is None else self._handles[current.membership.queue.key]

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        host, self._host = self._host, None
        assert host is not None
        await self._take_back_cancellation(host, error)
        cancelled = await self._cancel_all()
        if cancelled is not None and error is None:
            raise cancelled
        self._raise_panic(host, error)

    async def run_until(self, awaitable: Awaitable[T]) -> T:
        """Run the queues until the awaitable is done, and return its result. What is still pending then stays pending, and
        goes on at the next `run_until` on the same loop; `close` ends it.

        A panic cancels the awaitable and is raised here. Raises UsageError inside `async with` or another `run_until`, from a
        task of this executor, and on a loop that runs it itself (`new_event_loop`).
        """
        try:
            self._enter()
        except BaseException:
            if asyncio.iscoroutine(awaitable):
                awaitable.close()
            raise
        error: BaseException | None = None
        try:
            return await awaitable
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._core.pause()
            host, self._host = self._host, None
            assert host is not None
            await self._take_back_cancellation(host, error)
            self._raise_panic(host, error)

    async def close(self) -> None:
        """After `run_until`: cancel the tasks that are left, wait for their end, and leave the loop as it was.

        Raises UsageError inside `async with` or `run_until`, from a task of this executor, and on another loop."""
        if self._host is not None:
            raise UsageError("close() was called inside `async with` or run_until, which end by themselves")
        self._check_caller("close()")
        if self._core.loop is not None:
            self._check_loop("close()")
            self._core.resume()
            cancelled = await self._cancel_all()
            self._panicked = None
            if cancelled is not None:
                raise cancelled

    def _enter(self) -> None:
        loop = asyncio.get_running_loop()
        if self._host is not None:
            raise UsageError("the executor is running already, in `async with` or run_until")
        self._check_caller("`async with` or run_until")
        if self._core.loop is None:
            self._core.attach(loop)
        elif self._core.loop is not loop:
            raise UsageError("the executor has tasks on another loop: close() it there first")
        self._host = asyncio.current_task()
        self._cancelled_host = False
        self._core.resume()

    def _check_caller(self, what: str) -> None:
        """Nobody stops, or waits for, what carries the caller itself."""
        if self._loops_own:
            raise UsageError(
                f"{what}: this executor is its loop's own and runs as long as the loop does. Spawn into its queues; "
                "it ends when the loop is closed"
            )
        if self._core.loop is not None and self._core.contains_caller():
            raise UsageError(f"{what} was called by a task of this executor, which would wait for itself")

    def _check_loop(self, what: str) -> None:
        if self._core.loop is not asyncio.get_running_loop():
            raise UsageError(
                f"{what} was called on another loop than the executor's: there, or by asyncio.run_coroutine_threadsafe"
            )

    async def _take_back_cancellation(self, host: asyncio.Task[Any], error: BaseException | None) -> None:
        """If a panic has cancelled the host: that is over, and must not strike after us."""
        if self._cancelled_host:
            host.uncancel()
            if not isinstance(error, asyncio.CancelledError):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)

    async def _cancel_all(self) -> asyncio.CancelledError | None:
        """Cancel the tasks, wait for the last, and detach. Returns a cancellation of ours that came meanwhile."""
        core = self._core
        core.accepting = False
        endless = set()
        for state in core.tasks():
            if not core.cancel(state.task) and not core.cancel_by_force(state.task):
                endless.add(state.task)  # reported; the loop's own from `detach` on
        cancelled: asyncio.CancelledError | None = None
        try:
            while (tasks := set(core.pending()) - endless) or core.singles:
                try:
                    if tasks:
                        await asyncio.wait(tasks)
                    await asyncio.sleep(0)
                except asyncio.CancelledError as again:
                    cancelled = again
        finally:
            core.detach()
        return cancelled

    def _raise_panic(self, host: asyncio.Task[Any], error: BaseException | None) -> None:
        panicked, self._panicked = self._panicked, None
        ours = error is None or (self._cancelled_host and isinstance(error, asyncio.CancelledError))
        if panicked is not None and ours and host.cancelling() == 0:
            panicked.result()  # raises, and counts as retrieved: asyncio need not report it as well

    async def drain(self) -> None:
        """Wait until no task of any queue is left, those included that they start meanwhile.

        Raises UsageError from within a task of this executor, which would wait for itself, and on another loop.
        """
        if self._core.loop is not None:
            self._check_loop("drain()")
            if self._core.current is not None:
                raise UsageError("drain() was awaited by a task of this executor, which would wait for itself")
        while (tasks := self._core.pending()) or self._core.singles:
            if tasks:
                await asyncio.wait(tasks)
            # The core sees a task's end after its last step; let that come first. Steps of no task are all runnable.
            await asyncio.sleep(0)

    def stats(self) -> ExecutorStats:
        """Counters over all queues, and gauges of now."""
        queues = self._core.queues.values()
        return executor_stats(self._core, queues, cuts=sum(queue.cuts for queue in queues))

    def queue_stats(self, *, top_groups: int = 8) -> dict[Hashable, QueueStats]:
        """Counters and gauges of each queue, by its key.

        top_groups: of how many groups to give the CPU time. Finding them means to look at all of the queue's groups.
        """
        parts = self._standing.parts(self._core)
        return {
            key: queue_stats(
                queue,
                top_groups,
                preemptive=queue.preemptive,
                cuts=queue.cuts,
                refusals=dict(queue.refusals),
                whole_step=DurationStats.of(queue.whole_step) if queue.preemptive else None,
                part=round(1e6 * parts[key]),
            )
            for key, queue in self._core.queues.items()
        }

    def report_slow_polls(
        self, limits: Mapping[Hashable, float], report: Callable[[Hashable, asyncio.Task[Any], int], None]
    ) -> None:
        """Have steps reported that take as long as their queue's limit, or longer.

        limits: seconds, by queue; none for the queues that are not there. Less than a queue's slice counts as the slice.
        report: called after such a step with the queue's key, the task, and how long the step took without what
            others had of that time, in ns.

        Raises ConfigurationError for a limit that is no time.
        """
        for key, seconds in limits.items():
            check_slow_limit(key, seconds)
            self.queue(key)._queue.slow_ns = _nanoseconds(seconds)
        self._report_slow = report

    def was_slow(self, state: JoinHandle, elapsed_ns: int) -> None:
        """The core's word of a slow step. state: of its task. elapsed_ns: what it took."""
        self._report_slow(state.membership.queue.key, state.task, elapsed_ns)

    def report_long_steps(self, report: Callable[[Hashable, asyncio.Task[Any], int, int], None]) -> None:
        """Have steps of preemptive queues reported that were cut, and took as long as `report_slow_polls` says in all of their
        slices together.

        report: called after such a step with the queue's key, the task, how long the step took without what others had of that
            time, in ns, and in how many slices.
        """
        self._report_long = report

    def was_long(self, state: JoinHandle, elapsed_ns: int, slices: int) -> None:
        """The core's word of such a step. state: of its task. elapsed_ns: what it took, in so many `slices`."""
        if self._report_long is not None:
            self._report_long(state.membership.queue.key, state.task, elapsed_ns, slices)

    def trace(self, tracer: Tracer | None) -> None:
        """Let `tracer` be told of each step and each turn, until this is called with None, or the tracer raises. One that has
        `stolen_step` is told by that of steps in which others had the core for a while (`_protocols`)."""
        self._core.tracer = tracer

    def poll_source(self, source: WorkSource | None, *, idle_poll_us: int) -> None:
        """Let the executor poll `source` once a turn, and for up to `idle_poll_us` after it has run dry: less and less while
        that brings nothing, and all of it again once something has come as soon. None: no more."""
        self._core.source = source
        self._core.idle_poll_ns = self._core.patience_ns = idle_poll_us * 1_000

    @property
    def turns(self) -> int:
        """How many it has had on the loop."""
        return self._core.turns

    @property
    def is_busy(self) -> bool:
        """Whether anything is runnable, so that the loop's next turn comes only after some steps."""
        return self._core.is_busy()

    def when_stirred(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` once, when something becomes runnable after nothing was, before it runs. None: no more."""
        self._core.stirred = callback

    def wake(self) -> None:
        """Make sure that the source is polled soon, though nothing may be runnable."""
        self._core.wake()

    def panicked(self, state: JoinHandle) -> None:
        """The core's word that a spawned task of a queue that propagates has raised. state: of that task."""
        if self._panicked is not None:
            return
        self._panicked = state.task
        for other in self._core.tasks():
            if other is not state:
                self._core.cancel(other.task)
        if self._host is not None and not self._host.done():
            self._cancelled_host = True
            self._core.cancel(self._host)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
