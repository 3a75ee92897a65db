"""Slices: a step of a preemptive queue that does not await is cut, and goes on."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, until
from tests.executor.slices import alarms, ask, compute_until, cuts, needs_slices, queues, refusals

pytestmark = [needs_slices, pytest.mark.usefixtures("by_hand")]


def test_a_hog_is_cut_and_others_run_meanwhile(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            loop = asyncio.get_running_loop()
            seen: list[str] = []

            async def hog() -> str:
                loop.call_later(0.001, seen.append, "timer")
                compute_until(lambda: "task" in seen and "timer" in seen, "a task and a timer")
                return "computed"

            async def note() -> None:
                seen.append("task")

            handle = executor.queue("background").spawn(hog())
            executor.queue("foreground").spawn(note())
            assert await handle == "computed"
            stats = executor.queue_stats()
            assert stats["background"].cuts >= 1
            assert stats["background"].preemptive
            assert not stats["foreground"].preemptive
            assert stats["foreground"].cuts == 0

    run(body)


def test_the_alarm_cuts_by_itself(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("foreground"), cw.Queue("background", preemptive=True)]) as executor:
            seen: list[str] = []

            async def hog() -> None:
                for _ in range(100_000_000):  # much more than enough
                    if len(seen) == 5:
                        return
                raise AssertionError("nobody has cut it")

            async def others() -> None:
                while len(seen) < 5:
                    await asyncio.sleep(0.001)
                    seen.append("turn")

            handle = executor.queue("background").spawn(hog())
            executor.queue("foreground").spawn(others())
            await handle
            assert cuts(executor) >= 5

    with alarms():
        run(body)


def test_c_code_that_asks_for_signals_is_cut(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            pattern = re.compile("(a+)+b")
            end = False

            async def hog() -> None:
                while not cuts(executor):
                    pattern.match("a" * 20)  # half a million attempts

            async def others() -> None:
                while not end:
                    await asyncio.sleep(0)

            watching = executor.queue("foreground").spawn(others())
            await executor.queue("background").spawn(hog())
            end = True
            await watching
            assert cuts(executor) >= 1

    with alarms():
        run(body)


def test_what_was_cut_is_finished_before_any_other_step_of_its_queue(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            background = executor.queue("background")
            log: list[str] = []
            foreground = 0

            async def others() -> None:
                nonlocal foreground
                while len(log) < 60:
                    foreground += 1
                    await asyncio.sleep(0)

            async def step(name: str) -> None:
                for _ in range(3):
                    log.append(f"{name} begins")
                    before = foreground
                    compute_until(lambda before=before: foreground > before)  # type: ignore[misc]
                    log.append(f"{name} ends")
                    await asyncio.sleep(0)

            executor.queue("foreground").spawn(others())
            for name in "abcdefghij":
                background.spawn(step(name))
            await executor.drain()
            assert len(log) == 60
            for begins, ends in zip(log[::2], log[1::2], strict=True):
                assert ends == begins.replace("begins", "ends")

    run(body)


def test_a_suspended_step_counts_as_runnable(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            seen: list[int] = []

            async def look() -> None:
                seen.append(executor.queue_stats()["background"].runnable)
                assert executor.is_busy
                assert executor.current_queue() == executor.queue("foreground")

            async def hog() -> None:
                executor.queue("foreground").spawn(look())
                compute_until(lambda: seen)
                assert executor.current_queue() == executor.queue("background")

            await executor.queue("background").spawn(hog())
            assert seen == [1]
            assert executor.queue_stats()["background"].runnable == 0

    run(body)


def test_single_steps_are_cut_too(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            core = executor._core
            carrier = core.carrier("single")
            ran: list[object] = []
            current: list[Any] = []

            async def note() -> None:
                current.append(asyncio.current_task())
                ran.append("task")

            def single() -> None:
                executor.queue("foreground").spawn(note(), name="note")
                compute_until(lambda: "task" in ran)
                ran.append(asyncio.current_task() is carrier)

            core.spawn_step(executor.queue("background")._membership, carrier, single)
            core.spawn_step(executor.queue("background")._membership, carrier, lambda: ran.append("next"))
            await executor.drain()
            assert ran == ["task", True, "next"]
            assert current[0].get_name() == "note"
            assert cuts(executor) >= 1
            assert asyncio.current_task() is not carrier

    run(body)


def test_an_exception_after_a_cut_is_the_tasks_own(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues(), on_panic="catch") as executor:

            async def fail() -> None:
                ask()
                raise LookupError("after a cut")

            handle = executor.queue("background").spawn(fail())
            with pytest.raises(LookupError, match="after a cut"):
                await handle
            assert cuts(executor) == 1

            def single() -> None:
                ask()
                raise LookupError("of a single step")

            core = executor._core
            core.spawn_step(executor.queue("background")._membership, core.carrier("single"), single)
            await until(lambda: executor.queue_stats()["background"].panics == 2)

    run(body)
    gc.collect()
    [report] = run.reports  # of the step, by asyncio: nobody can ask for it
    assert str(report["exception"]) == "of a single step"
    run.reports.clear()


def test_interrupting_ends_the_program_after_a_cut(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                ask()
                raise KeyboardInterrupt

            handle = executor.queue("background").spawn(hog())
            try:
                await asyncio.sleep(60)
            finally:
                assert isinstance(handle.task.exception(), KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt):
        run(body)


def test_statistics_count_slices_and_whole_steps(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                for _ in range(3):
                    ask()
                await asyncio.sleep(0)
                ask()

            await executor.queue("background").spawn(hog())
            await executor.drain()
            stats = executor.queue_stats()
            background = stats["background"]
            assert (background.cuts, background.polls) == (4, 2)
            assert (background.poll_time.count, background.whole_step.count) == (6, 2)
            assert background.poll_time.total_ns == background.whole_step.total_ns == background.busy_ns
            assert background.whole_step.max_ns > background.poll_time.max_ns or background.busy_ns < 1000
            assert stats["foreground"].whole_step == stats["foreground"].poll_time

    run(body)


def test_each_slice_is_charged(run: Run) -> None:
    """Else a hog of a queue with a small share would have the core for ever, or never again."""

    async def body() -> None:
        async with cw.Executor([cw.Queue("foreground", 3), cw.Queue("background", 1, preemptive=True)]) as executor:
            done = False

            async def hog() -> None:
                for _ in range(3000):
                    sum(range(500))
                    ask()

            async def work() -> None:
                while not done:
                    sum(range(500))
                    await asyncio.sleep(0)

            executor.queue("foreground").spawn(work())
            await executor.queue("background").spawn(hog())
            done = True
            stats = executor.queue_stats()
            ratio = stats["foreground"].busy_ns / stats["background"].busy_ns
            assert 2 < ratio < 4

    run(body)


class Slow:
    def __init__(self) -> None:
        self.long: list[tuple[Any, int, int]] = []

    def was_long(self, state: Any, elapsed: int, slices: int) -> None:
        self.long.append((state.membership.queue.key, elapsed, slices))


def test_a_long_step_is_told_of_once_when_it_has_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            slow = Slow()
            reported: list[Any] = []
            monkeypatch.setattr(executor, "was_long", slow.was_long)
            executor.report_slow_polls({"background": 0.000_001}, lambda *report: reported.append(report))

            async def hog() -> None:
                for _ in range(5):
                    ask()

            await executor.queue("background").spawn(hog())
            await executor.drain()
            [(key, elapsed, slices)] = slow.long
            assert (key, slices) == ("background", 6)
            assert elapsed == executor.queue_stats()["background"].busy_ns
            assert not reported

    run(body)


class Tracer:
    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []

    def step(self, queue: Any, state: Any, started: int, ended: int) -> None:
        self.log.append(("step", queue.key))

    def stolen_step(self, queue: Any, state: Any, started: int, ended: int, stolen: int) -> None:
        self.log.append(("step", queue.key))

    def turn(self, started: int, ended: int) -> None:
        pass


class CutTracer(Tracer):
    def cut_step(self, queue: Any, state: Any, started: int, ended: int, stolen: int) -> None:
        assert ended >= started
        self.log.append(("cut", queue.key))


@pytest.mark.parametrize("kind", [Tracer, CutTracer])
def test_tracers_are_told_of_each_slice(run: Run, kind: type[Tracer]) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            tracer = kind()
            executor.trace(tracer)

            async def hog() -> None:
                ask()
                ask()

            await executor.queue("background").spawn(hog())
            executor.trace(None)
            word = "cut" if kind is CutTracer else "step"
            assert tracer.log == [(word, "background")] * 2 + [("step", "background")]

    run(body)


def test_a_tracer_that_fails_is_dropped(run: Run) -> None:
    class Failing(Tracer):
        def cut_step(self, *args: object) -> None:
            raise LookupError("a tracer")

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            executor.trace(Failing())

            async def hog() -> None:
                ask()
                ask()

            await executor.queue("background").spawn(hog())

    run(body)
    assert [type(report["exception"]) for report in run.reports] == [LookupError]
    run.reports.clear()


# The ends of a step that was cut


def test_abort_arrives_at_the_next_await(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            seen: list[str] = []

            async def hog() -> None:
                compute_until(lambda: "aborted" in seen)
                seen.append("end of the step")
                await asyncio.sleep(0)
                seen.append("never")

            async def abort() -> None:
                await until(lambda: cuts(executor))
                assert handle.abort()
                seen.append("aborted")

            handle = executor.queue("background").spawn(hog())
            executor.queue("foreground").spawn(abort())
            with pytest.raises(cw.TaskCancelled):
                await handle
            assert seen == ["aborted", "end of the step"]

    run(body)


def test_leaving_lets_what_is_in_the_middle_go_on_in_slices_to_its_next_await(run: Run) -> None:
    async def body() -> None:
        seen: list[str] = []
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                compute_until(lambda: "leaving" in seen)
                ask()
                seen.append("end of the step")
                await asyncio.sleep(0)
                seen.append("never")

            executor.queue("background").spawn(hog())
            await until(lambda: cuts(executor))
            seen.append("leaving")
        assert seen == ["leaving", "end of the step"]

    run(body)


def test_run_until_leaves_it_suspended(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor(queues())
        seen: list[str] = []

        async def hog() -> str:
            compute_until(lambda: "again" in seen)
            return "done"

        async def first() -> Any:
            handle = executor.queue("background").spawn(hog())
            await until(lambda: cuts(executor))
            return handle

        handle = await executor.run_until(first())
        had = cuts(executor)
        for _ in range(10):
            await asyncio.sleep(0)
        assert cuts(executor) == had
        assert not handle.done()

        async def second() -> Any:
            seen.append("again")
            return await handle

        assert await executor.run_until(second()) == "done"
        assert cuts(executor) >= had
        await executor.close()

    run(body)


@pytest.mark.parametrize("way", ["new_event_loop", "run_until"])
def test_closing_the_loop_cancels_at_the_cut(loop_factory: Callable[[], asyncio.AbstractEventLoop], way: str) -> None:
    seen: list[str] = []

    async def hog() -> None:
        try:
            while True:
                ask()
        except asyncio.CancelledError:
            seen.append("cancelled at the cut")
            raise
        finally:
            ask()
            seen.append("finally")

    if way == "new_event_loop":
        loop = cw.new_event_loop(queues(), loop_factory=loop_factory)

        async def main() -> None:
            executor = cw.current_executor()
            executor.queue("background").spawn(hog())
            await until(lambda: cuts(executor))
    else:
        loop = loop_factory()

        async def main() -> None:
            executor = cw.Executor(queues())

            async def inner() -> None:
                executor.queue("background").spawn(hog())
                await until(lambda: cuts(executor))

            await executor.run_until(inner())

    loop.run_until_complete(main())
    assert not seen
    loop.close()
    assert seen == ["cancelled at the cut", "finally"]
    assert signal.getsignal(signal.SIGRTMAX) is signal.SIG_DFL


def test_attached_again_it_cuts_again(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    executor = cw.Executor(queues())

    async def body() -> None:
        async with executor:
            seen: list[int] = []

            async def hog() -> None:
                ask()
                compute_until(lambda: seen)

            async def note() -> None:
                seen.append(1)

            handle = executor.queue("background").spawn(hog())
            executor.queue("foreground").spawn(note())
            await handle

    async def deeper() -> None:
        await body()

    for number in range(4):
        before = cuts(executor)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(body() if number % 2 else deeper())
        assert cuts(executor) > before
        assert signal.getsignal(signal.SIGRTMAX) is signal.SIG_DFL


def test_a_task_that_moves_to_an_ordinary_queue_is_not_cut_there(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def move() -> None:
                executor.queue("foreground").switch_to()
                ask()
                await asyncio.sleep(0)
                ask()

            async def come() -> None:
                executor.queue("background").switch_to()
                ask()
                assert cuts(executor) == 0
                await asyncio.sleep(0)
                ask()
                assert cuts(executor) == 1

            await executor.queue("background").spawn(move())
            assert cuts(executor) == 0
            assert refusals(executor) == {"moved": 1}
            await executor.queue("foreground").spawn(come())

    run(body)


@pytest.mark.parametrize("scheduler", [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS])
def test_with_each_scheduler(run: Run, scheduler: Callable[[], cw.Scheduler]) -> None:
    async def body() -> None:
        queue = cw.Queue("background", preemptive=True, scheduler=scheduler())
        async with cw.Executor([cw.Queue("foreground"), queue]) as executor:
            done: list[int] = []

            async def hog(number: int) -> None:
                for _ in range(3):
                    ask()
                    await asyncio.sleep(0)
                done.append(number)

            for number in range(20):
                executor.queue("background").group(number % 3).spawn(hog(number))
            await executor.drain()
            assert sorted(done) == list(range(20))
            assert cuts(executor) == 60

    run(body)


def test_a_scheduler_that_fails_while_a_step_is_suspended(run: Run) -> None:
    class Failing(cw.RunnableFifo):
        broken = False

        def push(self, task: cw.ScheduledTask) -> None:
            if self.broken:
                raise LookupError("of its own mind")
            super().push(task)

    async def body() -> None:
        scheduler = Failing()
        queue = cw.Queue("background", preemptive=True, scheduler=scheduler)
        async with cw.Executor([cw.Queue("foreground"), queue]) as executor:
            done: list[int] = []

            async def note(number: int) -> None:
                done.append(number)

            async def break_it() -> None:
                scheduler.broken = True
                executor.queue("background").spawn(note(2))
                done.append(1)

            async def hog() -> None:
                executor.queue("background").spawn(note(3))
                executor.queue("foreground").spawn(break_it())
                compute_until(lambda: done)
                done.append(0)

            await executor.queue("background").spawn(hog())
            await executor.drain()
            assert done == [1, 0, 3, 2]

    run(body)
    assert [type(report["exception"]) for report in run.reports] == [LookupError]
    run.reports.clear()


def test_two_executors_with_slices_at_a_time() -> None:
    """On two loops of the main thread, of which one has been left in the middle of a step."""
    first, second = cw.Executor(queues()), cw.Executor(queues())
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    seen: list[str] = []

    async def hog() -> None:
        compute_until(lambda: "end" in seen)

    async def begin(executor: cw.Executor) -> None:
        executor.queue("background").spawn(hog())
        await until(lambda: cuts(executor))

    loops[0].run_until_complete(first.run_until(begin(first)))
    loops[1].run_until_complete(second.run_until(begin(second)))
    seen.append("end")
    loops[0].run_until_complete(first.run_until(first.drain()))
    loops[0].run_until_complete(first.close())
    assert signal.getsignal(signal.SIGRTMAX) is not signal.SIG_DFL
    loops[1].run_until_complete(second.run_until(second.drain()))
    loops[1].run_until_complete(second.close())
    assert signal.getsignal(signal.SIGRTMAX) is signal.SIG_DFL
    for loop in loops:
        loop.close()


def test_nothing_is_cut_in_wound_time() -> None:
    """A test with a clock of its own repeats."""
    from clockworker.testing import Clock
    from clockworker.testing import run as run_wound

    async def main() -> int:
        executor = cw.current_executor()

        async def hog() -> None:
            sum(range(1_000_000))

        await executor.queue("background").spawn(hog())
        return executor.queue_stats()["background"].cuts

    assert (
        run_wound(main(), queues=[cw.Queue("foreground"), cw.Queue("background", preemptive=True)], clock=Clock()) == 0
    )


# Where it cannot be


def test_another_thread_is_refused() -> None:
    errors: list[BaseException] = []

    async def body() -> None:
        async with cw.Executor(queues()):
            pass

    def work() -> None:
        try:
            asyncio.run(body())
        except cw.ConfigurationError as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="other")
    thread.start()
    thread.join()
    [error] = errors
    assert "main thread" in str(error)
    assert "'other'" in str(error)
    assert "\n" not in str(error)


def test_a_loop_that_is_run_in_another_thread_is_refused(loop_factory: Any) -> None:
    """It may have been made in the main thread, and may have run there."""
    loop = cw.new_event_loop(queues(), loop_factory=loop_factory)
    ran: list[str] = []
    errors: list[BaseException] = []

    async def body() -> None:
        ran.append(threading.current_thread().name)

    def work() -> None:
        for run in (loop.run_forever, lambda: loop.run_until_complete(future)):
            try:
                run()
            except cw.ConfigurationError as error:
                errors.append(error)

    try:
        loop.run_until_complete(body())
        future = loop.create_future()
        thread = threading.Thread(target=work, name="other")
        thread.start()
        thread.join()
        loop.run_until_complete(body())
    finally:
        loop.close()
    assert ran == ["MainThread"] * 2
    assert [f"{error}" for error in errors] == [
        "preemptive queues run in the main thread, for signals come there, and this loop is of the thread 'other'"
    ] * 2


def test_a_loop_without_add_reader_is_refused() -> None:
    class Without(asyncio.SelectorEventLoop):
        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
            if fd != self._ssock.fileno():  # type: ignore[attr-defined]
                raise NotImplementedError
            super().add_reader(fd, callback, *args)

    with pytest.raises(cw.ConfigurationError, match=r"add_reader, and .*Without has none"):
        cw.new_event_loop(queues(), loop_factory=Without)
    # Nothing is left of the attempt.
    assert signal.getsignal(signal.SIGRTMAX) is signal.SIG_DFL
    loop = cw.new_event_loop(queues())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_signal_that_is_taken_is_refused(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(queues()):
            pass

    signal.signal(signal.SIGRTMAX, lambda number, frame: None)
    try:
        with pytest.raises(cw.ConfigurationError, match=r"SIGRTMAX.*<lambda>"):
            run(body)
    finally:
        signal.signal(signal.SIGRTMAX, signal.SIG_DFL)
    run(body)
