"""Looks: a slice is cut early when somebody wants the core, and is not cut for nothing.

Slices are an hour here: who waits for a step waits for a look, or in vain.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest

import clockworker as cw
from clockworker.executor import _alarm_cy
from tests.conftest import Run
from tests.executor.slices import cuts, needs_slices

pytestmark = needs_slices

HOUR_NS = 3_600_000_000_000
PATIENCE_S = 0.4  # of CPU time


def executor_of(share: int = 1) -> cw.Executor:
    executor = cw.Executor([cw.Queue("foreground", 8), cw.Queue("background", share, preemptive=True, slice=1.0)])
    executor._core.make_preemptive(executor._core.queues["background"], HOUR_NS)  # longer than anybody may have
    return executor


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def waits(condition: Callable[[], object]) -> bool:
    """Without an await. Whether it came true in time."""
    until = time.thread_time() + PATIENCE_S
    while time.thread_time() < until:
        if condition():
            return True
    return False


async def long_before(executor: cw.Executor) -> None:
    """The first slice of a step is looked at if the step before was long, and if visits are frequent."""
    executor._core.visits.gap_ns = 2_000_000

    async def long() -> None:
        compute(0.002)

    await executor.queue("background").spawn(long())


async def of_a_hog(executor: cw.Executor, begin: Callable[[list[str]], object]) -> None:
    """A hog begins something, and sees in time that others have done it."""
    seen: list[str] = []

    async def hog() -> bool:
        begin(seen)
        return waits(lambda: seen)

    assert await executor.queue("background").spawn(hog())
    assert seen


def test_the_loop_has_an_event(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        seen: list[str] = []

        def read() -> None:
            seen.append(one.recv(1).decode())

        one.setblocking(False)
        loop.add_reader(one, read)

        async with executor_of() as executor:
            await long_before(executor)

            async def hog() -> bool:
                other.send(b"x")
                return waits(lambda: seen)

            assert await executor.queue("background").spawn(hog())
        loop.remove_reader(one)
        one.close()
        other.close()

    run(body)


def test_a_callback_waits(run: Run) -> None:
    async def body() -> None:
        async with executor_of() as executor:
            await long_before(executor)
            loop = asyncio.get_running_loop()
            await of_a_hog(executor, lambda seen: loop.call_soon(seen.append, "callback"))

    run(body)


def test_another_thread_calls(run: Run) -> None:
    async def body() -> None:
        async with executor_of() as executor:
            await long_before(executor)
            loop = asyncio.get_running_loop()
            await of_a_hog(
                executor, lambda seen: loop.run_in_executor(None, loop.call_soon_threadsafe, seen.append, "of a thread")
            )

    run(body)


def test_another_queue_has_become_runnable(run: Run) -> None:
    async def body() -> None:
        async with executor_of() as executor:
            await long_before(executor)

            async def note(seen: list[str]) -> None:
                seen.append("task")

            await of_a_hog(executor, lambda seen: executor.queue("foreground").spawn(note(seen)))

    run(body)


@pytest.mark.parametrize("share", [1, 100])
def test_who_is_owed_the_core_is_not_cut_for_others(run: Run, share: int) -> None:
    """Others are runnable all the time. With a small share the step is soon ahead of them; with a large one it is owed nearly
    all, and gets it in long slices."""

    async def body() -> tuple[int, float]:
        async with executor_of(share) as executor:
            await long_before(executor)
            done = False

            async def others() -> None:
                while not done:
                    compute(0.000_1)
                    await asyncio.sleep(0)

            async def hog() -> None:
                compute(0.2)

            running = executor.queue("foreground").spawn(others())
            background = executor.queue_stats()["background"]
            before, began = background.cuts, background.busy_ns
            await executor.queue("background").spawn(hog())
            background = executor.queue_stats()["background"]
            had = background.cuts - before, (background.busy_ns - began) / 1e6
            done = True
            await running
            return had

    had, busy_ms = run(body)
    if share == 1:
        assert had >= 20
    else:
        # Each 1.25 ms they are owed a step; a look comes each 0.25.
        assert had <= 10 + busy_ms / 0.4, "a cut for each look"


def test_short_steps_are_not_looked_at(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("foreground"), cw.Queue("background", preemptive=True)]) as executor:

            async def short() -> None:
                for _ in range(2_000):
                    compute(0.000_02)
                    await asyncio.sleep(0)

            executor._core.visits.gap_ns = 2_000_000
            stale, began = _alarm_cy.counts()[1], time.monotonic()
            await executor.queue("background").spawn(short())
            busy_ms = executor.queue_stats()["background"].busy_ns / 1e6
            elapsed_ms = (time.monotonic() - began) * 1e3
            # One alarm in a slice of a millisecond; more where the core is shared. A look each 250 us would be four.
            assert _alarm_cy.counts()[1] - stale <= 20 + 2 * busy_ms + elapsed_ms / 4

    run(body)


def test_nothing_is_cut_while_nobody_wants_the_core(run: Run) -> None:
    async def body() -> None:
        async with executor_of() as executor:

            async def hog() -> None:
                compute(0.2)

            looked = _alarm_cy.counts()[2]
            await executor.queue("background").spawn(hog())
            await executor.queue("background").spawn(hog())
            assert _alarm_cy.counts()[2] == looked, "a look, though nobody has ever come"
            executor._core.visits.gap_ns = 2_000_000
            await executor.queue("background").spawn(hog())
            assert _alarm_cy.counts()[2] > looked
            assert cuts(executor) == 0

    run(body)


def test_visits_are_noted(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("foreground"), cw.Queue("background", preemptive=True)]) as executor:
            loop = asyncio.get_running_loop()
            visits = executor._core.visits
            before = visits.gap_ns

            async def hog() -> None:
                for _ in range(20):
                    seen: list[str] = []
                    loop.call_soon(seen.append, "visitor")
                    assert waits(lambda seen=seen: seen)  # type: ignore[misc]

            await executor.queue("background").spawn(hog())
            assert 0 < visits.gap_ns < before / 4
            assert visits.at > 0

    run(body)


def test_an_alarm_of_the_slice_before_does_not_end_the_looking(run: Run) -> None:
    """It rings when the next slice has just a few microseconds to go, by which it is taken for that one's."""

    async def body() -> None:
        queue = cw.Queue("background", preemptive=True, slice=0.000_1)
        async with cw.Executor([cw.Queue("foreground"), queue]) as executor:
            uncut: list[int] = []

            async def short(nanoseconds: int) -> None:
                until = time.perf_counter_ns() + nanoseconds
                while time.perf_counter_ns() < until:
                    pass

            async def long(number: int) -> None:
                before = cuts(executor)
                if not waits(lambda: cuts(executor) > before):
                    uncut.append(number)

            for number in range(400):
                executor.queue("background").spawn(short(100 * (number % 200)))
                await executor.queue("background").spawn(long(number))
            assert not uncut

    run(body)
