"""Steps of no task: all that holds for a task's only step holds for them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import time
import weakref
from collections import deque
from collections.abc import Callable

import pytest

import clockworker as cw
from clockworker.executor._steps_cy import WorkSource
from clockworker.executor._tasks_cy import JoinHandle
from tests.conftest import Run

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


class Plain(cw.Scheduler):
    """A user's own."""

    def __init__(self, fails_at: int = 0) -> None:
        self.waiting: deque[cw.ScheduledTask] = deque()
        self.pops_to_failure = fails_at
        self.names: list[str] = []

    def push(self, task: cw.ScheduledTask) -> None:
        self.waiting.append(task)

    def pop(self) -> cw.ScheduledTask:
        self.pops_to_failure -= 1
        if self.pops_to_failure == 0:
            raise RuntimeError("a scheduler of its own mind")
        task = self.waiting.popleft()
        self.names.append(task.task.get_name())
        return task

    def __len__(self) -> int:
        return len(self.waiting)


def step(executor: cw.Executor, call: Callable[[], object], key: str = "background", group: object = None) -> None:
    core = executor._core
    core.spawn_step(core.group(executor.queue(key)._queue, group), core.carrier("step"), call)


@pytest.mark.parametrize("scheduler", [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS, Plain])
def test_steps_and_tasks_run_in_the_order_in_which_they_came(run: Run, scheduler: Callable[[], cw.Scheduler]) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("background", scheduler=scheduler())]) as executor:
            done: list[int] = []

            async def note(number: int) -> None:
                done.append(number)

            for number in range(0, 40, 2):
                executor.queue("background").spawn(note(number))
                step(executor, lambda number=number: done.append(number + 1))  # type: ignore[misc]
            await executor.drain()
            assert done == list(range(40))

    run(body)


def test_what_a_step_sees_is_what_a_task_would(run: Run) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[object] = []
    others: list[asyncio.Task[None]] = []

    async def other() -> None:
        core = cw.current_executor()._core
        assert core.current is not None
        seen.append(core.current.group)

    def look() -> None:
        executor = cw.current_executor()
        queue, task = executor.current_queue(), asyncio.current_task()
        assert queue is not None
        assert task is not None
        assert isinstance(task, asyncio.Task)
        assert task.get_loop() is asyncio.get_running_loop()
        assert not task.done()
        assert task not in asyncio.all_tasks()
        seen.extend((queue.key, task.get_name(), variable.get(), cw.should_yield()))
        variable.set("set")
        others.append(asyncio.get_running_loop().create_task(other()))

    async def body() -> None:
        # However busy the machine, it is too early to yield.
        async with cw.Executor(QUEUES, sched_latency=10, min_slice=10, driver_yield=10) as executor:
            for _ in range(2):
                step(executor, look, group="tenant")
                await executor.drain()
                assert seen == ["background", "step", "unset", False, "tenant"]
                seen.clear()
            assert asyncio.current_task() is not None

    run(body)


@pytest.mark.parametrize("scheduler", [cw.RunnableFifo, Plain])
def test_they_are_counted_and_charged(run: Run, scheduler: Callable[[], cw.Scheduler]) -> None:
    slow: list[tuple[object, str]] = []

    def work() -> None:
        ends = time.thread_time() + 0.005
        while time.thread_time() < ends:
            pass

    async def body() -> None:
        async with cw.Executor([QUEUES[0], cw.Queue("background", scheduler=scheduler())]) as executor:
            executor.report_slow_polls(
                {"background": 0.004}, lambda key, task, elapsed_ns: slow.append((key, task.get_name()))
            )
            step(executor, work, group="tenant")
            step(executor, lambda: top.extend(executor.queue_stats()["background"].top_groups), group="tenant")
            top: list[tuple[object, int]] = []
            stats = executor.queue_stats()["background"]
            assert (stats.spawned, stats.tasks, stats.runnable, stats.finished) == (2, 2, 2, 0)
            await executor.drain()
            stats = executor.queue_stats()["background"]
            assert (stats.spawned, stats.tasks, stats.runnable, stats.finished, stats.polls) == (2, 0, 0, 2, 2)
            assert stats.busy_ns >= 5_000_000
            assert stats.first_poll_wait.count == 2
            assert slow == [("background", "step")]
            [(group, service_ns)] = top
            assert group == "tenant"
            assert service_ns >= 5_000_000
            assert stats.top_groups == ()

    run(body)


def test_a_scheduler_that_fails_loses_no_step(run: Run) -> None:
    async def body() -> None:
        scheduler = Plain(fails_at=5)
        async with cw.Executor([cw.Queue("background", scheduler=scheduler)]) as executor:
            done: list[int] = []
            for number in range(20):
                step(executor, lambda number=number: done.append(number))  # type: ignore[misc]
            await executor.drain()
            assert done == list(range(20))
            assert scheduler.names == ["step"] * 4
            assert executor._core.singles == 0

    run(body)
    assert "a RunnableFifo has taken its place" in run.reports.pop()["message"]


def test_what_has_not_run_at_the_end_never_does(run: Run) -> None:
    class Referent:
        def __call__(self) -> None:
            ran.append(1)

    ran: list[int] = []
    references = []

    async def body() -> None:
        for scheduler in (cw.RunnableFifo(), Plain()):
            async with cw.Executor([cw.Queue("background", scheduler=scheduler)]) as executor:
                referent = Referent()
                references.append(weakref.ref(referent))
                step(executor, referent)
                del referent
                carrier = executor._core.carrier("step")
            stats = executor.queue_stats()["background"]
            assert (stats.tasks, stats.runnable) == (0, 0)
            with pytest.raises(cw.UsageError, match="not running"):
                executor._core.spawn_step(executor.queue("background")._membership, carrier, lambda: None)

    run(body)
    gc.collect()
    assert ran == []
    assert [reference() for reference in references] == [None, None]


def test_a_detached_loop_runs_none(run: Run) -> None:
    ran: list[int] = []
    loop = cw.new_event_loop(QUEUES, loop_factory=run.loop_factory)
    executor = loop.call_soon.__self__.owner  # type: ignore[attr-defined]
    step(executor, lambda: ran.append(1))
    loop.close()
    assert ran == []
    assert executor._core.singles == 0


class Ends(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("out of a step"), Ends("out of a step")])
def test_what_escapes_is_a_panic(run: Run, error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            step(executor, fail)
            await asyncio.Event().wait()

    with pytest.raises(type(error), match="out of a step"):
        run(body)


def test_what_ends_the_program_does(run: Run) -> None:
    def fail() -> None:
        raise SystemExit(3)

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            step(executor, fail)
            await asyncio.Event().wait()

    with pytest.raises(SystemExit):
        run(body)


def test_a_step_may_move_to_another_queue(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            core = executor._core
            step(executor, lambda: core.switch(core.group(executor.queue("foreground")._queue, None)))
            await executor.drain()
            stats = executor.queue_stats()
            assert [(each.tasks, each.finished) for each in stats.values()] == [(0, 1), (0, 0)]

    run(body)


class Watching(WorkSource):
    """Who is the current task while it is polled?"""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def poll(self) -> bool:
        self.seen.append(asyncio.current_task())
        return False

    def prepare_sleep(self) -> bool:
        return True


def test_the_carrier_is_the_current_task_of_its_steps_and_of_nothing_else(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("background")]) as executor:
            core = executor._core
            one, other = core.carrier("one"), core.carrier("other")
            seen: list[object] = []
            source = Watching()

            def note() -> None:
                seen.append(asyncio.current_task())

            async def task() -> None:
                note()

            def fail() -> None:
                note()
                raise asyncio.CancelledError

            async def spawn() -> None:
                membership = core.group(executor.queue("background")._queue, None)
                for carrier, call in ((one, note), (one, fail), (other, note), (one, note)):
                    core.spawn_step(membership, carrier, call)
                spawned.append(executor.queue("background").spawn(task()).task)
                core.spawn_step(membership, other, note)

            spawned: list[asyncio.Task[None]] = []
            executor.poll_source(source, idle_poll_us=0)
            await executor.queue("background").spawn(spawn())
            asyncio.get_running_loop().call_soon(note)
            await executor.drain()
            await asyncio.sleep(0)
            assert seen == [one, one, other, one, *spawned, other, None]
            assert {*source.seen} == {None}
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_a_step_leaves_nothing_behind_for_the_next(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            held: list[object] = []
            freed: list[weakref.ref[Group]] = []

            class Group:
                """A tenant."""

            def hold() -> None:
                held.append(executor._core.current)

            for number in range(200):
                group = Group()
                freed.append(weakref.ref(group))
                step(executor, hold if number % 3 == 0 else int, group=group)
                del group
                await executor.drain()
                step(executor, lambda: held.append(executor._core.current.group))  # type: ignore[union-attr]
                await executor.drain()
                assert held.pop() is None
            handles = [each for each in held if isinstance(each, JoinHandle)]
            assert len({*map(id, handles)}) == len(handles) == 67  # whoever is held is not used again
            held.clear()
            handles.clear()
            gc.collect()
            assert [each for each in freed if each() is not None] == []

    run(body)
