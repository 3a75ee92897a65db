"""`Executor.run_until` and `close`, `yield_maybe`, `should_yield`, `switch_to`: what a running task may ask for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, until

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


def test_the_pending_stay_pending_until_the_next(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor(QUEUES)
        steps: list[int] = []

        async def count() -> None:
            while True:
                steps.append(len(steps))
                await asyncio.sleep(0)

        async def start() -> cw.JoinHandle[None]:
            handle = executor.queue("background").spawn(count())
            await until(lambda: len(steps) > 3)
            return handle

        handle = await executor.run_until(start())
        seen = len(steps)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(steps) == seen
        assert not handle.done()
        await executor.run_until(until(lambda: len(steps) > seen + 3))
        assert not handle.done()
        await executor.close()
        assert handle.task.cancelled()
        assert "call_soon" not in vars(asyncio.get_running_loop())

    run(body)


def test_a_wake_up_between_two_is_kept(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor(QUEUES)
        event = asyncio.Event()
        handle = await executor.run_until(_spawn(executor, event.wait()))
        event.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not handle.done()
        assert await executor.run_until(handle) is True
        await executor.close()

    run(body)


async def _spawn(executor: cw.Executor, coroutine: Any) -> cw.JoinHandle[Any]:
    handle = executor.queue("foreground").spawn(coroutine)
    await asyncio.sleep(0)
    return handle


def test_a_panic_is_raised_by_run_until(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor(QUEUES)

        async def fail() -> None:
            raise LookupError("boom")

        async def wait() -> None:
            executor.queue("foreground").spawn(fail())
            await asyncio.Event().wait()

        with pytest.raises(LookupError, match="boom"):
            await executor.run_until(wait())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert await executor.run_until(asyncio.sleep(0, "goes on")) == "goes on"
        await executor.close()

    run(body)


def test_it_does_not_nest(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            with pytest.raises(cw.UsageError, match="running already"):
                await executor.run_until(asyncio.sleep(0))
            with pytest.raises(cw.UsageError, match="close"):
                await executor.close()

    run(body)


def test_switch_to_moves_the_task_and_its_children(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("a", scheduler=cw.LAS()), cw.Queue("b", scheduler=cw.LAS())]) as executor:
            a, b = executor.queue("a"), executor.queue("b")

            def here() -> object:
                queue = executor.current_queue()
                return None if queue is None else queue.key

            async def child() -> object:
                return here()

            async def move() -> list[object]:
                seen = [here()]
                await b.group("tenant").switch_to()
                seen += [here(), await asyncio.create_task(child())]
                await a.switch_to()
                return [*seen, here()]

            handle = a.spawn(move())
            assert await handle == ["a", "b", "b", "a"]
            stats = executor.queue_stats()
            assert stats["a"].tasks == stats["b"].tasks == 0
            assert stats["b"].polls >= 2
            assert stats["b"].top_groups == ()
            with pytest.raises(cw.UsageError, match="in no queue"):
                b.switch_to()

    run(body)


def test_yield_maybe_gives_way_to_a_queue_with_an_earlier_deadline(run: Run) -> None:
    async def body() -> None:
        queues = [cw.Queue("foreground", 10_000, slice=0.001), cw.Queue("background", 1, slice=10.0)]
        async with cw.Executor(queues, driver_yield=10.0) as executor:
            order: list[str] = []

            async def urgent() -> None:
                order.append("urgent")

            async def compute() -> None:
                assert not cw.should_yield()
                await cw.yield_maybe()
                order.append("not suspended")
                executor.queue("foreground").spawn(urgent())
                assert cw.should_yield()
                await cw.yield_maybe()
                order.append("resumed")

            await executor.queue("background").spawn(compute())
            assert order == ["not suspended", "urgent", "resumed"]
            assert executor.queue_stats()["background"].preemptions == 1
        assert not cw.should_yield()

    run(body)


def test_yield_maybe_gives_way_when_the_slice_is_used_up(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("q", slice=0.000_001)]) as executor:

            async def compute() -> int:
                while not cw.should_yield():
                    pass
                await cw.yield_maybe()
                return executor.stats().polls

            assert await executor.queue("q").spawn(compute()) == 1
            assert executor.stats().polls == 2
            assert executor.queue_stats()["q"].slice_overruns >= 1

    run(body)


def test_durations_are_counted(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            for _ in range(40):
                await executor.queue("foreground").spawn(asyncio.sleep(0))
            stats = executor.queue_stats()["foreground"]
            assert stats.poll_time.count == stats.polls == 80
            assert stats.first_poll_wait.count == stats.spawned == stats.finished == 40
            assert 0 < stats.poll_time.quantile_ns(0.5) <= stats.poll_time.quantile_ns(1) == stats.poll_time.max_ns
            assert executor.stats().decision_time.count == 80 // 16
            assert cw.DurationStats().quantile_ns(0.99) == 0

    run(body)
