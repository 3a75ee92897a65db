"""One program of anyio's in two queues, on asyncio, uvloop and trio: it does the same, and asks Clockworker the same."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import uvloop
from anyio.abc import ObjectReceiveStream

import clockworker as cw
from tests.conftest import DEADLINE
from tests.shares import check_shares, had_enough

pytest.importorskip("trio", reason="the executor on trio needs the extra `trio`")

from clockworker import trio as cw_trio

T = TypeVar("T")
Run = Callable[[Callable[[], Awaitable[T]]], T]


def queues() -> list[cw.Queue]:
    return [cw.Queue("foreground", 8, scheduler=cw.LAS()), cw.Queue("background")]


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def run_anyio(request: pytest.FixtureRequest) -> Run[Any]:
    """Runs an async function with an executor whose first queue has all that belongs to none."""

    def run(body: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            with anyio.fail_after(DEADLINE):
                return await body()
            raise AssertionError("fail_after raises")

        options: dict[str, Any]
        if request.param == "trio":
            options = {"instruments": [cw_trio.QueuesInstrument(queues())]}
            return anyio.run(bounded, backend="trio", backend_options=options)
        make = None if request.param == "asyncio" else uvloop.new_event_loop
        factory = functools.partial(cw.new_event_loop, queues(), **({} if make is None else {"loop_factory": make}))
        options = {"loop_factory": factory}
        return anyio.run(bounded, backend="asyncio", backend_options=options)

    return run


def where() -> Any:
    queue = cw.current_executor().current_queue()
    return None if queue is None else queue.key


def test_task_groups_inherit_their_queue(run_anyio: Run[Any]) -> None:
    async def body() -> list[Any]:
        seen: list[Any] = []

        async def child(*, task_status: anyio.abc.TaskStatus[Any]) -> None:
            await anyio.lowlevel.checkpoint()
            task_status.started(where())
            await anyio.lowlevel.checkpoint()
            seen.append(where())

        async def parent() -> None:
            async with anyio.create_task_group() as group:
                seen.append(await group.start(child))
                seen.append(await group.start(child))

        await cw.current_executor().queue("background").spawn(parent())
        seen.append(where())
        return seen

    assert run_anyio(body) == ["background"] * 4 + ["foreground"]


def test_streams_between_two_queues(run_anyio: Run[Any]) -> None:
    async def body() -> tuple[list[int], dict[Any, bool]]:
        executor = cw.current_executor()
        send, receive = anyio.create_memory_object_stream[int](3)

        async def produce() -> None:
            async with send:
                for number in range(50):
                    await send.send(number)

        async def consume(stream: ObjectReceiveStream[int]) -> list[int]:
            async with stream:
                return [number async for number in stream]

        executor.queue("background").spawn(produce())
        got = await executor.queue("foreground").spawn(consume(receive))
        stats = executor.queue_stats()
        return got, {key: stats[key].polls > 10 for key in ("foreground", "background")}

    assert run_anyio(body) == ([*range(50)], {"foreground": True, "background": True})


def test_cancellation_and_outcomes(run_anyio: Run[Any]) -> None:
    async def body() -> list[str]:
        log: list[str] = []
        queue = cw.current_executor().queue("background")

        async def waits() -> None:
            try:
                await anyio.sleep(3_600)
            except anyio.get_cancelled_exc_class():
                log.append("cancelled")
                raise

        async def limited() -> str:
            with anyio.move_on_after(0.01) as scope:
                await waits()
            return f"moved on {scope.cancelled_caught}"

        async def fails() -> None:
            await anyio.lowlevel.checkpoint()
            raise LookupError("boom")

        handle = queue.spawn(waits())
        await anyio.sleep(0.001)
        handle.abort()
        for outcome in [
            await handle.outcome(),
            await queue.spawn(limited()).outcome(),
            await queue.spawn(fails()).outcome(),
        ]:
            match outcome:
                case cw.Ok(value):
                    log.append(value)
                case cw.TaskPanicked(LookupError()):
                    log.append("panicked")
                case cw.TaskCancelled():
                    log.append("aborted")
        return log

    assert run_anyio(body) == ["cancelled", "cancelled", "aborted", "moved on True", "panicked"]


def test_threads_locks_and_yields(run_anyio: Run[Any]) -> None:
    async def body() -> tuple[int, int]:
        executor = cw.current_executor()
        lock, counted, yields = anyio.Lock(), 0, 0

        async def count() -> None:
            nonlocal counted
            for _ in range(20):
                async with lock:
                    before = counted
                    await anyio.lowlevel.checkpoint()
                    counted = before + 1

        async def computes() -> None:
            nonlocal yields
            while yields < 2:  # the test ends after a while
                yields += cw.should_yield()
                await cw.yield_maybe()

        handles = [executor.queue(key).spawn(count()) for key in ("foreground", "background")]
        handles.append(executor.queue("background").spawn(computes()))
        for handle in handles:
            await handle
        assert await anyio.to_thread.run_sync(lambda: 7) == 7
        return counted, yields

    assert run_anyio(body) == (40, 2)


def test_shares_of_eight_to_one(run_anyio: Run[Any]) -> None:
    async def body() -> None:
        executor = cw.current_executor()

        async def busy() -> None:
            while True:
                ends = time.perf_counter_ns() + 50_000
                while time.perf_counter_ns() < ends:
                    pass
                await anyio.lowlevel.checkpoint()

        handles = [executor.queue(key).spawn(busy()) for key in ("foreground", "background") for _ in range(3)]
        while not had_enough(executor.queue_stats):
            await anyio.sleep(0.01)
        check_shares({"foreground": 8, "background": 1}, executor.queue_stats())
        for handle in handles:
            handle.abort()

    run_anyio(body)
