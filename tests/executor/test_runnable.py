"""A step never overtakes a callback of the loop that was queued before it."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, until

QUEUES = [cw.Queue("first"), cw.Queue("second", share=8)]


@pytest.mark.parametrize("scheduler", [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS])
@pytest.mark.parametrize("crowd", [0, 200])
def test_a_yield_lets_callbacks_go_first(run: Run, scheduler: Any, crowd: int) -> None:
    async def busy(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for count in range(1, 30):
            seen: list[int] = []
            for number in range(count):
                loop.call_soon(seen.append, number)
            await asyncio.sleep(0)
            assert seen == list(range(count))

    async def body() -> None:
        async with cw.Executor([cw.Queue("first", scheduler=scheduler()), *QUEUES[1:]]) as executor:
            handles = [executor.queue("second").spawn(busy(40)) for _ in range(crowd)]
            handles += [executor.queue(key).spawn(work()) for key in ("first", "second", "first")]
            for handle in handles:
                await handle

    run(body)


def test_a_yield_lets_callbacks_from_threadsafe_calls_go_first(run: Run) -> None:
    """`run_coroutine_threadsafe`, `wrap_future` and others make such calls in the loop's own thread, too."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for count in range(1, 30):
            seen: list[int] = []
            for number in range(count):
                loop.call_soon_threadsafe(seen.append, number)
            await asyncio.sleep(0)
            assert seen == list(range(count))

    async def body() -> None:
        loop = asyncio.get_running_loop()
        before = loop.call_soon_threadsafe
        async with cw.Executor(QUEUES) as executor:
            for handle in [executor.queue(key).spawn(work()) for key in ("first", "second", "first")]:
                await handle
        assert loop.call_soon_threadsafe == before

    run(body)


def test_callbacks_and_wake_ups_of_one_future_keep_their_order(run: Run) -> None:
    """Those that were registered before the task began to wait are called before it goes on."""

    async def work(log: list[str]) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(50):
            future = loop.create_future()
            future.add_done_callback(lambda future: log.append("callback"))
            # From a callback that runs beside the pump, before and after it.
            loop.call_soon(future.set_result, None)
            await future
            log.append("task")

    async def body() -> None:
        logs: list[list[str]] = [[] for _ in range(40)]
        async with cw.Executor(QUEUES) as executor:
            handles = [executor.queue(QUEUES[i % 2].key).spawn(work(log)) for i, log in enumerate(logs)]
            for handle in handles:
                await handle
        assert all(log == ["callback", "task"] * 50 for log in logs)

    run(body)


def test_tasks_of_no_queue_keep_their_place_too(run: Run) -> None:
    log: list[str] = []

    async def note(what: str) -> None:
        log.append(what)

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            first = executor.queue("first").spawn(note("member"))
            outside = asyncio.create_task(note("outside"))
            second = executor.queue("second").spawn(note("member that came after"))
            await asyncio.gather(outside, first.task, second.task)

    run(body)
    assert sorted(log) == ["member", "member that came after", "outside"]
    assert log.index("outside") < log.index("member that came after")


def test_connections_are_opened_and_lost_as_without(run: Run) -> None:
    """asyncio's loop takes its writer off a socket in a callback, just before the task that connects goes on."""

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(await reader.readline())
                await writer.drain()
                writer.close()
                await writer.wait_closed()

            async def ask(address: Any) -> None:
                for _ in range(20):
                    reader, writer = await asyncio.open_connection(*address)
                    writer.write(b"hello\n")
                    assert await reader.read() == b"hello\n"
                    writer.close()
                    await writer.wait_closed()

            async def work() -> None:
                server = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
                async with server, asyncio.TaskGroup() as clients:
                    for _ in range(4):
                        clients.create_task(ask(server.sockets[0].getsockname()))

            await executor.queue("first").spawn(work())

    run(body)


def test_a_step_that_is_held_back_and_whose_queue_sleeps_ends_the_turn(run: Run) -> None:
    """It cannot ask the running step to end before the callbacks that it must not overtake have had their turn."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        log: list[str] = []

        async def note(what: str) -> None:
            log.append(what)

        async def wake(executor: cw.Executor) -> None:
            loop.call_soon(log.append, "callback")
            assert not cw.should_yield()
            executor.queue("first").spawn(note("held, and its queue has more to do"))
            assert not cw.should_yield()
            executor.queue("second").spawn(note("held, and its queue sleeps"))
            assert cw.should_yield()
            log.append("woke")

        async with cw.Executor(QUEUES, driver_yield=10) as executor:
            executor.queue("first").spawn(wake(executor))
            for _ in range(100):
                executor.queue("first").spawn(note("work"))
            await executor.drain()
        assert log[:2] == ["woke", "callback"]
        assert log[2] == "held, and its queue sleeps"
        assert log.count("work") == 100

    run(body)


def test_a_queue_that_owes_does_not_preempt_though_its_deadline_is_earlier(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        queues = [cw.Queue("long", slice=1), cw.Queue("overran", slice=0.001), cw.Queue("rested", slice=0.001)]
        woken = {key: loop.create_future() for key in ("overran", "rested")}
        said: list[bool] = []

        async def wake() -> None:
            said.append(cw.should_yield())
            for future in woken.values():
                future.set_result(None)
                said.append(cw.should_yield())

        async def overrun(executor: cw.Executor) -> None:
            executor.queue("long").spawn(wake())  # half of what comes now is its due
            ends = time.thread_time() + 0.02
            while time.thread_time() < ends:
                pass
            await woken["overran"]

        async def rest() -> None:
            await woken["rested"]

        async with cw.Executor(queues, driver_yield=10) as executor:
            executor.queue("rested").spawn(rest())
            await until(lambda: executor.stats().polls == 1)
            executor.queue("overran").spawn(overrun(executor))
            await executor.drain()
            preemptions = {key: queue.preemptions for key, queue in executor.queue_stats().items()}
        assert said == [False, False, True]
        assert preemptions == {"long": 1, "overran": 0, "rested": 0}

    run(body)
