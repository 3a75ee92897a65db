"""Steps: whichever the schedulers pick, and what they cost whom."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import clockworker as cw
from clockworker.executor._source_cy import WorkSource
from tests.conftest import Run, until

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


def test_a_scheduler_in_plain_python_drives_an_executor(run: Run) -> None:
    class Lifo(cw.Scheduler):
        def __init__(self) -> None:
            self.stack: list[cw.ScheduledTask] = []
            self.log: list[str] = []

        def push(self, task: cw.ScheduledTask) -> None:
            self.stack.append(task)

        def pop(self) -> cw.ScheduledTask:
            return self.stack.pop()

        def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
            assert elapsed_ns >= 0
            self.log.append(f"observe {task.arrival}")

        def forget_task(self, task: cw.ScheduledTask) -> None:
            self.log.append(f"forget {task.arrival}")

        def forget_group(self, group: object) -> None:
            self.log.append(f"forget {group}")

        def __len__(self) -> int:
            return len(self.stack)

    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    async def body() -> None:
        lifo = Lifo()
        async with cw.Executor([cw.Queue("q", scheduler=lifo), *QUEUES]) as executor:
            group = executor.queue("q").group("g")
            handles = [group.spawn(note(number)) for number in (1, 2, 3)]
            for handle in handles:
                await handle
        assert lifo.log == ["observe 3", "forget 3", "observe 2", "forget 2", "observe 1", "forget 1", "forget g"]

    run(body)
    assert order == [3, 2, 1]


class Breakable(cw.RunnableFifo):
    """Returns what it should not, once."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: list[Any] = []

    def pop(self) -> cw.ScheduledTask:
        return self.instead.pop() if self.instead else super().pop()


@pytest.mark.parametrize("foreign", ["nothing", "made up", "not runnable", "of another queue"])
def test_a_scheduler_that_returns_what_it_was_not_given(run: Run, foreign: str) -> None:
    async def body() -> None:
        broken, other = Breakable(), Breakable()
        queues = [cw.Queue("broken", scheduler=broken), cw.Queue("other", scheduler=other)]
        async with cw.Executor(queues) as executor:
            waiting = executor.queue("broken").spawn(asyncio.Event().wait())
            await asyncio.sleep(0)
            await until(lambda: executor.stats().polls == 1)
            if foreign == "nothing":
                broken.instead = [None]
            elif foreign == "made up":
                broken.instead = [cw.ScheduledTask(waiting.task, None, 1)]
            else:
                victim = waiting
                if foreign == "of another queue":
                    victim = executor.queue("other").spawn(asyncio.Event().wait())
                broken.instead = [victim]
            handle = executor.queue("broken").spawn(asyncio.sleep(0, "ran"))
            # The error goes to the loop; the task is not lost.
            assert await handle == "ran"
            waiting.abort()

    run(body)
    (report,) = run.reports
    run.reports.clear()
    assert isinstance(report["exception"], cw.UsageError)
    assert "Breakable.pop() of queue 'broken' returned" in str(report["exception"])


def test_what_is_spent_for_a_queue_outside_of_its_steps_delays_its_next(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("one"), cw.Queue("other")]) as executor:
            order: list[str] = []

            async def note(key: str) -> None:
                order.append(key)

            for _ in range(3):
                for key in ("one", "other"):
                    executor.queue(key).spawn(note(key))
            core, queue = executor._core, executor.queue("one")._queue
            core.begin_charge()
            ends = time.monotonic() + 0.02
            while time.monotonic() < ends:
                pass
            core.charge(queue)
            await executor.drain()
            assert order == ["other"] * 3 + ["one"] * 3
            core.charge(queue)  # nothing of its is runnable: without effect
            assert executor.queue_stats()["one"].busy_ns < 20_000_000

    run(body)


class Source(WorkSource):
    """Nothing ever comes from it."""

    def __init__(self) -> None:
        self.polls = 0
        self.slept = asyncio.Event()

    def poll(self) -> bool:
        self.polls += 1
        return False

    def prepare_sleep(self) -> bool:
        self.slept.set()
        return True


def test_an_idle_core_looks_at_its_source_more_often_than_it_gives_way_to_the_loop(run: Run) -> None:
    async def body() -> None:
        source = Source()
        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(source, idle_poll_us=50_000)
            await executor.queue("first").spawn(asyncio.sleep(0))
            await source.slept.wait()
            assert source.polls > executor._core.turns > 1
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_an_idle_core_does_not_look_on_while_a_callback_waits(run: Run) -> None:
    async def body() -> None:
        source = Source()
        loop = asyncio.get_running_loop()
        called: list[int] = []

        async def work() -> None:
            loop.call_soon(lambda: called.append(source.polls - before))
            before = source.polls

        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(source, idle_poll_us=50_000)
            for _ in range(20):
                await executor.queue("first").spawn(work())
            await source.slept.wait()
            assert called == [1] * 20
            executor.poll_source(None, idle_poll_us=0)

    run(body)


class Busy(Source):
    """Something comes each time, for a while."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.polled_ns: list[int] = []

    def poll(self) -> bool:
        super().poll()
        self.polled_ns.append(time.monotonic_ns())
        return self.polls < self.count


def test_a_turn_goes_on_while_something_comes(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("first")], driver_yield=10) as executor:
            source = Busy(30_000)
            executor.poll_source(source, idle_poll_us=1)
            turns, idle_ns = executor.turns, executor._core.idle_ns
            executor.wake()
            await source.slept.wait()
            assert source.polls >= source.count
            assert executor.turns - turns < 10  # and a look takes more than a thousandth of what it is looked on for
            # Nothing was runnable meanwhile. The clock of the executor is a thousandth off at most.
            assert executor._core.idle_ns - idle_ns > 0.99 * (source.polled_ns[source.count - 1] - source.polled_ns[0])
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_what_the_source_takes_is_no_part_of_a_step(run: Run) -> None:
    class Slow(Source):
        """Brings three steps, and takes its time for each."""

        def __init__(self, executor: cw.Executor) -> None:
            super().__init__()
            self.core = executor._core
            self.membership = self.core.group(executor.queue("first")._queue, None)

        def poll(self) -> bool:
            super().poll()
            if self.polls <= 3:
                ends = time.monotonic() + 0.05
                while time.monotonic() < ends:
                    pass
                self.core.spawn_step(self.membership, self.core.carrier("step"), int)
            return False

    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(Slow(executor), idle_poll_us=0)
            executor.wake()
            await until(lambda: executor.queue_stats()["first"].finished == 3)
            executor.poll_source(None, idle_poll_us=0)
            assert executor.queue_stats()["first"].busy_ns < 50_000_000

    run(body)
