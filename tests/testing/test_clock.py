"""Time that a test winds by hand."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest

import clockworker as cw
from clockworker.testing import Clock, new_event_loop, run

T = TypeVar("T")


def wound(clock: Clock, body: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """On a loop without an executor."""
    with asyncio.Runner(loop_factory=clock.new_event_loop) as runner:
        return runner.run(body())


def now() -> float:
    return asyncio.get_running_loop().time()


async def ticks(seconds: float, seen: list[float]) -> None:
    while True:
        await asyncio.sleep(seconds)
        seen.append(now())


@pytest.fixture(params=["executor", "loop alone"])
def on(request: pytest.FixtureRequest) -> Callable[[Clock, Callable[[], Coroutine[Any, Any, Any]]], Any]:
    if request.param == "executor":
        return lambda clock, body: run(body(), clock=clock)
    return wound


def test_an_hour_passes_at_once_and_everything_in_it_is_done_when_it_is_due(on: Any) -> None:
    clock = Clock()
    seen: list[float] = []

    async def body() -> None:
        task = asyncio.create_task(ticks(1.5, seen))
        await clock.advance(3600)
        assert now() == clock.now == 3600
        task.cancel()

    began = time.monotonic()
    on(clock, body)
    assert seen == [1.5 * (tick + 1) for tick in range(2400)]
    assert time.monotonic() - began < 60


def test_the_clock_stands_still_unless_it_is_wound(on: Any) -> None:
    clock = Clock()

    async def body() -> None:
        slept = asyncio.create_task(asyncio.sleep(0.001))
        await asyncio.to_thread(time.sleep, 0.02)
        for _ in range(100):
            await asyncio.sleep(0)
        assert now() == 0
        assert not slept.done()
        await clock.advance(0.001)
        assert slept.done()

    on(clock, body)


def test_advance_stops_at_its_moment_and_not_before_what_is_due_then(on: Any) -> None:
    clock = Clock()
    seen: list[str] = []

    async def sleeper(seconds: float) -> None:
        await asyncio.sleep(seconds)
        await asyncio.sleep(0)  # some steps later, at the same time
        seen.append(f"{seconds:g} at {now():g}")

    async def body() -> None:
        tasks = [asyncio.create_task(sleeper(seconds)) for seconds in (0.3, 0.1, 0.7)]
        await clock.advance(0.3)
        assert seen == ["0.1 at 0.1", "0.3 at 0.3"]
        await clock.advance(0)
        assert now() == pytest.approx(0.3)
        await clock.advance(0.4)
        assert len(seen) == 3
        await asyncio.gather(*tasks)

    on(clock, body)


def test_several_tasks_wind_one_clock(on: Any) -> None:
    clock = Clock()
    seen: list[tuple[str, float]] = []

    async def winds(name: str, seconds: float) -> None:
        await clock.advance(seconds)
        seen.append((name, now()))

    async def body() -> None:
        cancelled = asyncio.create_task(winds("cancelled", 1))
        async with asyncio.TaskGroup() as group:
            for name, seconds in (("b", 2.0), ("a", 1.0), ("c", 2.0)):
                group.create_task(winds(name, seconds))
            await asyncio.sleep(0)
            cancelled.cancel()

    on(clock, body)
    assert seen == [("a", 1.0), ("b", 2.0), ("c", 2.0)]
    assert clock.now == 2


def test_jump_is_late_for_what_was_due_meanwhile(on: Any) -> None:
    clock = Clock()
    seen: list[float] = []

    async def body() -> None:
        task = asyncio.create_task(ticks(1, seen))
        await clock.advance(0)
        clock.jump(10)
        await clock.advance(1.5)
        task.cancel()

    on(clock, body)
    assert seen == [10, 11]


def test_autojump(on: Any) -> None:
    clock = Clock(autojump=True)

    async def body() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.Event().wait()
        assert now() == 100
        await asyncio.sleep(10 * 86_400)  # more than a loop ever waits at once
        assert now() == 100 + 10 * 86_400

    on(clock, body)


def test_autojump_waits_for_threads(on: Any) -> None:
    clock = Clock(autojump=True)
    go_on = threading.Event()

    async def body() -> str:
        async with asyncio.timeout(1):
            working = asyncio.create_task(asyncio.to_thread(lambda: go_on.wait() and "worked"))
            asyncio.get_running_loop().call_soon(go_on.set)
            return await working

    assert on(clock, body) == "worked"


def test_autojump_waits_for_what_comes_over_a_connection(on: Any) -> None:
    clock = Clock(autojump=True, threshold=5.0)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    def ask(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address) as client:
            client.sendall(b"hello\n")
            return client.recv(100)

    async def body() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        answers: list[bytes] = []
        # A thread that the loop knows nothing of.
        address = server.sockets[0].getsockname()
        thread = threading.Thread(target=lambda: answers.append(ask(address)), daemon=True)
        loop = asyncio.get_running_loop()
        timer = loop.call_later(30, lambda: None)
        thread.start()
        closed = asyncio.Event()
        loop.call_later(40, closed.set)
        while not answers and now() < 30:
            await asyncio.sleep(10)
        assert answers == [b"hello\n"]
        timer.cancel()
        thread.join()
        server.close()
        await server.wait_closed()

    on(clock, body)


@pytest.mark.parametrize(
    ("wait", "says"),
    [
        (lambda: asyncio.sleep(5), r"the next timer is due in 5 s .*`await clock\.advance\(5\)`"),
        (lambda: asyncio.Event().wait(), "no timer is set"),
    ],
)
def test_a_test_that_cannot_go_on_is_told_where_it_waits(on: Any, wait: Any, says: str) -> None:
    async def waits_for_ever() -> None:
        await wait()

    async def body() -> None:
        await waits_for_ever()

    with pytest.raises(cw.UsageError, match=f"(?s){says}.*What waits:.*test_clock.py:") as caught:
        on(Clock(patience=0.01), body)
    assert "_run.py" not in str(caught.value)


def test_a_thread_that_waits_for_the_clock_that_waits_for_it_is_found(on: Any) -> None:
    go_on = threading.Event()

    async def body() -> None:
        await asyncio.gather(asyncio.to_thread(go_on.wait), asyncio.sleep(1))

    clock = Clock(autojump=True, patience=0.01)
    threading.Timer(0.5, go_on.set).start()  # or the loop's end would wait for it
    with pytest.raises(cw.UsageError, match="the clock for 1 threads"):
        on(clock, body)


def test_whom_nobody_has_announced_is_waited_for() -> None:
    clock = Clock(patience=60)

    async def body() -> None:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(woken.set)).start()
        await woken.wait()

    wound(clock, body)
    assert clock.now == 0, "no timer was due"


def test_what_is_left_at_the_end_needs_no_winding() -> None:
    clock = Clock(patience=0.01)
    seen = []

    async def slow_to_go() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            seen.append(now())

    async def body() -> None:
        left = asyncio.create_task(slow_to_go())
        await clock.advance(1)
        assert not left.done()

    run(body(), clock=clock)
    assert seen == [6]
    assert not clock.autojump


def test_what_an_executor_measures_is_wound_too() -> None:
    clock = Clock(step=0.001)

    async def body() -> tuple[int, int, int]:
        executor = cw.current_executor()

        async def works() -> None:
            clock.jump(2)  # computes for two seconds
            await asyncio.sleep(0)
            clock.jump(1)

        await executor.queue("work").spawn(works())
        await clock.advance(100)
        stats = executor.queue_stats()["work"]
        assert stats.stolen_ns == 0
        assert stats.slice_overruns == 2
        return stats.polls, stats.busy_ns, stats.poll_time.max_ns

    counts = [run(body(), clock=clock, queues=[cw.Queue("main"), cw.Queue("work")]) for _ in range(3)]
    assert counts == [(2, 3_002_000_000, 2_001_000_000)] * 3


def test_schedulers_see_wound_time() -> None:
    clock = Clock()
    order: list[str] = []

    async def work(name: str, seconds: float) -> None:
        for _ in range(3):
            order.append(name)
            clock.jump(seconds)
            await asyncio.sleep(0)

    async def body() -> None:
        queue = cw.current_executor().queue("las")
        handles = [queue.spawn(work("long", 1)), queue.spawn(work("short", 0.1))]
        for handle in handles:
            await handle

    run(body(), clock=clock, queues=[cw.Queue("main"), cw.Queue("las", scheduler=cw.LAS())])
    assert order == ["long", "short", "short", "short", "long", "long"]


def test_a_step_that_asks_when_to_yield_gets_there() -> None:
    async def body() -> int:
        asked = 0
        while not cw.should_yield():
            asked += 1
        return asked

    assert 0 < run(body()) < 1000


def test_a_busy_queue_does_not_keep_the_others_waiting() -> None:
    async def body() -> None:
        executor = cw.current_executor()
        done = False

        async def spins() -> None:
            while not done:
                await asyncio.sleep(0)

        async def works() -> None:
            for _ in range(1000):
                await asyncio.sleep(0)

        spinning = executor.queue("spins").spawn(spins())
        await executor.queue("works").spawn(works())
        done = True
        await spinning
        spun, worked = (executor.queue_stats()[name].polls for name in ("spins", "works"))
        assert worked == 1001
        assert spun > 1, "and it was busy meanwhile"

    run(body(), queues=[cw.Queue("main"), cw.Queue("spins", 10), cw.Queue("works")])


def test_timeouts_of_calls_on_the_own_shard_are_wound() -> None:
    clock = Clock(autojump=True)

    class Service:
        @cw.remote
        async def slow(self) -> None:
            await asyncio.sleep(50)

        @cw.remote
        async def rows(self) -> AsyncIterator[int]:
            for number in range(10):
                await asyncio.sleep(1)
                yield number

    async def body() -> None:
        mesh = cw.Mesh(0, 1, cw.current_executor(), cw.create_doorbell(1))
        try:
            service = mesh.start(Service, Service())
            with pytest.raises(cw.CallTimeout):
                await service.on(0, timeout=20).slow()
            assert now() == 20
            seen = []
            with pytest.raises(cw.CallTimeout):
                async for row in service.on(0, timeout=3.5).rows():
                    seen.append(row)  # noqa: PERF401
            assert seen == [0, 1, 2]
            assert now() == 23.5
        finally:
            mesh.close()

    run(body(), clock=clock)


def test_other_threads_keep_real_time() -> None:
    clock = Clock(autojump=True)

    def beside() -> int:
        async def works() -> int:
            async with cw.Executor([cw.Queue("only")]) as executor:
                await executor.queue("only").spawn(asyncio.sleep(0.02))
                turns_ns = executor.stats().idle_ns
            return turns_ns

        return asyncio.run(works())

    async def body() -> None:
        await asyncio.sleep(1_000_000)
        idle_ns = await asyncio.to_thread(beside)
        assert 10_000_000 < idle_ns < 100_000_000_000

    run(body(), clock=clock)
    assert 10_000_000 < beside() < 100_000_000_000  # nor does the end of it leave anything


def test_one_clock_winds_at_a_time() -> None:
    async def body() -> None:
        with pytest.raises(cw.UsageError, match="being wound in this process already"):
            Clock().new_event_loop()
        unstarted = asyncio.sleep(0)
        with pytest.raises(cw.UsageError, match="being wound"):
            run(unstarted)

    run(body())
    loop = new_event_loop()  # of a clock that is free again
    loop.run_until_complete(asyncio.sleep(100))
    assert loop.time() == 100
    loop.close()
    new_event_loop().close()


def test_a_loop_may_be_made_in_one_thread_and_run_in_another() -> None:
    async def body() -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return cw.current_executor().queue_stats()["test"].busy_ns

    loop = new_event_loop()
    measured: list[int] = []
    thread = threading.Thread(target=lambda: measured.append(loop.run_until_complete(body())))
    thread.start()
    thread.join()
    loop.close()
    assert measured == [run(body())]


def test_a_clock_goes_on_on_its_next_loop() -> None:
    clock = Clock(autojump=True)
    for end in (1, 2):
        wound(clock, lambda: asyncio.sleep(1))
        assert clock.now == end


def test_mistakes_are_named() -> None:
    clock = Clock()

    async def body() -> None:
        with pytest.raises(cw.ConfigurationError, match=r"advance\(-1\): a clock is wound forwards"):
            await clock.advance(-1)
        with pytest.raises(cw.ConfigurationError, match=r"jump\(nan\)"):
            clock.jump(float("nan"))
        with pytest.raises(cw.UsageError, match="a clock that the running loop does not go by"):
            await Clock().advance(1)

    run(body(), clock=clock)
    for wrong in ({"step": 0}, {"threshold": -1}, {"patience": "long"}):
        with pytest.raises(cw.ConfigurationError, match=f"{next(iter(wrong))} is "):
            Clock(**wrong)  # type: ignore[arg-type]
    assert repr(clock) == "<Clock at 0 s>"
