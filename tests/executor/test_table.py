"""The table of tasks: each is found at its wake-ups until it is done, whatever the order in which they come and go."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, needs


@pytest.mark.parametrize("seed", range(3))
def test_tasks_that_come_and_go_in_any_order(run: Run, seed: int) -> None:
    chance = random.Random(seed)

    async def body() -> None:
        loop = asyncio.get_running_loop()
        waiting: dict[int, asyncio.Future[int]] = {}

        async def task(number: int) -> None:
            for _ in range(2):
                future = waiting[number] = loop.create_future()
                assert await future == number
                del waiting[number]

        def wake(numbers: list[int]) -> None:
            for number in numbers:
                if not waiting[number].done():
                    waiting[number].set_result(number)

        async with cw.Executor([cw.Queue("first"), cw.Queue("second")]) as executor:
            queues = executor.queues()
            number = 0
            for wave in (6_000, 10, 3_000, 1):
                for _ in range(wave):
                    chance.choice(queues).spawn(task(number))
                    number += 1
                await asyncio.sleep(0)
                known = executor._core.tasks()
                assert [state.arrival for state in known] == sorted(state.arrival for state in known)
                assert len(known) >= len(waiting)
                # Most of them, so that what held them gets empty.
                while len(waiting) > 5:
                    order = [*waiting]
                    chance.shuffle(order)
                    wake(order[: len(order) * 9 // 10])
                    await asyncio.sleep(0.001)
            while executor._core.tasks():
                wake([*waiting])
                await asyncio.sleep(0)
            assert not waiting

    run(body)


class Result:
    handle: object = None


def test_a_finished_task_in_a_cycle_is_collected(run: Run) -> None:
    """What the collector does not look into while it is pending, it does afterwards."""

    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            queue = executor.queue("first")

            async def at_once() -> Result:
                return Result()

            async def later() -> Result:
                await asyncio.sleep(0)
                return Result()

            async def woken() -> Result:
                await asyncio.sleep(0.001)
                return Result()

            async def by_another() -> Result:
                await queue.spawn(later())
                return Result()

            for make in (at_once, later, woken, by_another):
                handle = queue.spawn(make())
                result = await handle
                result.handle = handle
                gone = weakref.ref(result)
                del handle, result
                for _ in range(3):  # what the last steps have left behind
                    await asyncio.sleep(0.001)
                gc.collect()
                assert gone() is None, make

    run(body)


def test_the_collector_sees_what_is_left_when_those_who_waited_have_gone(run: Run) -> None:
    """A task that is done and was waited for is shown to it only then, and mostly nothing is left."""

    async def body() -> None:
        async with cw.Executor([cw.Queue("first"), cw.Queue("second")]) as executor:
            queue, other = executor.queues()

            async def work() -> Result:
                result = Result()
                result.handle = asyncio.current_task()
                await asyncio.sleep(0)
                return result

            async def wait_for(handle: cw.JoinHandle[Result]) -> Result:
                return await handle

            async def the_handle_goes() -> weakref.ref[Result]:
                return weakref.ref(await queue.spawn(work()))

            async def several_wait() -> weakref.ref[Result]:
                handle = queue.spawn(work())
                waiting = [place.spawn(wait_for(handle)) for place in (queue, other, other)]
                results = [await waiter for waiter in waiting]
                return weakref.ref(results[0])

            async def one_is_cancelled() -> weakref.ref[Result]:
                handle = queue.spawn(work())
                waiting = [queue.spawn(wait_for(handle)), asyncio.create_task(wait_for(handle))]
                await asyncio.sleep(0)
                waiting[0].abort()  # type: ignore[union-attr]
                await asyncio.wait([waiting[1]])  # type: ignore[list-item]
                return weakref.ref((await handle.outcome()).value)  # type: ignore[union-attr]

            async def nobody_waits() -> weakref.ref[Result]:
                handle = queue.spawn(work())
                while not handle.done():
                    await asyncio.sleep(0)
                return weakref.ref(handle.task.result())

            for make in (the_handle_goes, several_wait, one_is_cancelled, nobody_waits):
                gone = await other.spawn(make())
                await asyncio.sleep(0.001)
                gc.collect()
                assert gone() is None, make

    run(body)


@needs("gc")
@pytest.mark.skipif(not cw.compiled, reason="pure Python hides nothing from the collector")
def test_the_collector_does_not_look_into_those_who_wait(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            handle = executor.queue("first").spawn(asyncio.sleep(0))
            unused, waiter = handle.__await__(), handle.__await__()
            assert gc.is_tracked(waiter)  # anybody may keep it
            next(waiter)
            assert not gc.is_tracked(waiter)
            await handle
            assert gc.is_tracked(waiter)
            assert gc.is_tracked(unused)

    run(body)


class Thing:
    kept: object


@pytest.mark.parametrize("used", [False, True])
def test_a_kept_waiter_is_collected_with_what_keeps_it(run: Run, used: bool) -> None:
    class Wrapped:
        def __init__(self, waiter: Any) -> None:
            self.waiter = waiter

        def __await__(self) -> Any:
            return self.waiter

    async def body() -> None:
        gone = []
        async with cw.Executor([cw.Queue("first")]) as executor:
            queue = executor.queue("first")
            for _ in range(20):
                thing = Thing()

                async def work(thing: Thing = thing) -> Thing:
                    await asyncio.sleep(0)
                    return thing

                handle = queue.spawn(work())
                waiter = handle.__await__()
                thing.kept = waiter, handle
                await (Wrapped(waiter) if used else handle)
                gone.append(weakref.ref(thing))
                del thing, handle, work, waiter
            await asyncio.sleep(0.001)
            gc.collect()
            await asyncio.sleep(0)
            gc.collect()
            assert sum(each() is not None for each in gone) <= 1

    run(body)


def test_pending_tasks_are_the_collectors_again_after_a_detach(run: Run) -> None:
    async def body() -> None:
        async def forever() -> None:
            await asyncio.Event().wait()

        async def runs() -> None:
            await asyncio.sleep(0)

        async with cw.Executor([cw.Queue("first")]) as executor:
            queue = executor.queue("first")
            handle = queue.spawn(forever())

            async def waits() -> None:
                await handle

            tasks = [handle.task, queue.spawn(waits()).task]
            await asyncio.sleep(0)
            ready = queue.spawn(runs()).task
            executor._core.detach()
            assert all(gc.is_tracked(task) for task in (*tasks, ready))
            await ready
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(body)
