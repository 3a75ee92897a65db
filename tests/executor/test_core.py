"""The pump, and what becomes of queued steps when it stops: they go on as the loop's own, whatever their scheduler does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


def test_the_loop_has_its_turn_between_steps(run: Run) -> None:
    """A task that never waits for anything does not keep timers and other callbacks from running."""

    async def spin(stop: list[bool]) -> int:
        polls = 0
        while not stop:
            polls += 1
            await asyncio.sleep(0)
        return polls

    async def body() -> None:
        async with cw.Executor(QUEUES, max_polls_per_yield=5) as executor:
            stop: list[bool] = []
            handle = executor.queue("background").spawn(spin(stop))
            asyncio.get_running_loop().call_later(0.01, stop.append, True)
            polls = await handle
            assert polls + 1 <= executor.stats().turns * 5

    run(body)


def test_an_idle_executor_takes_no_turns(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            await executor.queue("background").spawn(asyncio.sleep(0))
            await asyncio.sleep(0.01)
            before = executor.stats().turns
            for _ in range(10):
                await asyncio.sleep(0.001)
            assert executor.stats().turns == before

    run(body)


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts its rounds, and how often the executor asks it for a turn."""

    rounds = 0
    asked = 0

    def _run_once(self) -> None:
        self.rounds += 1
        super()._run_once()  # type: ignore[misc]

    def call_soon(self, callback: Any, *args: Any, **keywords: Any) -> Any:
        if "pump" in getattr(callback, "__name__", ""):
            self.asked += 1
        return super().call_soon(callback, *args, **keywords)


WAKE_UPS = 300


def test_a_task_that_waits_for_its_callback_goes_on_in_the_same_round() -> None:
    async def wake_ups() -> None:
        for _ in range(WAKE_UPS):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            before = loop.rounds
            await executor.queue("foreground").spawn(wake_ups())
            assert loop.rounds - before < 1.1 * WAKE_UPS  # else there are two for each

    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(body())


def test_turns_behind_callbacks_that_wake_nobody_become_rare() -> None:
    async def in_vain() -> None:
        for _ in range(WAKE_UPS):
            loop.call_soon(int)
            await asyncio.sleep(0.0001)

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            before = loop.asked
            await executor.queue("foreground").spawn(in_vain())
            in_time = loop.asked - before
            assert in_time < 1.1 * WAKE_UPS + 20
            turns = executor.stats().turns
            assert turns < 1.1 * WAKE_UPS + 20

    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(body())


@pytest.mark.parametrize("given", ["before the wake-up", "after the wake-up", "by another callback", "by nobody"])
def test_a_turn_behind_a_callback_overtakes_none(run: Run, given: str) -> None:
    """What the loop is given before the wake-up comes before the step; what it is given after, may come after."""
    log: list[str] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def wake(future: asyncio.Future[None]) -> None:
            if given == "before the wake-up":
                loop.call_soon(log.append, "callback")
            future.set_result(None)
            if given == "after the wake-up":
                loop.call_soon(log.append, "callback")

        for _ in range(20):
            future: asyncio.Future[None] = loop.create_future()
            if given == "by another callback":
                loop.call_soon(loop.call_soon, log.append, "callback")
            loop.call_soon(wake, future)
            await future
            log.append("step")

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            await executor.queue("foreground").spawn(work())

    run(body)
    expected = {
        "before the wake-up": ["callback", "step"] * 20,
        "after the wake-up": ["step", "callback"] * 20,
        "by another callback": ["callback", "step"] * 20,
        "by nobody": ["step"] * 20,
    }
    # The last callback may come when all is over.
    assert log[:39] == expected[given][:39]


def test_a_pause_while_a_turn_is_to_come_behind_a_callback(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        async with cw.Executor(QUEUES) as executor:

            async def work() -> str:
                loop.call_soon(executor._core.pause)
                loop.call_soon(future.set_result, "woken")
                return await future

            handle = executor.queue("foreground").spawn(work())
            await asyncio.sleep(0.01)
            assert future.done()
            assert not handle.done()
            assert executor.stats().runnable == 1
            executor._core.resume()
            assert await handle == "woken"

    run(body)


class Faulty(cw.RunnableFifo):
    """Fails in one method once it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.broken = False

    def push(self, task: cw.ScheduledTask) -> None:
        if self.broken and self.where == "push":
            raise LookupError
        super().push(task)

    def pop(self) -> cw.ScheduledTask:
        if self.broken and self.where == "pop":
            raise LookupError
        return super().pop()


@pytest.mark.parametrize("where", ["nowhere", "push", "pop"])
def test_steps_survive_a_detach(run: Run, where: str) -> None:
    ran: list[str] = []

    async def note(what: str) -> None:
        ran.append(what)

    async def body() -> None:
        faulty = Faulty(where)
        loop = asyncio.get_running_loop()
        async with cw.Executor([cw.Queue("first", scheduler=faulty), cw.Queue("second")]) as executor:
            handles = [executor.queue("first").spawn(note("queued"))]
            faulty.broken = True
            loop.call_soon(ran.append, "callback")
            # These come after the callback, so they are in no queue yet.
            handles += [executor.queue(key).spawn(note("held back")) for key in ("first", "second")]
            waits = asyncio.create_task(handles[0].outcome())
            await asyncio.sleep(0)
            handles += [executor.queue("first").group("tenant").spawn(note("queued last"))]
            executor._core.detach()
            assert executor.stats().tasks == executor.stats().runnable == 0
        async with asyncio.timeout(60):
            assert await waits == cw.Ok(None)
            for handle in handles:
                await handle
        assert ran[:2] == ["callback", "queued"]
        assert sorted(ran[2:]) == ["held back", "held back", "queued last"]
        # The executor can be entered again, and nothing is left of the steps.
        faulty.broken = False
        async with executor:
            assert executor.stats().runnable == executor.stats().tasks == 0
            assert await executor.queue("first").spawn(asyncio.sleep(0, "as new")) == "as new"

    run(body)
    reports = [report["message"] for report in run.reports]
    run.reports.clear()
    expected = "the scheduler Faulty of queue 'first' failed; a RunnableFifo has taken its place"
    assert reports == ([] if where == "nowhere" else [expected])


def test_a_closed_loop_takes_no_tasks(run: Run) -> None:
    async def body() -> cw.Executor:
        executor = cw.current_executor()
        assert await executor.queue("second").spawn(asyncio.sleep(0, "ran")) == "ran"
        executor.queue("second").spawn(asyncio.Event().wait())
        with pytest.raises(RuntimeError, match="running"):
            asyncio.get_running_loop().close()
        assert await executor.queue("second").spawn(asyncio.sleep(0, "still")) == "still"
        # For the next turn, which does not come.
        asyncio.get_running_loop().call_soon(executor.queue("first").spawn, asyncio.Event().wait())
        return executor

    loop = cw.new_event_loop([cw.Queue("first"), cw.Queue("second")], loop_factory=run.loop_factory)
    executor = loop.run_until_complete(body())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    loop.close()
    for _ in range(2):
        with pytest.raises(cw.UsageError, match="not running"):
            executor.queue("second").spawn(asyncio.sleep(0))
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="closed"):
            loop.create_task(coroutine)
        coroutine.close()
    assert executor.stats().tasks == 0
