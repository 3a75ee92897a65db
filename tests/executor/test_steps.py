"""Steps: whichever the schedulers pick, and what they cost whom."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

import clockworker as cw
from clockworker.executor import _clock_cy as clock
from clockworker.executor._meter_cy import Meter
from clockworker.executor._steps_cy import WorkSource
from tests.conftest import Run, until

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


def test_a_scheduler_in_plain_python_drives_an_executor(run: Run) -> None:
    class Lifo(cw.Scheduler):
        def __init__(self) -> None:
            self.stack: list[cw.ScheduledTask] = []
            self.log: list[str] = []

        def push(self, task: cw.ScheduledTask) -> None:
            self.stack.append(task)

        def pop(self) -> cw.ScheduledTask:
            return self.stack.pop()

        def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
            assert elapsed_ns >= 0
            self.log.append(f"observe {task.arrival}")

        def forget_task(self, task: cw.ScheduledTask) -> None:
            self.log.append(f"forget {task.arrival}")

        def forget_group(self, group: object) -> None:
            self.log.append(f"forget {group}")

        def __len__(self) -> int:
            return len(self.stack)

    order: list[int] = []

    async def note(number: int) -> None:
        order.append(number)

    async def body() -> None:
        lifo = Lifo()
        async with cw.Executor([cw.Queue("q", scheduler=lifo), *QUEUES]) as executor:
            group = executor.queue("q").group("g")
            handles = [group.spawn(note(number)) for number in (1, 2, 3)]
            for handle in handles:
                await handle
        assert lifo.log == ["observe 3", "forget 3", "observe 2", "forget 2", "observe 1", "forget 1", "forget g"]

    run(body)
    assert order == [3, 2, 1]


class Breakable(cw.RunnableFifo):
    """Returns what it should not, once."""

    def __init__(self) -> None:
        super().__init__()
        self.instead: list[Any] = []

    def pop(self) -> cw.ScheduledTask:
        return self.instead.pop() if self.instead else super().pop()


@pytest.mark.parametrize("foreign", ["nothing", "made up", "not runnable", "of another queue"])
def test_a_scheduler_that_returns_what_it_was_not_given(run: Run, foreign: str) -> None:
    async def body() -> None:
        broken, other = Breakable(), Breakable()
        queues = [cw.Queue("broken", scheduler=broken), cw.Queue("other", scheduler=other)]
        async with cw.Executor(queues) as executor:
            waiting = executor.queue("broken").spawn(asyncio.Event().wait())
            await asyncio.sleep(0)
            await until(lambda: executor.stats().polls == 1)
            if foreign == "nothing":
                broken.instead = [None]
            elif foreign == "made up":
                broken.instead = [cw.ScheduledTask(waiting.task, None, 1)]
            else:
                victim = waiting
                if foreign == "of another queue":
                    victim = executor.queue("other").spawn(asyncio.Event().wait())
                broken.instead = [victim]
            handle = executor.queue("broken").spawn(asyncio.sleep(0, "ran"))
            # The error goes to the loop; the task is not lost.
            assert await handle == "ran"
            waiting.abort()

    run(body)
    (report,) = run.reports
    run.reports.clear()
    assert isinstance(report["exception"], cw.UsageError)
    assert "Breakable.pop() of queue 'broken' returned" in str(report["exception"])


def test_what_is_spent_for_a_queue_outside_of_its_steps_delays_its_next(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("one"), cw.Queue("other")]) as executor:
            order: list[str] = []

            async def note(key: str) -> None:
                order.append(key)

            for _ in range(3):
                for key in ("one", "other"):
                    executor.queue(key).spawn(note(key))
            core, queue = executor._core, executor.queue("one")._queue
            core.begin_charge()
            ends = time.monotonic() + 0.02
            while time.monotonic() < ends:
                pass
            core.charge(queue)
            await executor.drain()
            assert order == ["other"] * 3 + ["one"] * 3
            core.charge(queue)  # nothing of its is runnable: without effect
            assert executor.queue_stats()["one"].busy_ns < 20_000_000

    run(body)


@pytest.mark.parametrize("running", ["background", "foreground"])
def test_while_a_queue_sleeps_the_loop_has_its_turn_after_a_quarter_of_the_time(run: Run, running: str) -> None:
    """What wakes it may be waiting there. By a clock that steps wind, 5 ms each: real ones are longer
    on a busy machine."""
    driver_yield_s, step_s, steps = 0.2, 0.005, 60

    async def body() -> None:
        done = 0
        turns: list[int] = []

        async def work() -> None:
            nonlocal done
            if not done:
                asyncio.get_running_loop().call_soon(lambda: turns.append(done))
            clock.wind(int(step_s * 1e9))
            done += 1

        async with cw.Executor(QUEUES, driver_yield=driver_yield_s) as executor:
            clock.begin_winding(1, 0)
            try:
                for _ in range(steps):
                    executor.queue(running).spawn(work())
                await executor.drain()
            finally:
                clock.end_winding()
        wanted = driver_yield_s / 4 / step_s
        assert [wanted <= before <= wanted + 1 for before in turns] == [True]

    run(body)


class Source(WorkSource):
    """Nothing ever comes from it."""

    def __init__(self) -> None:
        self.polls = 0
        self.slept = asyncio.Event()

    def poll(self) -> bool:
        self.polls += 1
        return False

    def prepare_sleep(self) -> bool:
        self.slept.set()
        return True


def test_an_idle_core_looks_at_its_source_more_often_than_it_gives_way_to_the_loop(run: Run) -> None:
    async def body() -> None:
        source = Source()
        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(source, idle_poll_us=50_000)
            await executor.queue("first").spawn(asyncio.sleep(0))
            await source.slept.wait()
            assert source.polls > executor._core.turns > 1
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_an_idle_core_does_not_look_on_while_a_callback_waits(run: Run) -> None:
    async def body() -> None:
        source = Source()
        loop = asyncio.get_running_loop()
        called: list[int] = []

        async def work() -> None:
            loop.call_soon(lambda: called.append(source.polls - before))
            before = source.polls

        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(source, idle_poll_us=50_000)
            for _ in range(20):
                await executor.queue("first").spawn(work())
            await source.slept.wait()
            assert called == [1] * 20
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_a_core_that_polls_in_vain_stops_polling(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(Source(), idle_poll_us=4_000)
            patience = [executor._core.patience_ns]
            while patience[-1]:
                source = executor._core.source = Source()
                executor.wake()
                await source.slept.wait()
                patience.append(executor._core.patience_ns)
            assert patience[:3] == [4_000_000, 2_000_000, 1_000_000]
            executor.wake()
            await asyncio.sleep(0)
            assert executor._core.patience_ns == 0
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_a_core_polls_again_once_something_comes_soon_after_it_has_fallen_asleep(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(Source(), idle_poll_us=60_000_000)
            executor._core.patience_ns = 0
            executor.wake()
            await executor._core.source.slept.wait()  # type: ignore[union-attr]
            executor._core.source = Busy(2)
            executor.wake()
            await until(lambda: executor._core.patience_ns == 60_000_000_000)
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_what_comes_late_after_a_core_has_fallen_asleep_does_not_make_it_poll(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(Source(), idle_poll_us=1_000)
            executor._core.patience_ns = 0
            executor.wake()
            await executor._core.source.slept.wait()  # type: ignore[union-attr]
            await asyncio.sleep(0.005)
            source = executor._core.source = Busy(2)
            executor.wake()
            await source.slept.wait()
            assert executor._core.patience_ns == 0
            executor.poll_source(None, idle_poll_us=0)

    run(body)


class Busy(Source):
    """Something comes each time, for a while."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.polled_ns: list[int] = []

    def poll(self) -> bool:
        super().poll()
        self.polled_ns.append(time.monotonic_ns())
        return self.polls < self.count


def test_a_turn_goes_on_while_something_comes(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("first")], driver_yield=10) as executor:
            source = Busy(30_000)
            executor.poll_source(source, idle_poll_us=1)
            turns, idle_ns = executor.turns, executor._core.idle_ns
            executor.wake()
            await source.slept.wait()
            assert source.polls >= source.count
            assert executor.turns - turns < 10  # and a look takes more than a thousandth of what it is looked on for
            # Nothing was runnable meanwhile. The clock of the executor is a thousandth off at most.
            assert executor._core.idle_ns - idle_ns > 0.99 * (source.polled_ns[source.count - 1] - source.polled_ns[0])
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_what_the_source_takes_is_no_part_of_a_step(run: Run) -> None:
    class Slow(Source):
        """Brings three steps, and takes its time for each."""

        def __init__(self, executor: cw.Executor) -> None:
            super().__init__()
            self.core = executor._core
            self.membership = self.core.group(executor.queue("first")._queue, None)

        def poll(self) -> bool:
            super().poll()
            if self.polls <= 3:
                ends = time.monotonic() + 0.05
                while time.monotonic() < ends:
                    pass
                self.core.spawn_step(self.membership, self.core.carrier("step"), int)
            return False

    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            executor.poll_source(Slow(executor), idle_poll_us=0)
            executor.wake()
            await until(lambda: executor.queue_stats()["first"].finished == 3)
            executor.poll_source(None, idle_poll_us=0)
            assert executor.queue_stats()["first"].busy_ns < 50_000_000

    run(body)


class Spoilt:
    """A key of a group whose hash, or comparison, raises from some time on."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.spoilt = False

    def __hash__(self) -> int:
        if self.spoilt:
            raise self.error("no hash now")
        return 7

    def __eq__(self, other: object) -> bool:
        return self is other


class Own(Exception):
    pass


class Worse(BaseException):
    pass


ERRORS = [Own, Worse, asyncio.CancelledError, GeneratorExit]


async def step_twice() -> int:
    await asyncio.sleep(0)
    return 1


def check_books(executor: cw.Executor) -> None:
    """Nothing is left, and no queue believes otherwise."""
    stats = executor.stats()
    assert (stats.runnable, stats.tasks) == (0, 0)
    assert stats.spawned == stats.finished
    assert stats.busy_ns == sum(queue.busy_ns for queue in executor.queue_stats().values())
    core = executor._core
    assert not core.is_busy()
    assert all(not queue.entity.active and queue.runnable == 0 for queue in core.queues.values())


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scheduler", [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS])
def test_the_key_of_a_group_fails_when_the_group_ends(run: Run, scheduler: Any, error: type[BaseException]) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=scheduler()), cw.Queue("other")], on_panic="catch") as executor:
            queue = executor.queue("q")
            key = Spoilt(error)
            handles = [queue.group(key if number % 3 == 0 else number % 3).spawn(step_twice()) for number in range(12)]
            await asyncio.sleep(0)
            key.spoilt = True
            assert [await handle for handle in handles] == [1] * 12
            assert len(run.reports) == 1
            assert type(run.reports.pop()["exception"]) is error
            with pytest.raises(error):
                queue.group(key)
            key.spoilt = False
            assert await queue.group(key).spawn(step_twice()) == 1  # the group is as good as new
            check_books(executor)

    run(body)


@pytest.mark.parametrize("error", ERRORS)
def test_a_spawn_whose_group_fails_does_nothing(run: Run, error: type[BaseException]) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=cw.LAS())]) as executor:
            key = Spoilt(error)
            group = executor.queue("q").group(key)
            key.spoilt = True
            with pytest.raises(error):
                group.spawn(step_twice())  # closed: else Python would complain that nobody awaited it
            check_books(executor)

    run(body)


class Tracer:
    def __init__(self, fails: str, error: type[BaseException]) -> None:
        self.fails = fails
        self.error = error
        self.calls = 0

    def step(self, queue: Any, state: Any, started: int, ended: int) -> None:
        assert started <= ended
        if self.fails == "step":
            self.calls += 1
            raise self.error("the tracer's own")

    def turn(self, started: int, ended: int) -> None:
        assert started <= ended
        if self.fails == "turn":
            self.calls += 1
            raise self.error("the tracer's own")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("fails", ["step", "turn"])
def test_a_tracer_that_fails_is_taken_off(run: Run, fails: str, error: type[BaseException]) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("q")]) as executor:
            tracer = Tracer(fails, error)
            executor.trace(tracer)
            for _ in range(3):
                assert await executor.queue("q").spawn(step_twice()) == 1
                await asyncio.sleep(0)
            assert tracer.calls == 1
            assert "tracer Tracer failed" in run.reports[0]["message"]
            assert type(run.reports.pop()["exception"]) is error
            check_books(executor)

    run(body)


@pytest.mark.parametrize("error", ERRORS)
def test_a_reporter_of_slow_steps_that_fails(run: Run, error: type[BaseException]) -> None:
    def report(*_: object) -> None:
        raise error("the reporter's own")

    async def slow() -> None:
        time.sleep(0.002)  # noqa: ASYNC251

    async def body() -> None:
        async with cw.Executor([cw.Queue("q", slice=0.001)]) as executor:
            executor.report_slow_polls({"q": 0.001}, report)
            while len(run.reports) < 2:  # one beside which others took the core was not slow itself
                await executor.queue("q").spawn(slow())
            assert [type(report["exception"]) for report in run.reports] == [error, error]
            run.reports.clear()
            check_books(executor)

    run(body)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["tracer", "observe", "forget_task", "push", "report", "key"])
def test_what_ends_the_program_waits_for_the_books(loop_factory: Any, where: str, error: type[BaseException]) -> None:
    class Ends(cw.RunnableFifo):
        def _end(self, at: str) -> None:
            if at == where and armed:
                armed.clear()
                raise error

        def push(self, task: cw.ScheduledTask) -> None:
            self._end("push")
            super().push(task)

        def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
            self._end("observe")

        def forget_task(self, task: cw.ScheduledTask) -> None:
            self._end("forget_task")

    armed: list[bool] = []
    key = Spoilt(error)
    key.spoilt = False

    def report(*_: object) -> None:
        raise error

    async def body() -> None:
        async with cw.Executor([cw.Queue("q", scheduler=Ends(), slice=0.00001)]) as executor:
            handle = (executor.queue("q").group(key) if where == "key" else executor.queue("q")).spawn(step_twice())
            await asyncio.sleep(0)
            armed.append(True)
            if where == "tracer":
                executor.trace(Tracer("step", error))
            elif where == "report":
                executor.report_slow_polls({"q": 0.0005}, report)
            elif where == "key":
                key.spoilt = True
            executor.queue("q").spawn(busy())
            ended.append(executor)
            await handle
            await asyncio.Event().wait()

    async def busy() -> None:
        for _ in range(100):
            time.sleep(0.001)  # noqa: ASYNC251
            await asyncio.sleep(0)

    ended: list[cw.Executor] = []
    with pytest.raises(error), asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: None)
        runner.run(body())
    check_books(ended[0])


class Reentrant(cw.Scheduler):
    """Calls back into the executor from each of its methods, and fails in one of them."""

    def __init__(self, fails: str, error: type[BaseException]) -> None:
        self.fails = fails
        self.error = error
        self.tasks: list[cw.ScheduledTask] = []
        self.queue: Any = None
        self.victims: list[cw.JoinHandle[Any]] = []
        self.depth = 0
        self.spawned: list[cw.JoinHandle[Any]] = []

    def again(self, where: str) -> None:
        if self.queue is None or self.depth:
            return
        self.depth += 1
        try:
            if len(self.spawned) < 20:
                self.spawned.append(self.queue.spawn(step_twice()))
            if self.victims:
                self.victims.pop().abort()
        finally:
            self.depth -= 1
        if where == self.fails and len(self.spawned) > 4:
            raise self.error(where)

    def push(self, task: cw.ScheduledTask) -> None:
        if self.fails == "inner push" and self.depth and len(self.spawned) > 4:
            raise self.error("inner push")
        self.again("push")
        self.tasks.append(task)

    def pop(self) -> cw.ScheduledTask:
        task = self.tasks.pop(0)
        self.again("pop")
        return task

    def observe(self, task: cw.ScheduledTask, elapsed_ns: int) -> None:
        self.again("observe")

    def forget_task(self, task: cw.ScheduledTask) -> None:
        self.again("forget_task")

    def forget_group(self, group: object) -> None:
        self.again("forget_group")

    def __len__(self) -> int:
        return len(self.tasks)


@pytest.mark.parametrize("error", [Own, Worse])
@pytest.mark.parametrize("fails", ["nowhere", "push", "inner push", "pop", "observe", "forget_task", "forget_group"])
def test_a_scheduler_that_calls_back_and_fails(run: Run, fails: str, error: type[BaseException]) -> None:
    async def body() -> None:
        scheduler = Reentrant(fails, error)
        async with cw.Executor([cw.Queue("q", scheduler=scheduler), cw.Queue("other")]) as executor:
            queue = executor.queue("q")
            scheduler.victims = [queue.spawn(asyncio.Event().wait()) for _ in range(5)]
            victims = list(scheduler.victims)
            await asyncio.sleep(0)
            scheduler.queue = queue
            handles = [queue.group(number % 4).spawn(step_twice()) for number in range(40)]
            assert [await handle for handle in handles] == [1] * 40
            await asyncio.sleep(0)
            scheduler.queue = None
            for victim in victims:
                victim.abort()
            await executor.drain()
            assert all(spawned.done() for spawned in scheduler.spawned)
            check_books(executor)
        assert [type(report["exception"]) for report in run.reports] == ([] if fails == "nowhere" else [error])
        run.reports.clear()

    run(body)


class Odd:
    """What a task may wait for, in asyncio's eyes; it does not behave."""

    _asyncio_future_blocking = False

    def __init__(self, loop: asyncio.AbstractEventLoop, how: str) -> None:
        self._loop = loop
        self.how = how

    def __await__(self) -> Any:
        self._asyncio_future_blocking = True
        yield self

    def add_done_callback(self, callback: Any, *, context: Any) -> None:
        if self.how == "refuses":
            raise Own("nobody is called back")
        for _ in range(3 if self.how == "wakes thrice" else 1):
            self._loop.call_soon(callback, self, context=context)

    def cancel(self, msg: object = None) -> bool:
        raise Own("not to be cancelled")

    def result(self) -> None:
        if self.how == "fails":
            raise Worse("a result that is none")


@pytest.mark.parametrize("how", ["wakes thrice", "fails"])
def test_futures_that_do_not_behave(run: Run, how: str) -> None:
    async def body() -> None:
        async def waits() -> int:
            with contextlib.suppress(BaseException):
                await Odd(asyncio.get_running_loop(), how)
            return await step_twice()

        async with cw.Executor([cw.Queue("q"), cw.Queue("other")], on_panic="catch") as executor:
            queue = executor.queue("q")
            for _ in range(5):
                # Two at once: one in the list twice would take the other out of it.
                handles = [
                    queue.spawn(waits()),
                    queue.spawn(step_twice()),
                    queue.spawn(waits()),
                    queue.spawn(step_twice()),
                ]
                for handle in handles:
                    await handle.outcome()
            await executor.drain()
            check_books(executor)
        run.reports.clear()  # what asyncio says of a task that is woken when it is done

    run(body)


def test_a_future_that_refuses_who_waits(run: Run) -> None:
    async def body() -> None:
        async def waits() -> None:
            await Odd(asyncio.get_running_loop(), "refuses")

        async with cw.Executor([cw.Queue("q")]) as executor:
            queue = executor.queue("q")
            handle = queue.spawn(waits())
            assert await queue.spawn(step_twice()) == 1
            assert not handle.done()  # as in asyncio: nobody will wake it
            assert type(run.reports.pop()["exception"]) is Own
            executor._core.detach()
        handle.task.get_coro().close()
        handle.task._log_destroy_pending = False  # type: ignore[attr-defined]

    if cw.compiled:
        run(body)


def test_the_clock_never_goes_back(run: Run) -> None:
    class Watches:
        last = 0

        def step(self, queue: Any, state: Any, started: int, ended: int) -> None:
            assert self.last <= started <= ended
            self.last = ended

        def turn(self, started: int, ended: int) -> None:
            pass

    async def steps() -> None:
        for _ in range(20_000):
            await asyncio.sleep(0)

    async def body() -> None:
        async with cw.Executor([cw.Queue("q"), cw.Queue("other")]) as executor:
            executor.trace(Watches())
            for handle in [queue.spawn(steps()) for queue in executor.queues()]:
                await handle

    run(body)


@pytest.mark.parametrize("error", ERRORS)
def test_a_meter_that_fails(run: Run, error: type[BaseException]) -> None:
    class Broken(Meter):
        def cpu_ns(self) -> int:
            raise error("no clock")

    async def long() -> None:
        time.sleep(0.001)  # noqa: ASYNC251

    async def body() -> None:
        async with cw.Executor([cw.Queue("q")]) as executor:
            executor._core.steal.meter = Broken()
            await executor.queue("q").spawn(long())
            await executor.queue("q").spawn(long())
            assert {type(report["exception"]) for report in run.reports} == {error}
            run.reports.clear()
            check_books(executor)
        run.reports.clear()

    run(body)
