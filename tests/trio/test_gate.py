from __future__ import annotations

import logging
import signal
import time
from typing import Any

import pytest
import trio
import trio.testing
from trio._core import _run

import clockworker as cw
from clockworker.executor import _clock_cy as executor_clock
from clockworker.trio import Executor, _seam
from tests.shares import check_shares, had_enough
from tests.trio.conftest import declarations, run


def compute(us: float) -> None:
    """Of the thread's own time: others may have the core meanwhile."""
    deadline = time.thread_time_ns() + us * 1_000
    while time.thread_time_ns() < deadline:
        pass


async def busy() -> None:
    while True:
        compute(50)
        await trio.lowlevel.checkpoint()


def test_shares_of_eight_to_one() -> None:
    async def main() -> None:
        async with Executor([cw.Queue("large", 8), cw.Queue("small", 1)]) as executor:
            for key in ("large", "small"):
                for _ in range(3):
                    executor.queue(key).spawn(busy())
            while not had_enough(executor.queue_stats):
                await trio.sleep(0.01)
            check_shares({"large": 8, "small": 1}, executor.queue_stats())

    run(main)


def test_shares_change_while_it_runs() -> None:
    async def main() -> None:
        async with Executor([cw.Queue("a", 8), cw.Queue("b", 1)]) as executor:
            for key in ("a", "b"):
                executor.queue(key).spawn(busy())
            await trio.sleep(0.1)
            executor.queue("b").share = 8
            before = executor.queue_stats()
            while not had_enough(executor.queue_stats, before):
                await trio.sleep(0.01)
            check_shares({"a": 8, "b": 8}, executor.queue_stats(), before)

    run(main)


def test_a_wake_up_goes_before_those_who_compute() -> None:
    """Foreground that sleeps and wakes waits for a step or two, and not for all the runnable tasks of the background."""

    async def main() -> tuple[list[int], int]:
        waited = []
        async with Executor([cw.Queue("foreground", 99, scheduler=cw.LAS()), cw.Queue("background")]) as executor:
            steps = 0

            async def busy() -> None:
                nonlocal steps
                while True:
                    compute(200)
                    steps += 1
                    await trio.lowlevel.checkpoint()

            async def light(event: trio.Event) -> None:
                await event.wait()
                waited.append(steps - at)

            for _ in range(30):
                executor.queue("background").spawn(busy())
            for _ in range(30):
                event = trio.Event()
                handle = executor.queue("foreground").spawn(light(event))
                await trio.sleep(0.002)
                at = steps
                event.set()
                await handle
        return sorted(waited), steps

    waited, steps = run(main)
    assert steps > 60
    assert waited[len(waited) // 2] <= 3, "of 30 runnable tasks"


def test_deadlines_and_sockets_are_looked_for_while_queues_are_busy() -> None:
    async def main() -> None:
        async with Executor(declarations()) as executor:

            async def busy() -> None:
                while True:
                    compute(20)
                    await trio.lowlevel.checkpoint()

            handles = [executor.queue("foreground").spawn(busy()) for _ in range(50)]
            with trio.move_on_after(0.01) as scope:
                await handles[0]
            assert scope.cancelled_caught
            one, other = trio.testing.memory_stream_pair()
            left, right = trio.socket.socketpair()
            await left.send(b"x")
            assert await right.recv(1) == b"x"
            await one.send_all(b"y")
            assert await other.receive_some(1) == b"y"
            left.close()
            right.close()

    run(main)


def test_a_turn_ends_after_so_many_steps() -> None:
    async def main() -> None:
        async with Executor([cw.Queue("a")], max_polls_per_yield=5, driver_yield=1.0) as executor:
            for _ in range(50):
                executor.queue("a").spawn(trio.lowlevel.checkpoint())
            await executor.drain()
            assert executor.stats().polls == 100
            assert 20 <= executor.turns <= 21

    run(main)


@pytest.mark.parametrize("make", [cw.RunnableFifo, cw.LAS, cw.ArrivalFifo])
def test_trio_looks_between_two_steps_of_a_task(make: Any) -> None:
    """As it does by itself: a deadline that has passed is seen at the next checkpoint."""

    async def main() -> None:
        async with Executor([cw.Queue("a", scheduler=make()), cw.Queue("b")], driver_yield=1.0) as executor:

            async def works() -> int:
                steps = 0
                with trio.CancelScope(deadline=trio.current_time() + 1):
                    while True:
                        steps += 1
                        if steps == 3:
                            clock.jump(2)
                        await trio.lowlevel.checkpoint()
                return steps

            async def yields(count: int) -> None:
                for _ in range(count):
                    await trio.lowlevel.checkpoint()

            handles = [executor.queue("a").spawn(works()) for _ in range(2)]
            others = [executor.queue(key).spawn(yields(9)) for key in "ab" for _ in range(3)]
            assert max([await handle for handle in handles]) == 3, "the other one sees it too, wherever it is"
            for other in others:
                await other
            stats = executor.stats()
            assert stats.runnable == 0
            assert stats.turns >= 10

    clock = trio.testing.MockClock()
    run(main, clock=clock)


def test_what_passes_goes_first_and_is_not_charged() -> None:
    async def main() -> None:
        async with Executor([cw.Queue("a")], driver_yield=1.0, max_polls_per_yield=1_000) as executor:
            log: list[str] = []

            async def work(name: str) -> None:
                for _ in range(2):
                    log.append(name)
                    await trio.lowlevel.checkpoint()

            handle = executor.queue("a").spawn(work("queue"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, "passes")
                await handle
            assert log[0] == "passes"
            assert executor.stats().polls == 3

    run(main)


# Schedulers


def order_of(scheduler: cw.Scheduler) -> str:
    """In which tasks run of which some have had much: a heavy group, a light one, and who belongs to none.

    By a clock that is wound: what others take of the core meanwhile is no service.
    """

    async def main() -> str:
        log: list[str] = []
        async with Executor([cw.Queue("a", scheduler=scheduler)], driver_yield=1.0) as executor:
            queue = executor.queue("a")

            async def work(name: str, event: trio.Event, us: int) -> None:
                executor_clock.wind(us * 1_000)
                await event.wait()
                log.append(name)

            event = trio.Event()
            queue.group("heavy").spawn(work("h", event, 4_000))
            queue.spawn(work("n", event, 1_000))
            queue.group("light").spawn(work("l", event, 10))
            await trio.testing.wait_all_tasks_blocked()
            event.set()
            await executor.drain()
        return "".join(log)

    executor_clock.begin_winding(1_000, 0)
    try:
        return run(main)
    finally:
        executor_clock.end_winding()


def test_schedulers_choose_within_a_queue() -> None:
    assert order_of(cw.LAS()) == "lnh"
    assert order_of(cw.QLAS()) == "lnh"
    assert order_of(cw.ArrivalFifo()) == "hnl"
    assert sorted(order_of(cw.RunnableFifo())) == ["h", "l", "n"]  # an Event wakes in no order


BUILT_IN = [each for each in map(vars(cw).get, cw.__all__) if isinstance(each, type) and issubclass(each, cw.Scheduler)]
BUILT_IN.remove(cw.Scheduler)
BUILT_IN.remove(cw.FairFifo)  # holds tasks back, which needs asyncio


@pytest.mark.parametrize("make", BUILT_IN, ids=lambda make: make.__name__)
def test_every_scheduler_runs_all(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Executor([cw.Queue("a", 3, scheduler=make()), cw.Queue("b")]) as executor:
            wake = trio.Event()

            async def work(number: int) -> int:
                for _ in range(number % 5):
                    await trio.lowlevel.checkpoint()
                await wake.wait()
                async with trio.open_nursery() as nursery:
                    for _ in range(2):
                        nursery.start_soon(trio.lowlevel.checkpoint)
                return number

            places = [
                executor.queue("a"),
                *(executor.queue("a").group(group) for group in range(3)),
                executor.queue("b"),
            ]
            handles = [places[number % 5].spawn(work(number)) for number in range(40)]
            await trio.testing.wait_all_tasks_blocked()
            handles[7].abort()
            wake.set()
            results = [await handle.outcome() for handle in handles]
            assert [isinstance(result, cw.Ok) for result in results].count(False) == 1
            await executor.drain()
            stats = executor.queue_stats()["a"]
            assert (stats.runnable, stats.tasks) == (0, 0)
            assert stats.finished == 32 + 2 * 31

    run(main)
    assert [record.getMessage() for record in caplog.records] == [], "none was replaced"


def test_what_needs_asyncio_is_refused() -> None:
    with pytest.raises(cw.ConfigurationError, match="scheduler FairFifo of queue 'a' needs an event loop of asyncio's"):
        Executor([cw.Queue("a", scheduler=cw.FairFifo())])


class Failing(cw.Scheduler):
    """A FIFO that fails at the third call of one method."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.calls = 0
        self.held: list[Any] = []

    def _call(self, where: str) -> None:
        if where == self.where:
            self.calls += 1
            if self.calls == 3:
                raise ZeroDivisionError(where)

    def push(self, task: cw.ScheduledTask) -> None:
        self._call("push")
        self.held.append(task)

    def pop(self) -> cw.ScheduledTask:
        self._call("pop")
        return self.held.pop(0)

    def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
        self._call("observe")

    def forget_task(self, task: cw.ScheduledTask) -> None:
        self._call("forget")

    def __len__(self) -> int:
        return len(self.held)


@pytest.mark.parametrize("where", ["push", "pop", "observe", "forget"])
def test_a_scheduler_that_fails_is_replaced(where: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Executor([cw.Queue("a", scheduler=Failing(where)), cw.Queue("b")]) as executor:

            async def work(number: int) -> int:
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
                return number

            handles = [executor.queue("a").spawn(work(number)) for number in range(10)]
            assert [await handle for handle in handles] == [*range(10)]
            await executor.drain()
            stats = executor.queue_stats()["a"]
            assert (stats.runnable, stats.tasks, stats.finished) == (0, 0, 10)
            assert len(executor._gate) == 0

    run(main)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "the scheduler Failing of queue 'a' failed; a RunnableFifo has taken its place"
    ]


def test_a_scheduler_that_lies_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    class Lies(cw.RunnableFifo):
        def pop(self) -> Any:
            super().pop()
            return cw.ScheduledTask(None, None, 0)  # type: ignore[arg-type]

    async def main() -> None:
        async with Executor([cw.Queue("a", scheduler=Lies())]) as executor:

            async def work() -> int:
                await trio.lowlevel.checkpoint()
                return 1

            handles = [executor.queue("a").spawn(work()) for _ in range(4)]
            assert [await handle for handle in handles] == [1] * 4

    run(main)
    assert "which is not a task that it was holding" in caplog.text


# Beside what else trio has


def test_mock_clock_and_blocked_tasks() -> None:
    async def main() -> float:
        async with Executor(declarations()) as executor:

            async def work() -> None:
                await trio.sleep(3_600)

            started = trio.current_time()
            handles = [executor.queue(key).spawn(work()) for key in ("foreground", "background")]
            await trio.testing.wait_all_tasks_blocked()
            for handle in handles:
                await handle
            return trio.current_time() - started

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == pytest.approx(3_600)


def test_ctrl_c_reaches_a_task_that_computes() -> None:
    async def main() -> None:
        async with Executor(declarations()) as executor:

            async def computes() -> None:
                signal.raise_signal(signal.SIGINT)
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline:
                    pass
                pytest.fail("not interrupted")

            executor.queue("background").spawn(computes())
            await trio.sleep_forever()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # trio takes its place, and that of no other
    try:
        with pytest.raises(BaseExceptionGroup) as caught:
            run(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [type(error) for error in caught.value.exceptions] == [KeyboardInterrupt]


def test_instruments_see_every_step() -> None:
    class Counts(trio.abc.Instrument):
        before = after = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.before += "work" in task.name

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.after += "work" in task.name

    async def main() -> None:
        async with Executor(declarations()) as executor:

            async def work() -> None:
                for _ in range(9):
                    await trio.lowlevel.checkpoint()

            await executor.queue("background").spawn(work())

    counts = Counts()
    run(main, instruments=[counts])
    assert (counts.before, counts.after) == (10, 10)


def test_as_a_guest_of_asyncio() -> None:
    import asyncio

    async def main() -> int:
        async with Executor(declarations()) as executor:

            async def work() -> int:
                await trio.sleep(0.001)
                return 3

            return await executor.queue("background").spawn(work())

    async def host() -> Any:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            main, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        return (await done).unwrap()

    assert asyncio.run(host()) == 3


def test_a_trio_that_runs_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Executor(declarations()):
            pass

    def unrolled_run(runner: Any) -> None:
        runner.heap.pop()

    with monkeypatch.context() as patch:
        patch.setattr("trio._core._run.unrolled_run", unrolled_run)
        with pytest.raises(cw.ConfigurationError, match=r"trio \S+ runs its tasks in another way"):
            _seam.check()
    run(main)


def test_annotations_of_trios_loop_still_resolve() -> None:
    async def main() -> None:
        async with Executor(declarations()):
            assert type(trio.lowlevel.current_task().child_nurseries) is list
            assert eval("list[int]", vars(_run)).__args__ == (int,)

    run(main)
