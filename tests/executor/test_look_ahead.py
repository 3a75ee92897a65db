"""A queue of more tasks than fit into a cache is looked into ahead of time, which must not be seen in anything but time."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

import clockworker as cw
from clockworker.executor import _steps_cy
from tests.conftest import Run, needs

MANY = 2_500  # more than _look_ahead.pxd's LONG


@needs("lookahead")
@pytest.mark.skipif(not cw.compiled, reason="pure Python does not look ahead")
def test_where_cpython_keeps_what_a_task_waits_for_is_found() -> None:
    assert len(_steps_cy.layout) == 2
    assert all(_steps_cy.layout)


@pytest.mark.parametrize("queues", [1, 2])
def test_a_long_queue_is_in_order(run: Run, queues: int) -> None:
    ran: list[list[int]] = [[] for _ in range(queues)]

    async def body() -> None:
        async def task(queue: int, number: int) -> None:
            for _ in range(2 + number % 3):  # some are done earlier: the queue becomes short
                ran[queue].append(number)
                await asyncio.sleep(0)

        async with cw.Executor([cw.Queue(queue) for queue in range(queues)]) as executor:
            for number in range(MANY):
                for queue in range(queues):
                    executor.queue(queue).spawn(task(queue, number))
            await executor.drain()

    run(body)
    all_of_them = [*range(MANY)]
    rest = [number for number in all_of_them if number % 3]
    last = [number for number in all_of_them if number % 3 == 2]
    assert ran == [all_of_them + all_of_them + rest + last] * queues


class Stop:
    def __await__(self) -> Generator[None, None, None]:
        yield


def test_tasks_that_wait_for_all_kinds_of_things(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        go = asyncio.Event()
        future = loop.create_future()

        async def child(number: int) -> int:
            await asyncio.sleep(0)
            return number

        async def numbers() -> object:
            await Stop()
            return 1

        async def generator() -> object:
            async def values():  # type: ignore[no-untyped-def]
                for number in range(3):
                    await Stop()
                    yield number

            return [number async for number in values()]

        async def aborted() -> None:
            await asyncio.Event().wait()

        async with cw.Executor([cw.Queue("first"), cw.Queue("second")], on_panic="catch") as executor:
            first, second = executor.queue("first"), executor.queue("second")

            async def spawns(number: int) -> int:
                await go.wait()
                return await (first if number % 2 else second).spawn(child(number))

            async def shielded() -> object:
                return await asyncio.shield(future)

            handles = [first.spawn(spawns(number)) for number in range(MANY)]
            others = [first.spawn(make()) for _ in range(MANY) for make in (numbers, generator, shielded)]
            lost = [first.spawn(aborted()) for _ in range(MANY)]
            await asyncio.sleep(0)
            go.set()
            future.set_result("came")
            for handle in lost:
                handle.abort()
            assert [await handle for handle in handles] == [*range(MANY)]
            assert [await handle for handle in others] == [1, [0, 1, 2], "came"] * MANY
            for handle in lost:
                assert isinstance(await handle.outcome(), cw.TaskCancelled)
            assert executor._core.tasks() == []

    run(body)


def test_a_task_that_is_pending_at_a_detach_goes_on_from_a_long_queue(run: Run) -> None:
    async def body() -> None:
        ran: list[int] = []

        async def task(number: int) -> None:
            await asyncio.sleep(0)
            ran.append(number)

        async with cw.Executor([cw.Queue("first")]) as executor:
            tasks = [executor.queue("first").spawn(task(number)).task for number in range(MANY)]
            executor._core.detach()
            await asyncio.wait(tasks)
        assert ran == [*range(MANY)]

    run(body)


def test_coroutines_that_were_closed_and_steps_of_no_task_in_a_long_queue(run: Run) -> None:
    async def body() -> None:
        closed = False

        async def inner() -> None:
            while not closed:
                await Stop()

        async def task() -> None:
            await inner()

        ran: list[int] = []
        async with cw.Executor([cw.Queue("first")], on_panic="catch") as executor:
            queue, core = executor.queue("first"), executor._core
            coroutines = [task() for _ in range(MANY)]
            handles = [queue.spawn(coroutine) for coroutine in coroutines]
            carrier = core.carrier("steps")
            for number in range(MANY):
                core.spawn_step(queue._membership, carrier, lambda number=number: ran.append(number))  # type: ignore[misc]
            while len(ran) < MANY:
                await asyncio.sleep(0)
            assert ran == [*range(MANY)]
            for coroutine in coroutines[::2]:
                coroutine.close()
            closed = True
            outcomes = [await handle.outcome() for handle in handles]
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, cw.TaskPanicked) is (number % 2 == 0)

    run(body)
