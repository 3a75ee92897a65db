from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import warnings
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, needs, until

QUEUES = [cw.Queue("foreground", 8, scheduler=None), cw.Queue("background")]


def declarations(**kwargs: Any) -> list[cw.Queue]:
    return [cw.Queue("foreground", 8, scheduler=cw.LAS(), **kwargs), cw.Queue("background", **kwargs)]


async def fail(message: str = "boom") -> None:
    await asyncio.sleep(0)
    raise LookupError(message)


async def forever() -> None:
    await asyncio.Event().wait()


def test_the_example_of_the_design(run: Run) -> None:
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    async def main() -> list[str]:
        seen: list[str] = []

        async def other() -> None:
            seen.append("other")

        queues = [cw.Queue("foreground", share=8, scheduler=cw.LAS()), cw.Queue("background", share=1)]
        async with cw.Executor(queues) as executor:
            handle = executor.queue("foreground").spawn(work(21))
            assert await handle == 42
            executor.queue("foreground").group("tenant-1").spawn(other())
            await executor.drain()
        return seen

    assert run(main) == ["other"]


def test_a_loop_with_an_executor_and_run(run: Run) -> None:
    async def main() -> int:
        executor = cw.current_executor()
        return await executor.queue("background").spawn(asyncio.sleep(0, 7))

    def factory() -> asyncio.AbstractEventLoop:
        return cw.new_event_loop(declarations(), loop_factory=run.loop_factory)

    assert run(main, loop_factory=factory) == 7
    with asyncio.Runner(loop_factory=lambda: cw.new_event_loop(declarations())) as runner:
        assert runner.run(main()) == 7
        assert runner.run(main()) == 7
    assert cw.run(main(), queues=declarations()) == 7


def test_run_raises_panics_and_closes_what_it_was_given() -> None:
    async def main() -> None:
        cw.current_executor().queue("background").spawn(fail())
        await forever()

    with pytest.raises(LookupError, match="boom"):
        cw.run(main(), queues=declarations())


# Configuration


@pytest.mark.parametrize(
    ("queues", "message"),
    [
        ([], "at least one queue"),
        (["foreground"], "must be Queue"),
        ([cw.Queue("a"), cw.Queue("a")], "two queues have the key 'a'"),
        ([cw.Queue(each) for each in range(1_025)], "1,025 queues are too many; an executor takes up to 1,024"),
    ],
)
def test_queues_that_are_refused(queues: Any, message: str) -> None:
    with pytest.raises(cw.ConfigurationError, match=message):
        cw.Executor(queues)


def test_a_scheduler_serves_one_queue() -> None:
    shared = cw.LAS()
    with pytest.raises(cw.ConfigurationError, match="queues 'a' and 'b' share one scheduler"):
        cw.Executor([cw.Queue("a", scheduler=shared), cw.Queue("b", scheduler=shared)])


@pytest.mark.parametrize("name", ["sched_latency", "min_slice", "driver_yield", "max_polls_per_yield"])
@pytest.mark.parametrize("value", [0, -1, "1", None, 2**70, float("inf"), float("nan")])
def test_options_that_are_refused(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(cw.ConfigurationError, match=name):
        cw.Executor(QUEUES, **options)


@pytest.mark.parametrize("seconds", [-1, 1e300, float("nan"), float("inf"), "1", None])
def test_limits_of_slow_steps_that_are_refused(seconds: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match="limit of queue 'foreground'"):
        cw.Executor(QUEUES).report_slow_polls({"foreground": seconds}, lambda *_: None)


@pytest.mark.parametrize("make", [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS])
def test_a_scheduler_serves_one_running_executor(run: Run, make: Any) -> None:
    shared = [cw.Queue("a", scheduler=make())]

    async def work() -> int:
        await asyncio.sleep(0)
        return 1

    async def once() -> int:
        async with cw.Executor(shared) as executor:
            return await executor.queue("a").spawn(work())

    async def body() -> None:
        async with cw.Executor(shared) as executor:
            coroutine = work()
            with pytest.raises(cw.ConfigurationError, match="works for another executor"):
                await asyncio.to_thread(asyncio.run, once())
            with pytest.raises(cw.ConfigurationError, match="works for another executor"):
                await asyncio.to_thread(asyncio.run, cw.Executor(shared).run_until(coroutine))
            with pytest.raises(cw.ConfigurationError, match="works for another executor"):
                cw.new_event_loop(shared)
            assert await executor.queue("a").spawn(work()) == 1
        assert await once() == 1  # one after the other is right
        assert await once() == 1

    run(body)


@pytest.mark.parametrize("call", ["run_until", "close", "__aenter__", "drain"])
@pytest.mark.parametrize("where", ["task", "spawned"])
def test_a_loops_own_executor_is_not_entered_nor_closed(run: Run, loop_factory: Any, call: str, where: str) -> None:
    async def body() -> None:
        executor = cw.current_executor()

        async def attempt() -> None:
            coroutine = asyncio.sleep(0)
            with pytest.raises(cw.UsageError):
                await (executor.run_until(coroutine) if call == "run_until" else getattr(executor, call)())
            coroutine.close()

        await (executor.queue("foreground").spawn(attempt()) if where == "spawned" else attempt())
        assert await executor.queue("background").spawn(asyncio.sleep(0, 1)) == 1

    run(body, loop_factory=lambda: cw.new_event_loop(QUEUES, loop_factory=loop_factory))


@pytest.mark.parametrize("call", ["run_until", "close", "__aenter__"])
def test_an_executor_is_not_entered_by_its_own_task(run: Run, call: str) -> None:
    async def body() -> None:
        executor = cw.Executor(QUEUES)

        async def attempt() -> None:
            coroutine = asyncio.sleep(0)
            try:
                with pytest.raises(cw.UsageError):
                    await (executor.run_until(coroutine) if call == "run_until" else getattr(executor, call)())
            finally:
                coroutine.close()

        await executor.run_until(asyncio.sleep(0))
        task = asyncio.get_running_loop().create_task(attempt(), context=executor.queue("foreground").context())
        await executor.run_until(asyncio.wait([task]))
        task.result()
        await executor.close()

    run(body)


def test_on_panic_is_one_of_two() -> None:
    with pytest.raises(cw.ConfigurationError, match="on_panic is 'ignore'"):
        cw.Executor(QUEUES, on_panic="ignore")  # type: ignore[arg-type]


def test_as_many_queues_as_it_takes(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue(each) for each in range(1_024)]) as executor:
            handles = [queue.spawn(asyncio.sleep(0, queue.key)) for queue in executor.queues()]
            assert [await handle for handle in handles] == list(range(1_024))

    run(body)


@pytest.mark.parametrize("key", ["frontground", None, ["unhashable"]])
def test_an_unknown_queue_lists_the_known(key: Any) -> None:
    with pytest.raises(KeyError, match="there are 'foreground', 'background'"):
        cw.Executor(QUEUES).queue(key)


# Spawning


@pytest.mark.parametrize("what", [None, 3, fail, asyncio.sleep, "coroutine"])
def test_spawn_takes_a_coroutine(run: Run, what: Any) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            with pytest.raises(TypeError, match=r"spawn\(\) takes a coroutine"):
                executor.queue("background").spawn(what)
            assert executor.stats().tasks == 0

    run(body)


def test_spawn_outside_of_its_time_closes_the_coroutine(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor(QUEUES)
        for _ in range(2):
            coroutine = forever()
            with pytest.raises(cw.UsageError, match="the executor is not running"):
                executor.queue("background").spawn(coroutine)
            with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                coroutine.send(None)
            async with cw.Executor(QUEUES):  # another one on the loop changes nothing
                pass

        async with executor:
            late = executor.queue("background").spawn(forever())
        with pytest.raises(cw.UsageError, match="the executor is not running"):
            executor.queue("background").spawn(forever())
        assert late.done()

    run(body)


def test_a_task_that_is_cancelled_at_the_end_cannot_spawn(run: Run) -> None:
    errors: list[Exception] = []

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:

            async def stubborn() -> None:
                try:
                    await forever()
                finally:
                    try:
                        executor.queue("background").spawn(forever())
                    except cw.UsageError as error:
                        errors.append(error)

            executor.queue("background").spawn(stubborn())
            await until(lambda: executor.stats().polls)

    run(body)
    assert len(errors) == 1


# Leaving


def test_leaving_cancels_what_is_left_and_waits_for_it(run: Run) -> None:
    async def body() -> None:
        ended: list[int] = []

        async def work(number: int) -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(0)
                ended.append(number)

        async with cw.Executor(QUEUES) as executor:
            handles = [executor.queue("background").spawn(work(number)) for number in range(10)]
            await until(lambda: executor.stats().polls == 10)
        assert sorted(ended) == list(range(10))
        for handle in handles:
            with pytest.raises(cw.TaskCancelled):
                await handle

    run(body)


def test_drain_waits_for_what_the_tasks_start_too(run: Run) -> None:
    async def body() -> None:
        ended: list[int] = []

        async def work(depth: int) -> None:
            await asyncio.sleep(0.001)
            if depth:
                asyncio.create_task(work(depth - 1))  # noqa: RUF006  the executor keeps it
            ended.append(depth)

        async with cw.Executor(QUEUES) as executor:
            executor.queue("background").spawn(work(5))
            await executor.drain()
            assert ended == [5, 4, 3, 2, 1, 0]
            assert executor.stats().tasks == 0

    run(body)


def test_drain_from_a_task_of_its_own_is_refused(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES, on_panic="catch") as executor:

            async def work() -> None:
                await executor.drain()

            with pytest.raises(cw.UsageError, match="would wait for itself"):
                await executor.queue("background").spawn(work())

    run(body)


def test_an_error_of_the_body_passes_through(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            executor.queue("background").spawn(forever())
            raise LookupError("of the body")

    with pytest.raises(LookupError, match="of the body"):
        run(body)


# Panics


@pytest.mark.parametrize("waits_for", ["event", "sleep", "nothing"])
def test_a_panic_cancels_the_others_and_is_raised(run: Run, waits_for: str) -> None:
    async def body() -> None:
        cancelled: list[str] = []

        async def bystander() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                cancelled.append("bystander")
                raise

        with pytest.raises(LookupError, match="boom"):
            async with cw.Executor(QUEUES) as executor:
                executor.queue("foreground").spawn(bystander())
                executor.queue("background").spawn(fail())
                if waits_for == "event":
                    await forever()
                elif waits_for == "sleep":
                    await asyncio.sleep(30)
                else:
                    await until(lambda: executor.stats().panics)
        assert cancelled == ["bystander"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # nothing is left that would strike later

    run(body)


@pytest.mark.parametrize("who", ["host", "outcome", "task", "both"])
def test_an_exception_that_somebody_waits_for_is_theirs(run: Run, who: str) -> None:
    """It is raised there, once, and all others go on."""

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            queue = executor.queue("background")
            bystander = executor.queue("foreground").spawn(forever())

            async def catches() -> str:
                handle = queue.spawn(fail())
                if who == "outcome":
                    return str(await handle.outcome())
                with pytest.raises(LookupError, match="boom"):
                    await handle
                with pytest.raises(LookupError, match="boom"):
                    await handle
                return "caught"

            if who in ("host", "outcome", "both"):
                await catches()
            if who in ("task", "both"):
                assert await executor.queue("foreground").spawn(catches()) == "caught"
            assert await queue.spawn(asyncio.sleep(0, 2)) == 2
            assert not bystander.done()
            assert executor.stats().panics == (2 if who == "both" else 1)

    run(body)


def test_an_exception_goes_up_until_somebody_catches_it(run: Run) -> None:
    async def body() -> None:
        async def passes_on(executor: cw.Executor, depth: int) -> None:
            await executor.queue("background").spawn(passes_on(executor, depth - 1) if depth else fail())

        async with cw.Executor(QUEUES) as executor:
            with pytest.raises(LookupError):
                await executor.queue("foreground").spawn(passes_on(executor, 3))
            assert await executor.queue("background").spawn(asyncio.sleep(0, 2)) == 2
        with pytest.raises(LookupError):
            async with cw.Executor(QUEUES) as executor:
                executor.queue("foreground").spawn(passes_on(executor, 3))
                await forever()

    run(body)


@needs("force")
def test_a_task_that_cannot_be_cancelled_holds_up_nobody(run: Run) -> None:
    class Stubborn(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            raise ArithmeticError("not to be cancelled")

    async def body() -> None:
        async def waits() -> None:
            await Stubborn()

        for panics in (False, True):
            ended: list[str] = []
            begun = asyncio.Event()

            async def others(ended: list[str] = ended, begun: asyncio.Event = begun) -> None:
                begun.set()
                try:
                    await forever()
                finally:
                    ended.append("others")

            with contextlib.suppress(LookupError):
                async with cw.Executor(QUEUES) as executor:
                    stubborn = executor.queue("foreground").spawn(waits())
                    executor.queue("foreground").spawn(others())
                    await begun.wait()
                    if panics:
                        executor.queue("background").spawn(fail())
                        await forever()
            assert ended == ["others"]
            assert stubborn.done()
            assert {type(report["exception"]) for report in run.reports} == {ArithmeticError}
            run.reports.clear()

    run(body)


def test_an_executor_is_as_new_after_a_panic(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor(QUEUES)
        for _ in range(2):
            with pytest.raises(LookupError):
                async with executor:
                    executor.queue("background").spawn(fail())
                    await forever()
            async with executor:
                assert await executor.queue("background").spawn(asyncio.sleep(0, 1)) == 1
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    run(body)


def test_a_panic_while_the_host_leaves(run: Run) -> None:
    async def clumsy() -> None:
        try:
            await forever()
        finally:
            raise LookupError("in clean-up")

    async def body() -> None:
        with pytest.raises(LookupError, match="in clean-up"):
            async with cw.Executor(QUEUES) as executor:
                executor.queue("background").spawn(clumsy())
                await until(lambda: executor.stats().polls)
        await asyncio.sleep(0)

    run(body)


def test_the_cancellation_of_the_host_is_respected(run: Run) -> None:
    async def host() -> None:
        async with cw.Executor(QUEUES) as executor:
            executor.queue("background").spawn(forever())
            await forever()

    async def body() -> None:
        task = asyncio.create_task(host())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(body)


@needs("exception")
def test_the_cancellation_of_the_host_wins_over_a_panic(run: Run) -> None:
    async def host() -> None:
        async with cw.Executor(QUEUES) as executor:
            task = asyncio.current_task()
            assert task is not None
            handle = executor.queue("background").spawn(fail("less important"))
            handle.task.add_done_callback(lambda _: task.cancel())  # comes together with the panic's own
            await forever()

    async def body() -> None:
        task = asyncio.create_task(host())
        with pytest.raises(asyncio.CancelledError):
            await task

    run(body)
    # Nobody raised it, so asyncio reports it, once the task is collected.
    gc.collect()
    assert [str(report["exception"]) for report in run.reports] == ["less important"]
    run.reports.clear()


def test_a_timeout_around_an_executor(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02), cw.Executor(QUEUES) as executor:
                executor.queue("background").spawn(forever())
                await forever()

    run(body)


@pytest.mark.parametrize("where", ["executor", "queue"])
def test_caught_panics_are_left_to_who_awaits(run: Run, where: str) -> None:
    async def body() -> None:
        queues = declarations(on_panic="catch" if where == "queue" else None)
        async with cw.Executor(queues, on_panic="catch" if where == "executor" else "propagate") as executor:
            queue = executor.queue("background")
            bystander = queue.spawn(forever())
            with pytest.raises(LookupError):
                await queue.spawn(fail())
            match await queue.spawn(fail("again")).outcome():
                case cw.TaskPanicked(error):
                    assert str(error) == "again"
                case other:
                    pytest.fail(f"{other!r}")
            assert not bystander.done()
            assert executor.stats().panics == 2

    run(body)


@needs("exception")
def test_a_panic_that_nobody_awaits_is_reported_by_asyncio(run: Run) -> None:
    import gc

    async def body() -> None:
        async with cw.Executor(QUEUES, on_panic="catch") as executor:
            executor.queue("background").spawn(fail("unseen"))
            await executor.drain()
            gc.collect()

    run(body)
    (report,) = run.reports
    run.reports.clear()
    assert report["message"] == "Task exception was never retrieved"
    assert str(report["exception"]) == "unseen"


def test_an_inherited_task_that_fails_is_no_panic(run: Run) -> None:
    """Its starter has it to await, as in asyncio."""

    async def work() -> str:
        with pytest.raises(LookupError):
            await asyncio.create_task(fail())
        return "fine"

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            assert await executor.queue("background").spawn(work()) == "fine"
            assert executor.stats().panics == 0

    run(body)


ENDS_THE_PROGRAM = """
import asyncio, sys, uvloop
import clockworker as cw

async def other():
    try:
        await asyncio.Event().wait()
    finally:
        print("other ends")

async def ends():
    await asyncio.sleep(0)
    raise {error}

async def main():
    async with cw.Executor([cw.Queue("a"), cw.Queue("b")]) as executor:
        executor.queue("a").spawn(other())
        await asyncio.sleep(0.01)
        executor.queue("b").spawn(ends())
        await asyncio.Event().wait()

try:
    with asyncio.Runner(loop_factory={factory}) as runner:
        runner.run(main())
finally:
    print("after")
"""


@pytest.mark.parametrize("factory", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
@pytest.mark.parametrize(("error", "code"), [("SystemExit(3)", 3), ("KeyboardInterrupt", -2)])
def test_what_ends_a_program_ends_it(factory: str, error: str, code: int) -> None:
    script = ENDS_THE_PROGRAM.format(error=error, factory=factory)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout == "other ends\nafter\n", done.stderr
    assert done.returncode in (code, 130 if code == -2 else code), done.stderr


# Statistics


def test_counters_add_up(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES, on_panic="catch") as executor:
            waiting = [executor.queue("background").spawn(forever()) for _ in range(3)]
            done = [executor.queue("foreground").spawn(asyncio.sleep(0)) for _ in range(5)]
            failed = executor.queue("foreground").spawn(fail())
            await failed.outcome()
            for handle in done:
                await handle
            await until(lambda: executor.queue_stats()["background"].polls == 3)
            queues = executor.queue_stats()
            total = executor.stats()
            assert list(queues) == ["foreground", "background"]
            for field in ("runnable", "tasks", "polls", "busy_ns", "spawned", "panics"):
                assert getattr(total, field) == sum(getattr(queue, field) for queue in queues.values())
            foreground, background = queues["foreground"], queues["background"]
            assert (foreground.share, foreground.spawned, foreground.polls, foreground.tasks) == (8, 6, 12, 0)
            assert (background.share, background.spawned, background.polls, background.tasks) == (1, 3, 3, 3)
            assert (total.panics, total.runnable) == (1, 0)
            assert foreground.busy_ns > 0
            assert total.turns > 0
            with pytest.raises(AttributeError):
                total.polls = 0  # type: ignore[misc]
            executor.queue("background").share = 5
            assert executor.queue_stats()["background"].share == 5
            assert len(waiting) == 3

    run(body)


def test_an_executor_that_was_never_entered_leaves_no_trace() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        executor = cw.Executor(QUEUES)
        assert executor.stats().tasks == 0
        assert executor.current_queue() is None


def test_who_waits_for_work_is_told_once_before_it_is_done(run: Run) -> None:
    async def body() -> None:
        seen: list[str] = []

        async def work() -> None:
            seen.append("work")

        async with cw.Executor([cw.Queue("only")]) as executor:
            queue = executor.queues()[0]
            await queue.spawn(work())
            executor.when_stirred(lambda: seen.append("stirred"))
            for _ in range(20):  # a turn that the clock has ended is followed by one that finds nothing
                turns = executor.turns
                await asyncio.sleep(0.01)
                if executor.turns == turns:
                    break
            assert (seen, executor.turns) == (["work"], turns), "the loop's own timers are none of its work"
            await queue.spawn(work())
            await queue.spawn(work())
            assert seen == ["work", "stirred", "work", "work"]
            executor.when_stirred(lambda: seen.append("stirred"))
            executor.when_stirred(None)
            await queue.spawn(work())
            assert seen[4:] == ["work"]

    run(body)


def test_current_executor_needs_a_running_loop(run: Run) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        cw.current_executor()
