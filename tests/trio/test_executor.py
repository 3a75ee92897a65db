from __future__ import annotations

import contextvars
import gc
import logging
import threading
from collections import deque
from typing import Any

import pytest
import trio
import trio.testing

import clockworker as cw
from clockworker.trio import (
    Executor,
    JoinHandle,
    QueuesInstrument,
    current_executor,
    should_yield,
    yield_maybe,
)
from clockworker.trio import run as run_queues
from tests.trio.conftest import declarations, run


class Wrong(Exception):
    pass


async def fail(message: str = "boom") -> None:
    await trio.lowlevel.checkpoint()
    raise LookupError(message)


def test_the_example_of_the_design() -> None:
    async def work(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number * 2

    async def main() -> list[str]:
        seen: list[str] = []

        async def other() -> None:
            seen.append("other")

        queues = [cw.Queue("foreground", share=8, scheduler=cw.LAS()), cw.Queue("background", share=1)]
        async with Executor(queues) as executor:
            handle = executor.queue("foreground").spawn(work(21))
            assert await handle == 42
            executor.queue("foreground").group("tenant-1").spawn(other())
            await executor.drain()
        return seen

    assert run(main) == ["other"]


def test_run_finds_the_executor_and_raises_panics() -> None:
    async def main(value: int) -> int:
        return await current_executor().queue("background").spawn(add(value))

    async def add(value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value + 1

    assert run_queues(main, 6, queues=declarations(), max_polls_per_yield=3) == 7

    async def panics() -> None:
        current_executor().queue("background").spawn(fail())
        await trio.sleep_forever()

    with pytest.raises(LookupError, match="boom"):
        run_queues(panics, queues=declarations())


# What a task is


def test_a_task_is_trios_own() -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def work() -> tuple[str, str, bool]:
        task = trio.lowlevel.current_task()
        before = variable.get()
        await event.wait()
        return task.name, before, task.parent_nursery is nursery

    async def main() -> None:
        nonlocal event, nursery
        event = trio.Event()
        variable.set("set")
        async with Executor(declarations()) as executor:
            nursery = executor._gate.nursery
            handle = executor.queue("background").spawn(work())
            assert handle.task is not None
            assert handle.task.name.endswith("work")
            await trio.testing.wait_all_tasks_blocked()
            assert "work" in [frame.f_code.co_name for frame, _ in handle.task.iter_await_frames()]
            event.set()
            assert (await handle)[1:] == ("set", True)
            assert (await executor.queue("background").spawn(work(), name="named"))[0] == "named"

    event: trio.Event
    nursery: Any = None
    run(main)


def test_what_a_task_starts_is_in_its_queue_and_group() -> None:
    async def main() -> None:
        async with Executor(declarations()) as executor:
            seen: list[Any] = []

            async def child() -> None:
                await trio.lowlevel.checkpoint()
                queue = executor.current_queue()
                assert queue is not None
                seen.append(queue.key)

            async def parent() -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(child)
                    await trio.testing.wait_all_tasks_blocked()
                    stats = executor.queue_stats()["foreground"]
                    assert [group for group, _ in stats.top_groups] == ["tenant"]

            assert executor.current_queue() is None
            await executor.queue("foreground").group("tenant").spawn(parent())
            assert seen == ["foreground"] * 3
            stats = executor.queue_stats()["foreground"]
            assert (stats.spawned, stats.finished, stats.tasks, stats.top_groups) == (1, 4, 0, ())

    run(main)


def test_a_nursery_of_yours_takes_tasks_of_a_queue() -> None:
    async def main() -> None:
        async with trio.open_nursery() as mine, Executor(declarations()) as executor:
            where: list[Any] = []

            async def work() -> None:
                where.append(executor.current_queue())
                await trio.lowlevel.checkpoint()

            executor.queue("background").context().run(mine.start_soon, work)
            await executor.drain()
            assert where == [executor.queue("background")]

    run(main)


def test_a_queue_is_a_handler_nursery() -> None:
    async def main() -> None:
        async with Executor(declarations()) as executor:
            queue = executor.queue("foreground")

            async def echo(stream: trio.SocketStream) -> None:
                assert executor.current_queue() is queue
                async for data in stream:
                    await stream.send_all(data)

            async with trio.open_nursery() as nursery:
                serve = trio.serve_tcp
                listeners = await nursery.start(
                    lambda task_status: serve(echo, 0, handler_nursery=queue, task_status=task_status)  # type: ignore[arg-type]
                )
                async with await trio.testing.open_stream_to_socket_listener(listeners[0]) as stream:
                    await stream.send_all(b"hello")
                    assert await stream.receive_some() == b"hello"
                nursery.cancel_scope.cancel()
            await executor.drain()
            assert executor.queue_stats()["foreground"].finished == 1

    run(main)


def test_switch_to_moves_a_task_and_what_it_starts() -> None:
    async def main() -> None:
        async with Executor(declarations()) as executor:
            background = executor.queue("background")

            async def work() -> list[Any]:
                seen = [executor.current_queue()]
                await background.group("g").switch_to()
                seen.append(executor.current_queue())
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(child, seen)
                return seen

            async def child(seen: list[Any]) -> None:
                seen.append(executor.current_queue())

            handle = executor.queue("foreground").spawn(work())
            assert await handle == [executor.queue("foreground"), background, background]
            assert handle.group == "g"
            with pytest.raises(cw.UsageError, match="in no queue"):
                await background.switch_to()
            await executor.drain()
            assert executor.queue_stats()["background"].finished == 2

    run(main)


# Results


def test_outcomes_match() -> None:
    async def main() -> None:
        async with Executor(declarations(), on_panic="catch") as executor:
            queue = executor.queue("background")

            async def value() -> int:
                return 1

            ok, failed, aborted = queue.spawn(value()), queue.spawn(fail()), queue.spawn(trio.sleep_forever())
            aborted.abort()
            match [await ok.outcome(), await failed.outcome(), await aborted.outcome()]:
                case [cw.Ok(1), cw.TaskPanicked(LookupError()), cw.TaskCancelled()]:
                    pass
                case other:
                    pytest.fail(f"{other}")
            for _ in range(2):
                assert await ok == 1
                with pytest.raises(LookupError, match="boom"):
                    await failed
                with pytest.raises(cw.TaskCancelled, match="sleep_forever was aborted"):
                    await aborted
            assert ok.done()
            assert failed.done()
            assert not ok.abort()

    run(main)


def test_abort_before_the_first_step() -> None:
    async def main() -> None:
        ran = []

        async def work() -> None:
            ran.append(True)

        async with Executor(declarations()) as executor:
            handle = executor.queue("background").spawn(work())
            assert handle.abort()
            with pytest.raises(cw.TaskCancelled):
                await handle
        assert ran == []

    run(main)


def test_abort_while_suspended_or_queued_lets_it_clean_up() -> None:
    async def main() -> None:
        log: list[str] = []
        begun: list[object] = []

        async def work(sleep: Any) -> None:
            begun.append(sleep)
            try:
                while True:
                    await sleep()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.lowlevel.checkpoint()
                    log.append("clean")

        async with Executor(declarations()) as executor:
            handles = [
                executor.queue("background").spawn(work(s)) for s in (trio.sleep_forever, trio.lowlevel.checkpoint)
            ]
            while len(begun) < 2:
                await trio.sleep(0.001)
            for handle in handles:
                assert handle.abort()
                assert isinstance(await handle.outcome(), cw.TaskCancelled)
        assert log == ["clean"] * 2

    run(main)


def test_a_task_may_abort_itself_and_not_await_itself() -> None:
    async def main() -> None:
        handle: JoinHandle[None]

        async def aborts() -> None:
            handle.abort()
            await trio.lowlevel.checkpoint()

        async def awaits() -> None:
            with pytest.raises(RuntimeError, match="own handle"):
                await handle

        async with Executor(declarations()) as executor:
            handle = executor.queue("background").spawn(aborts())
            assert isinstance(await handle.outcome(), cw.TaskCancelled)
            handle = executor.queue("background").spawn(awaits())
            await handle

    run(main)


def test_cancelling_a_waiter_leaves_the_task_alone() -> None:
    async def main() -> None:
        event = trio.Event()
        async with Executor(declarations()) as executor:
            handle = executor.queue("background").spawn(event.wait())
            with trio.move_on_after(0.001) as scope:
                await handle
            assert scope.cancelled_caught
            assert not handle.done()
            event.set()
            await handle

    run(main)


def test_await_is_a_checkpoint() -> None:
    async def main() -> None:
        async with Executor(declarations()) as executor:

            async def work() -> None:
                pass

            handle = executor.queue("background").spawn(work())
            await executor.drain()
            with trio.testing.assert_checkpoints():
                await handle

    run(main)


# Failures


def test_a_panic_cancels_the_others_and_is_raised() -> None:
    async def main() -> None:
        log: list[str] = []

        async def waits(name: str) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                log.append(name)
                raise

        with pytest.raises(LookupError, match="boom"):
            async with Executor(declarations()) as executor:
                executor.queue("foreground").spawn(waits("task"))
                executor.queue("background").spawn(fail())
                await waits("body")
        assert sorted(log) == ["body", "task"]

    run(main)


def test_a_panic_and_a_failing_body_are_both_raised() -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with Executor(declarations()) as executor:
                executor.queue("background").spawn(fail())
                try:
                    await trio.sleep_forever()
                finally:
                    raise Wrong
        assert [type(error) for error in caught.value.exceptions] == [LookupError, Wrong]

    run(main)


def test_an_error_of_the_body_is_raised_as_it_is() -> None:
    async def main() -> None:
        with pytest.raises(Wrong):
            async with Executor(declarations()) as executor:
                executor.queue("background").spawn(trio.sleep_forever())
                raise Wrong
        assert executor.stats().tasks == 0

    run(main)


def test_an_exception_that_somebody_waits_for_is_theirs() -> None:
    async def main() -> None:
        async with Executor(declarations()) as executor:
            with pytest.raises(LookupError):
                await executor.queue("background").spawn(fail())
            assert executor.queue_stats()["background"].panics == 1

    run(main)


def test_a_caught_panic_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Executor(declarations(on_panic="catch")) as executor:
            executor.queue("background").spawn(fail("unheard"))
            await executor.drain()
            gc.collect()
            with pytest.raises(LookupError):
                await executor.queue("background").spawn(fail("heard"))

    with caplog.at_level(logging.ERROR, "clockworker.trio"):
        run(main)
        gc.collect()
    assert [record.getMessage() for record in caplog.records] == ["fail failed, and nobody has awaited it"]
    assert "unheard" in caplog.text


def test_an_inherited_task_that_fails_is_its_nurserys() -> None:
    async def main() -> None:
        async def parent() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)

        async with Executor(declarations()) as executor:
            with pytest.raises(ExceptionGroup) as caught:
                await executor.queue("background").spawn(parent())
            assert [type(error) for error in caught.value.exceptions] == [LookupError]
            assert executor.queue_stats()["background"].panics == 1  # the parent's

    run(main)


def test_a_cancel_scope_around_an_executor() -> None:
    async def main() -> None:
        with trio.move_on_after(0.01) as scope:
            async with Executor(declarations()) as executor:
                handle = executor.queue("background").spawn(trio.sleep_forever())
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert handle.done()
        with trio.move_on_after(0.01) as scope:
            async with Executor(declarations()) as executor:
                await executor.queue("background").spawn(trio.sleep_forever())
        assert scope.cancelled_caught

    run(main)


def test_leaving_cancels_what_is_left_and_waits_for_it() -> None:
    async def main() -> None:
        log: list[str] = []

        async def work() -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.002)
                log.append("done")

        async with Executor(declarations()) as executor:
            handle = executor.queue("background").spawn(work())
            await trio.testing.wait_all_tasks_blocked()
        assert log == ["done"]
        assert isinstance(await handle.outcome(), cw.TaskCancelled)

    run(main)


def test_keyboard_interrupt_and_exit_end_the_program() -> None:
    async def body(error: BaseException) -> None:
        async def work() -> None:
            raise error

        async with Executor(declarations(on_panic="catch")) as executor:
            executor.queue("background").spawn(work())
            await trio.sleep_forever()

    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(BaseExceptionGroup) as caught:
            run(body, error)
        assert caught.value.exceptions == (error,)


# run_until


def test_run_until_leaves_what_is_pending() -> None:
    async def main() -> None:
        executor = Executor(declarations())
        counted = 0

        async def counts() -> None:
            nonlocal counted
            while True:
                counted += 1
                await trio.lowlevel.checkpoint()

        async def two() -> int:
            executor.queue("background").spawn(counts())
            await trio.sleep(0.002)
            return 2

        assert await executor.run_until(two()) == 2
        before = counted
        # Held, not runnable: nothing spins, and all are blocked.
        with trio.fail_after(5):
            await trio.testing.wait_all_tasks_blocked()
        assert counted == before
        assert executor.stats().tasks == 1
        await executor.run_until(trio.sleep(0.002))
        assert counted > before
        await executor.close()
        assert executor.stats().tasks == 0
        assert type(trio.lowlevel.current_task()._runner.runq) is deque

    run(main)


def test_a_run_that_ends_before_close_ends_what_is_held() -> None:
    executor = Executor(declarations())

    async def main() -> int:
        async def yields() -> None:
            while True:
                await trio.lowlevel.checkpoint()

        async def spawns() -> int:
            executor.queue("background").spawn(yields())
            executor.queue("background").spawn(trio.sleep_forever())
            await trio.sleep(0.001)
            return 5

        return await executor.run_until(spawns())

    assert [run(main), run(main)] == [5, 5]
    assert executor.stats().tasks == 0


def test_a_panic_ends_run_until() -> None:
    async def main() -> None:
        executor = Executor(declarations())

        async def panics() -> None:
            executor.queue("background").spawn(fail())
            await trio.sleep_forever()

        with pytest.raises(LookupError):
            await executor.run_until(panics())
        await executor.close()

    run(main)


# Where it may be used


def test_preemptive_queues_are_refused() -> None:
    pytest.importorskip("greenlet")
    try:
        queue = cw.Queue("a", preemptive=True)
    except cw.ConfigurationError as error:
        pytest.skip(str(error))
    with pytest.raises(cw.ConfigurationError, match="queue 'a' is preemptive, which needs an event loop of asyncio's"):
        Executor([queue])


def test_what_needs_asyncio_is_refused() -> None:
    with pytest.raises(cw.ConfigurationError, match="group of queues 'g' needs an event loop of asyncio's"):
        Executor([cw.QueueGroup("g", queues=[cw.Queue("a")])])
    with pytest.raises(cw.ConfigurationError, match="scheduler FairFifo of queue 'a' needs an event loop of asyncio's"):
        Executor([cw.Queue("a", scheduler=cw.FairFifo())])


@pytest.mark.parametrize("make", [cw.FairGroups, cw.FairSRPT, lambda: cw.EDF({"g": 1.0})])
def test_schedulers_that_know_groups(make: Any) -> None:
    async def work(number: int) -> int:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        return number

    async def main() -> None:
        async with Executor([cw.Queue("a", scheduler=make())]) as executor:
            handles = [executor.queue("a").group("g").spawn(work(number)) for number in range(5)]
            handles += [executor.queue("a").spawn(work(number)) for number in range(5)]
            assert [await handle for handle in handles] == [*range(5)] * 2

    trio.run(main)


@pytest.mark.parametrize("name", ["sched_latency", "min_slice", "driver_yield", "max_polls_per_yield"])
@pytest.mark.parametrize("value", [0, -1, "1", None, 2**70, float("nan")])
def test_options_that_are_refused(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(cw.ConfigurationError, match=name):
        Executor(declarations(), **options)


def test_wrong_times_and_places() -> None:
    async def main() -> None:
        executor = Executor(declarations())

        async def work() -> None:
            with pytest.raises(cw.UsageError, match="wait for itself"):
                await executor.drain()

        coroutine = work()
        with pytest.raises(cw.UsageError, match="not running"):
            executor.queue("background").spawn(coroutine)
        async with executor:
            with pytest.raises(cw.UsageError, match="has an executor already"):
                async with Executor(declarations()):
                    pass
            with pytest.raises(cw.UsageError, match="running already"):
                await executor.run_until(trio.sleep(0))
            with pytest.raises(TypeError, match="takes a coroutine"):
                executor.queue("background").spawn(work)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="takes an async function"):
                executor.queue("background").start_soon(print)  # type: ignore[arg-type]
            with pytest.raises(KeyError, match="no queue 'none'; there are 'foreground', 'background'"):
                executor.queue("none")
            coroutine = work()
            handle = executor.queue("background").spawn(work())
            with pytest.raises(cw.UsageError, match="another thread"):
                await trio.to_thread.run_sync(executor.queue("background").spawn, coroutine)
            await handle

            async def spawned() -> int:
                return 7

            def from_a_thread() -> JoinHandle[int]:
                return trio.from_thread.run_sync(executor.queue("background").spawn, spawned())

            assert await (await trio.to_thread.run_sync(from_a_thread)) == 7
        with pytest.raises(cw.UsageError, match="no executor"):
            current_executor()

    run(main)
    with pytest.raises(RuntimeError, match=r"trio\.run"):
        current_executor()


def test_a_scheduler_serves_one_running_executor() -> None:
    async def main() -> None:
        shared = [cw.Queue("a", scheduler=cw.LAS())]

        async def other() -> None:
            async with Executor(shared):
                pass

        async with Executor(shared):
            with pytest.raises(cw.ConfigurationError, match="works for another executor"):
                await trio.to_thread.run_sync(trio.run, other)
        await other()

    run(main)


def test_runs_in_two_threads_have_an_executor_each() -> None:
    async def main() -> int:
        async with Executor(declarations()) as executor:

            async def work() -> int:
                for _ in range(200):
                    await trio.lowlevel.checkpoint()
                return threading.get_ident()

            handles = [executor.queue(key).spawn(work()) for key in ("foreground", "background")]
            assert {await handle for handle in handles} == {threading.get_ident()}
            return executor.stats().polls

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(trio.to_thread.run_sync, trio.run, main)
            assert await main() >= 400

    run(both)
    from trio._core import _run

    assert not hasattr(_run, "list"), "the last executor leaves trio as it was"


def test_an_instrument_gates_all_of_a_run() -> None:
    async def main() -> str:
        executor = current_executor()
        queue = executor.current_queue()
        assert queue is not None
        with pytest.raises(cw.UsageError, match="lasts as long as trio runs"):
            await executor.run_until(trio.sleep(0))
        assert await executor.queue("background").spawn(value()) == 5
        with pytest.raises(LookupError):
            await executor.queue("background").spawn(fail())
        executor.queue("background").spawn(trio.sleep_forever())  # ends with the run
        return str(queue.key)

    async def value() -> int:
        await trio.lowlevel.checkpoint()
        return 5

    instrument = QueuesInstrument(declarations())
    for _ in range(2):
        assert run(main, instruments=[instrument]) == "foreground"
        assert instrument.executor.stats().tasks == 0
    assert instrument.executor.queue_stats()["foreground"].polls > 4


def test_yields() -> None:
    async def main() -> None:
        assert not should_yield()
        async with Executor(declarations()) as executor:

            async def computes() -> int:
                yields = calls = 0
                while yields < 3:  # the test ends after a while
                    calls += 1
                    yields += should_yield()
                    await yield_maybe()
                return calls

            assert await executor.queue("background").spawn(computes()) > 3, "not at each call"

            async def is_cancelled() -> None:
                while True:
                    await yield_maybe()

            handle = executor.queue("background").spawn(is_cancelled())
            await trio.sleep(0)
            handle.abort()
            assert isinstance(await handle.outcome(), cw.TaskCancelled)

    run(main)


def test_slow_steps_are_reported() -> None:
    async def main() -> None:
        reports: list[tuple[Any, str, int]] = []
        async with Executor(declarations()) as executor:
            executor.report_slow_polls(
                {"background": 0.001}, lambda key, task, ns: reports.append((key, task.name, ns))
            )

            async def slow() -> None:
                deadline = trio.current_time() + 0.02
                while trio.current_time() < deadline:
                    pass

            await executor.queue("background").spawn(slow())
            await executor.drain()
            stats = executor.queue_stats()["background"]
        assert [(key, name) for key, name, _ in reports] == [("background", slow.__qualname__)]
        assert reports[0][2] >= 1_000_000
        assert (stats.slow_polls, stats.slice_overruns) == (1, 1)

    run(main)
