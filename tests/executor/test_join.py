from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, until

QUEUES = [cw.Queue("q", on_panic="catch"), cw.Queue("other")]


async def fail() -> None:
    await asyncio.sleep(0)
    raise LookupError("lost")


async def forever() -> None:
    await asyncio.Event().wait()


def test_the_value_as_often_as_asked(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(asyncio.sleep(0, 42))
            assert not handle.done()
            assert await handle == 42
            assert await handle == 42
            assert handle.done()
            assert await handle.outcome() == cw.Ok(42)

    run(body)


@pytest.mark.parametrize("value", [None, 7, (1, 2), (), ValueError("a value"), StopIteration(3)])
def test_whatever_the_value_is_it_comes_as_it_is(run: Run, value: object) -> None:
    async def work() -> object:
        return value

    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            handle = executor.queue("first").spawn(work())
            assert await handle is value
            with pytest.raises(StopIteration) as stopped:
                next(handle.__await__())
            assert stopped.value.value is value
            assert await handle is value

    run(body)


def test_several_waiters_inside_and_outside(run: Run) -> None:
    async def wait_for(handle: cw.JoinHandle[str]) -> str:
        return await handle

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            gate = asyncio.Event()

            async def work() -> str:
                await gate.wait()
                return "done"

            handle = executor.queue("q").spawn(work())
            inside = [executor.queue(key).spawn(wait_for(handle)) for key in ("q", "other")]
            outside = [asyncio.create_task(wait_for(handle)) for _ in range(2)]
            await asyncio.sleep(0)
            gate.set()
            assert await asyncio.gather(*outside) == ["done", "done"]
            assert [await waiter for waiter in inside] == ["done", "done"]

    run(body)


def test_the_exception_of_the_task_itself(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(fail())
            for _ in range(2):
                with pytest.raises(LookupError, match="lost"):
                    await handle

    run(body)


def test_outcomes_match(run: Run) -> None:
    def describe(outcome: cw.Ok[Any] | cw.TaskPanicked | cw.TaskCancelled) -> str:
        match outcome:
            case cw.Ok(value):
                return f"ok {value}"
            case cw.TaskPanicked(LookupError() as error):
                return f"panicked {error}"
            case cw.TaskCancelled():
                return "cancelled"
            case _:
                return "?"

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            queue = executor.queue("q")
            assert describe(await queue.spawn(asyncio.sleep(0, 1)).outcome()) == "ok 1"
            assert describe(await queue.spawn(fail()).outcome()) == "panicked lost"
            handle = queue.spawn(forever())
            handle.abort()
            assert describe(await handle.outcome()) == "cancelled"
            assert describe(await handle.outcome()) == "cancelled"

    run(body)


def test_outcomes_are_join_errors() -> None:
    assert issubclass(cw.TaskCancelled, cw.JoinError)
    assert issubclass(cw.TaskPanicked, cw.JoinError)
    assert not issubclass(cw.TaskCancelled, asyncio.CancelledError)


def test_abort_before_the_first_step(run: Run) -> None:
    async def body() -> None:
        started: list[bool] = []

        async def work() -> None:
            started.append(True)

        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(work(), name="early")
            assert handle.abort()
            with pytest.raises(cw.TaskCancelled, match="early was aborted"):
                await handle
            assert not started
            assert executor.stats().panics == 0

    run(body)


def test_abort_while_suspended_lets_it_clean_up(run: Run) -> None:
    async def body() -> None:
        steps: list[str] = []

        async def work() -> None:
            try:
                steps.append("started")
                await forever()
            finally:
                await asyncio.sleep(0)
                steps.append("cleaned")

        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(work())
            await until(lambda: steps)
            assert handle.abort()
            with pytest.raises(cw.TaskCancelled):
                await handle
            assert steps == ["started", "cleaned"]

    run(body)


def test_abort_while_queued(run: Run) -> None:
    """Its step is in the scheduler already: it runs, and finds itself cancelled."""

    async def body() -> None:
        async def spin() -> None:
            while True:
                await asyncio.sleep(0)

        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(spin())
            await until(lambda: executor.stats().polls > 3)
            assert executor.stats().runnable == 1
            assert handle.abort()
            with pytest.raises(cw.TaskCancelled):
                await handle
            assert executor.stats().tasks == 0

    run(body)


def test_abort_after_the_end_has_no_effect(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(asyncio.sleep(0, 1))
            await handle
            assert not handle.abort()
            assert await handle == 1

    run(body)


def test_a_task_may_abort_itself(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            handles: list[cw.JoinHandle[None]] = []

            async def work() -> None:
                handles[0].abort()
                await asyncio.sleep(0)

            handles.append(executor.queue("q").spawn(work()))
            with pytest.raises(cw.TaskCancelled):
                await handles[0]

    run(body)


def test_abort_from_another_thread_is_refused(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(forever())
            errors: list[BaseException] = []

            def abort() -> None:
                try:
                    handle.abort()
                except BaseException as error:
                    errors.append(error)

            thread = threading.Thread(target=abort)
            thread.start()
            await until(lambda: errors)
            thread.join()
            assert isinstance(errors[0], cw.UsageError)
            assert "call_soon_threadsafe" in str(errors[0])
            assert not handle.done()

    run(body)


def test_cancelling_a_waiter_leaves_the_task_alone(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            gate = asyncio.Event()

            async def work() -> str:
                await gate.wait()
                return "done"

            handle = executor.queue("q").spawn(work())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await handle
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await handle.outcome()
            assert not handle.done()
            gate.set()
            assert await handle == "done"

    run(body)


def test_a_dropped_handle_leaves_the_task_running(run: Run) -> None:
    async def body() -> None:
        done: list[int] = []

        async def work() -> None:
            await asyncio.sleep(0)
            done.append(1)

        async with cw.Executor(QUEUES) as executor:
            executor.queue("q").spawn(work())
            await executor.drain()
            assert done == [1]

    run(body)


def test_the_task_is_genuine_and_named(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("q").spawn(asyncio.sleep(0), name="sleeper")
            assert isinstance(handle.task, asyncio.Task)
            assert handle.task in asyncio.all_tasks()
            assert "sleeper" in repr(handle)
            await handle

    run(body)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_task_cannot_await_itself(run: Run, quiet: bool) -> None:
    async def body() -> None:
        handles: list[cw.JoinHandle[None]] = []

        async def itself() -> None:
            await asyncio.sleep(0)
            await (handles[0].outcome() if quiet else handles[0])

        async with cw.Executor(QUEUES, on_panic="catch") as executor:
            handles.append(executor.queue("q").spawn(itself()))
            with pytest.raises(RuntimeError, match="cannot await on itself"):
                await handles[0]

    run(body)


def test_other_threads_are_told_what_to_do_instead(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            queue = executor.queue("q")
            handle = queue.spawn(forever())
            group = queue.group("g")
            share = queue.share

            async def waits() -> None:
                await handle

            async def of_the_executor(what: str) -> None:
                await getattr(executor, what)()

            calls: dict[str, Callable[[], object]] = {
                "queue.spawn": lambda: queue.spawn(asyncio.sleep(0)),
                "queue.spawn of a group": lambda: group.spawn(asyncio.sleep(0)),
                "handle.abort": handle.abort,
                "switch_to": queue.switch_to,
                "setting the share": lambda: setattr(queue, "share", 5),
                "await handle": lambda: asyncio.run(waits()),
                "outcome": lambda: asyncio.run(waits()),
                "drain()": lambda: asyncio.run(of_the_executor("drain")),
                "close()": lambda: asyncio.run(of_the_executor("close")),
                "async with": lambda: asyncio.run(of_the_executor("__aenter__")),
            }
            for what, call in calls.items():
                with pytest.raises(cw.UsageError) as refused:
                    await asyncio.to_thread(call)
                if "(" not in what and " with" not in what:
                    assert "loop.call_soon_threadsafe" in str(refused.value), what
            assert await asyncio.to_thread(executor.current_queue) is None
            assert len(await asyncio.to_thread(executor.queue_stats)) == len(executor.queues())
            stats = executor.stats()
            assert (stats.tasks, stats.spawned, queue.share) == (1, 1, share)

    run(body)


def test_a_loop_may_run_in_another_thread_than_it_was_made_in(run: Run, loop_factory: Any) -> None:
    def once(loop: asyncio.AbstractEventLoop) -> int:
        async def main() -> int:
            queue = cw.current_executor().queue("q")
            handle = queue.spawn(asyncio.sleep(0.001, 3))
            queue.spawn(forever()).abort()
            queue.share = 2
            return await handle

        return loop.run_until_complete(main())

    loop = cw.new_event_loop(QUEUES, loop_factory=loop_factory)
    try:
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            for thread in (one, other, one):
                assert thread.submit(once, loop).result(30) == 3
        assert once(loop) == 3
    finally:
        loop.close()
