"""What others had of a step's time: the policy with a kernel that tests make up, and queues beside a real neighbour."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clockworker as cw
from clockworker.executor import WorkSource
from clockworker.executor._meter_cy import Meter
from clockworker.executor._steal_cy import Steal
from tests.conftest import Run
from tests.executor.test_meter import neighbour

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000
UNIT = 1 << 10  # of virtual time, in a nanosecond at share 1

__all__ = ["neighbour"]  # a fixture


class Kernel(Meter):
    """One thread, whose time passes by `run`, `steal` and `block`. A hypervisor's guest is one too."""

    def __init__(self) -> None:
        super().__init__()
        self.now = SECOND
        self.cpu = 0
        self.stolen = 0
        self.asked = 0

    def run(self, ns: int) -> None:
        self.now += ns
        self.cpu += ns

    def steal(self, ns: int) -> None:
        self.now += ns
        self.stolen += ns

    def block(self, ns: int) -> None:
        self.now += ns

    def cpu_ns(self) -> int:
        return self.cpu

    def ask(self, lost_ns: int) -> int:
        self.asked += 1
        stolen, self.stolen = self.stolen, 0
        return min(stolen, lost_ns)


def begin() -> tuple[Kernel, Steal]:
    kernel = Kernel()
    steal = Steal(kernel)
    steal.begin(kernel.now)
    kernel.asked = 0
    return kernel, steal


def noticed() -> tuple[Kernel, Steal]:
    """In the alert."""
    kernel, steal = begin()
    kernel.steal(4 * MS)
    steal.of(4 * MS, kernel.now)
    return kernel, steal


def test_a_step_is_given_back_what_was_stolen_and_not_what_it_blocked() -> None:
    kernel, steal = begin()
    kernel.run(MS)
    kernel.block(3 * MS)
    kernel.steal(5 * MS)
    assert steal.of(9 * MS, kernel.now) == 5 * MS
    kernel.block(3 * MS)
    assert steal.of(3 * MS, kernel.now) == 0


def test_short_steps_before_are_part_of_the_window_and_never_of_the_step() -> None:
    kernel, steal = begin()
    kernel.run(MS)
    kernel.steal(60 * US)
    assert steal.of(50 * US, kernel.now) == 50 * US


def test_steps_that_end_soon_after_a_reading_are_not_asked_about_and_given_nothing() -> None:
    kernel, steal = begin()
    kernel.run(300 * US)
    kernel.steal(100 * US)
    assert steal.of(400 * US, kernel.now) == 0
    kernel.run(300 * US)
    kernel.steal(400 * US)  # less than the step before has taken: it may have been that one's
    assert steal.of(700 * US, kernel.now) == 100 * US  # of 500, in 1.1 ms
    kernel.run(300 * US)
    assert steal.of(300 * US, kernel.now) == 0


def test_in_the_alert_each_long_step_is_asked_about() -> None:
    kernel, steal = noticed()
    for _ in range(10):
        kernel.run(100 * US)
        kernel.steal(100 * US)
        assert steal.of(200 * US, kernel.now) == 100 * US


def test_a_thread_that_has_had_all_its_time_is_not_asked_about() -> None:
    kernel, steal = begin()
    for _ in range(100):
        kernel.run(MS)
        kernel.block(4 * US)  # interrupts
        assert steal.of(MS, kernel.now) == 0
    assert kernel.asked == 0
    assert steal.alert_until == 0


def test_what_may_have_been_stolen_in_a_gap_is_not_the_step_s() -> None:
    kernel, steal = begin()
    kernel.steal(4 * MS)  # on waking
    steal.passed(4 * MS, kernel.now)
    kernel.run(200 * US)
    assert steal.of(200 * US, kernel.now) == 0


@pytest.mark.parametrize("gap_ms", [1, 1000])
def test_what_cannot_have_been_stolen_in_a_gap_is_the_step_s(gap_ms: int) -> None:
    """That is more than the gap; or the step has taken longer than the thread has had all the while."""
    kernel, steal = begin()
    kernel.run(300 * US)
    kernel.block(gap_ms * MS)
    steal.passed(gap_ms * MS, kernel.now)
    kernel.run(100 * US)
    kernel.steal(50 * MS)
    stolen = steal.of(50 * MS + 100 * US, kernel.now)
    assert 49 * MS <= stolen <= 50 * MS


@pytest.mark.parametrize("stolen_ms", [4, 49, 80, 600])
def test_a_step_that_blocks_is_not_given_what_was_stolen_before(stolen_ms: int) -> None:
    kernel, steal = begin()
    kernel.steal(stolen_ms * MS)
    steal.passed(stolen_ms * MS, kernel.now)
    kernel.block(50 * MS)
    assert steal.of(50 * MS, kernel.now) == 0


def test_of_work_beside_steps_only_what_is_certain_is_given_back() -> None:
    kernel, steal = begin()
    kernel.steal(4 * MS)  # nobody tells of it
    kernel.run(MS)
    assert steal.of_work(MS, kernel.now) == 0
    kernel.run(MS)
    kernel.steal(9 * MS)
    assert steal.of_work(9 * MS, kernel.now) == 8 * MS


def test_gaps_are_watched_for_a_second_after_steal_was_noticeable() -> None:
    kernel, steal = noticed()
    for _ in range(20):
        kernel.block(100 * MS)
        kernel.steal(4 * MS)
        assert kernel.now < steal.alert_until
        steal.passed(104 * MS, kernel.now)
        kernel.run(200 * US)
        assert steal.of(200 * US, kernel.now) == 0
        kernel.run(100 * US)
        kernel.steal(4 * MS)
        assert steal.of(4 * MS + 100 * US, kernel.now) == 4 * MS
    assert steal.long_ns == 10 * US
    kernel.run(SECOND)
    assert steal.of(SECOND, kernel.now) == 0
    assert steal.long_ns == 50 * US
    assert kernel.now >= steal.alert_until


def test_in_the_alert_a_reading_before_a_turn_is_never_old() -> None:
    kernel, steal = noticed()
    kernel.asked = 0
    for _ in range(1000):  # short steps, and as short interruptions
        kernel.run(5 * US)
        kernel.steal(5 * US)
        steal.passed(2 * US, kernel.now)
    assert 10 <= kernel.asked <= 100
    kernel.run(200 * US)
    kernel.steal(20 * US)
    assert 20 * US <= steal.of(220 * US, kernel.now) <= 150 * US


def test_a_core_of_one_s_own_is_never_in_the_alert() -> None:
    """The kernel has its own threads, of which each core has some."""
    kernel, steal = begin()
    for _ in range(50):
        kernel.run(30 * MS)
        kernel.steal(15 * US)
        steal.of(30 * MS + 15 * US, kernel.now)
        kernel.block(70 * MS)
        steal.passed(70 * MS, kernel.now)
    assert steal.alert_until == 0
    assert steal.long_ns == 50 * US


def test_one_gap_in_sixteen_is_followed_by_a_reading() -> None:
    kernel, steal = begin()
    for _ in range(16):
        kernel.run(100 * US)
        kernel.block(10 * MS)
        steal.passed(10 * MS, kernel.now)
    assert kernel.asked == 1
    kernel.run(100 * US)
    kernel.steal(4 * MS)
    assert steal.of(4 * MS + 100 * US, kernel.now) == 4 * MS


@given(st.lists(st.tuples(st.sampled_from("sgt"), *[st.integers(0, 10 * MS)] * 3), max_size=50))
def test_nothing_is_given_back_twice_nor_more_than_was_taken(events: list[tuple[str, int, int, int]]) -> None:
    """Of steps, gaps, and short times that nobody reports, each with some of everything."""
    kernel, steal = begin()
    stolen = given_back = 0
    for kind, *parts in events:
        run, robbed, blocked = (part % (10 * US) if kind == "t" else part for part in parts)
        began = kernel.now
        kernel.run(run)
        kernel.steal(robbed)
        kernel.block(blocked)
        stolen += robbed
        elapsed = kernel.now - began
        if kind == "s":
            back = steal.of(elapsed, kernel.now)
            assert 0 <= back <= elapsed
            given_back += back
        elif kind == "g":
            steal.passed(elapsed, kernel.now)
    assert given_back <= stolen


# Of an executor


def block(seconds: float = 0.1) -> None:
    """Half of that may pass before the thread sleeps: it can be robbed when it knows already when it will wake.

    It is not cut: of a step that is, the sleep goes on while others run.
    """
    with cw.no_preempt():
        time.sleep(seconds)


class Pretend(Meter):
    """Sleeping is being robbed."""

    def ask(self, lost_ns: int) -> int:
        return lost_ns


def test_a_step_that_was_robbed_is_not_charged_reported_or_counted_as_slow(run: Run) -> None:
    async def body() -> None:
        reports: list[int] = []
        async with cw.Executor([cw.Queue("one", scheduler=cw.LAS()), cw.Queue("other")]) as executor:
            executor._core.steal.meter = Pretend()
            executor.report_slow_polls({"one": 0.05}, lambda key, task, elapsed_ns: reports.append(elapsed_ns))
            order: list[str] = []

            async def robbed() -> None:
                block()
                for _ in range(3):
                    order.append("one")
                    await asyncio.sleep(0)

            async def beside() -> None:
                for _ in range(3):
                    order.append("other")
                    await asyncio.sleep(0)

            group = executor.queue("one").group("group")
            group.spawn(robbed())
            executor.queue("other").spawn(beside())
            await executor.drain()
            one = executor.queue_stats()["one"]
            assert one.stolen_ns >= 50 * MS
            assert one.busy_ns < 25 * MS
            assert one.poll_time.max_ns < 25 * MS
            assert (one.slow_polls, reports) == (0, [])
            assert executor.stats().stolen_ns >= one.stolen_ns
            # It owes nothing, so the other queue has no arrears to make good: three steps at a stretch are its whole life.
            assert executor.stats().busy_ns < 25 * MS
            assert sorted(order) == ["one"] * 3 + ["other"] * 3

    run(body)


def test_whose_slice_was_stolen_goes_on(run: Run) -> None:
    """Of two equal queues, one that blocks owes the other all that time; one that is robbed owes nothing."""

    async def body(meter: Meter | None) -> list[str]:
        order: list[str] = []
        async with cw.Executor([cw.Queue("one"), cw.Queue("other")]) as executor:
            if meter is not None:
                executor._core.steal.meter = meter

            async def first() -> None:
                block()
                await asyncio.sleep(0)
                order.append("one")

            async def second() -> None:
                ends = time.thread_time() + 0.02
                while time.thread_time() < ends:
                    order.append("other")
                    await asyncio.sleep(0)

            executor.queue("one").spawn(first())
            executor.queue("other").spawn(second())
            await executor.drain()
        return order

    assert run(lambda: body(None))[-1] == "one"
    assert run(lambda: body(Pretend()))[-1] == "other"


class Steps:
    """What a tracer is told: how long each step was, or how long and how much of it was stolen."""

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def step(self, queue: Any, state: Any, started: int, ended: int) -> None:
        self.told.append((ended - started,))

    def turn(self, started: int, ended: int) -> None:
        pass


class StolenSteps(Steps):
    def stolen_step(self, queue: Any, state: Any, started: int, ended: int, stolen: int) -> None:
        self.told.append((ended - started, stolen))


def test_a_tracer_is_told_of_steps_by_the_wall_and_of_what_was_stolen_if_it_asks(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("one")]) as executor:
            executor._core.steal.meter = Pretend()

            async def robbed() -> None:
                block()
                await asyncio.sleep(0)

            for tracer in (Steps(), StolenSteps()):
                executor.trace(tracer)
                await executor.queue("one").spawn(robbed())
                executor.trace(None)
                long, short = tracer.told
                assert long[0] >= 50 * MS
                if isinstance(tracer, StolenSteps):
                    assert 25 * MS <= long[1] <= long[0]
                    assert sum(short[1:]) <= short[0]  # nothing, unless the machine made a long one of it
                else:
                    assert len(long) == len(short) == 1

    run(body)


def test_a_step_that_blocks_is_charged_by_the_wall(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("one")]) as executor:

            async def blocks() -> None:
                block(0.5)  # of which a busy machine may take most

            await executor.queue("one").spawn(blocks())
            assert executor.queue_stats()["one"].busy_ns >= 50 * MS

    run(body)


def test_what_is_stolen_outside_of_steps_is_not_charged_either(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("one"), cw.Queue("other")]) as executor:
            core, queue = executor._core, executor.queue("one")._queue
            for key in ("one", "other"):
                executor.queue(key).spawn(asyncio.sleep(0))
            began = queue.entity.vruntime
            core.begin_charge()
            block()
            core.charge(queue)
            charged = queue.entity.vruntime
            assert (charged - began) / UNIT >= 50 * MS
            core.steal.meter = Pretend()
            block()
            core.charge(queue)
            assert (queue.entity.vruntime - charged) / UNIT < 25 * MS
            await executor.drain()

    run(body)


class RobbedWhileItLooks(WorkSource):
    looks = 0

    def poll(self) -> bool:
        self.looks += 1
        if self.looks == 1:
            block()
        return False

    def prepare_sleep(self) -> bool:
        return True


class RobbedWhileItChooses(cw.ArrivalFifo):
    pops = 0

    def pop(self) -> cw.ScheduledTask | None:
        self.pops += 1
        if self.pops == 1:
            block()
        return super().pop()


@pytest.mark.parametrize("where", ["at a turn's end", "before a step"])
def test_a_step_is_not_given_what_was_stolen_before_it(run: Run, where: str) -> None:
    async def body() -> None:
        scheduler = RobbedWhileItChooses() if where == "before a step" else cw.ArrivalFifo()
        async with cw.Executor([cw.Queue("one", scheduler=scheduler)], max_polls_per_yield=1) as executor:
            steal = executor._core.steal
            steal.meter = Pretend()
            steal.begin(time.monotonic_ns())
            if where == "at a turn's end":
                executor.poll_source(RobbedWhileItLooks(), idle_poll_us=0)

            async def computes() -> None:
                if where == "at a turn's end":
                    await asyncio.sleep(0)
                ends = time.thread_time() + 0.02
                while time.thread_time() < ends:
                    pass

            await executor.queue("one").spawn(computes())
            executor.poll_source(None, idle_poll_us=0)
            assert executor.queue_stats()["one"].busy_ns >= 15 * MS

    run(body)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="knows of Linux only")
@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("iterations", [100, 20_000])
def test_beside_a_busy_process_queues_are_charged_what_the_thread_had(run: Run, iterations: int) -> None:
    """In short steps and in long ones."""

    async def body() -> None:
        async with cw.Executor([cw.Queue("large", share=8), cw.Queue("small")]) as executor:

            async def work() -> None:
                while True:
                    sum(range(iterations))
                    await asyncio.sleep(0)

            handles = [executor.queue(name).spawn(work()) for name in ("large", "small") for _ in range(2)]
            wall, cpu = time.monotonic_ns(), time.thread_time_ns()
            while (
                time.thread_time_ns() - cpu < 150_000_000
            ):  # beside many others, too: of a little the accounts say little
                await asyncio.sleep(0.05)
            wall, cpu = time.monotonic_ns() - wall, time.thread_time_ns() - cpu
            stats = executor.stats()
            for handle in handles:
                handle.abort()
        assert wall > 1.4 * cpu  # the neighbour was there
        assert stats.busy_ns < 1.2 * cpu
        assert stats.stolen_ns > 0  # the rest was stolen between turns

    run(body)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors")
def test_an_executor_leaves_no_descriptor(run: Run) -> None:
    async def body() -> None:
        def count() -> int:
            return len(os.listdir("/proc/self/fd"))

        before = count()
        for _ in range(3):
            async with cw.Executor([cw.Queue("one")]) as executor:
                await executor.queue("one").spawn(asyncio.sleep(0))
                assert count() <= before + 1
            assert count() == before

    run(body)
