"""The seam: what it takes, what it lets pass, and how it leaves the loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

import clockworker as cw
from tests.conftest import Run, until

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


def queue_key() -> object:
    queue = cw.current_executor().current_queue()
    return None if queue is None else queue.key


async def report_queue() -> object:
    await asyncio.sleep(0)
    return queue_key()


# What passes


def test_callbacks_of_others_pass_through(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        seen: list[Any] = []
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")

        def remember(*args: Any) -> None:
            seen.append((args, variable.get()))

        context = contextvars.copy_context()
        context.run(variable.set, "inner")
        async with cw.Executor(QUEUES) as executor:
            for args in [(), (1,), (1, 2, 3)]:
                handle = loop.call_soon(remember, *args)
                assert isinstance(handle, asyncio.Handle) or hasattr(handle, "cancel")
            loop.call_soon(remember, "context", context=context)
            loop.call_soon(remember, "never").cancel()
            await until(lambda: len(seen) >= 4)
            assert executor.stats().polls == 0
        assert seen == [((), "outer"), ((1,), "outer"), ((1, 2, 3), "outer"), (("context",), "inner")]

    run(body)


def test_methods_of_tasks_are_no_steps(run: Run) -> None:
    """call_soon is given bound methods of member tasks that are not their steps."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with cw.Executor(QUEUES) as executor:
            handle = executor.queue("background").spawn(asyncio.Event().wait())
            await asyncio.sleep(0)
            called: list[Any] = []
            loop.call_soon(handle.task.set_name, "renamed")
            loop.call_soon(handle.task.add_done_callback, called.append)
            await until(lambda: handle.task.get_name() == "renamed")
            assert not handle.done()
            loop.call_soon(handle.task.cancel)
            with pytest.raises(cw.TaskCancelled, match="renamed was aborted"):
                await handle
            await until(lambda: called)
            assert called == [handle.task]

    run(body)


def test_a_call_from_another_thread_safely(run: Run) -> None:
    async def wait_for(future: asyncio.Future[str]) -> tuple[str, object]:
        return await future, queue_key()

    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with cw.Executor(QUEUES) as executor:
            future: asyncio.Future[str] = loop.create_future()
            handle = executor.queue("background").spawn(wait_for(future))
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "news"))
            thread.start()
            assert await handle == ("news", "background")
            thread.join()

    run(body)


def test_debug_mode_refuses_another_thread(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with cw.Executor(QUEUES) as executor:
            future: asyncio.Future[str] = loop.create_future()

            async def wait() -> str:
                return await future

            handle = executor.queue("background").spawn(wait())
            await until(lambda: future._callbacks)  # type: ignore[attr-defined]
            ((wakeup, context),) = future._callbacks  # type: ignore[attr-defined]

            def wake() -> None:
                with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                    loop.call_soon(wakeup, future, context=context)
                refused.append(True)

            refused: list[bool] = []
            await asyncio.to_thread(wake)
            assert refused
            future.set_result("right")
            assert await handle == "right"

    run(body, debug=True)


# Attaching, detaching


@pytest.mark.parametrize("fails", [False, True])
def test_detaching_leaves_the_loop_as_it_was(run: Run, fails: bool) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        before = dict(vars(loop))
        try:
            async with cw.Executor(QUEUES) as executor:
                assert "call_soon" in vars(loop)
                await executor.queue("background").spawn(asyncio.sleep(0))
                if fails:
                    raise LookupError("out of the body")
        except LookupError:
            assert fails
        assert "call_soon" not in vars(loop)
        assert vars(loop).keys() == before.keys()
        with pytest.raises(cw.UsageError):
            cw.current_executor()
        async with cw.Executor(QUEUES) as again:
            assert cw.current_executor() is again

    run(body)


def test_an_attribute_that_was_there_is_restored(run: Run) -> None:
    async def body() -> None:
        loop: Any = asyncio.get_running_loop()
        original, calls = loop.call_soon, []

        def counting(callback: Any, *args: Any, context: Any = None) -> Any:
            calls.append(callback)
            return original(callback, *args, context=context)

        loop.call_soon = counting
        async with cw.Executor(QUEUES) as executor:
            await executor.queue("background").spawn(asyncio.sleep(0))
        assert loop.call_soon is counting
        assert calls
        del loop.call_soon

    run(body)


def test_two_executors_on_one_loop(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as first:
            with pytest.raises(cw.UsageError, match="this loop has an executor already"):
                await cw.Executor(QUEUES).__aenter__()
            assert cw.current_executor() is first
            assert await first.queue("background").spawn(report_queue()) == "background"

    run(body)


def test_two_executors_on_two_loops(run: Run) -> None:
    async def body() -> object:
        async with cw.Executor(QUEUES) as executor:
            return await executor.queue("background").spawn(report_queue())

    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(run(body)))
    thread.start()
    seen.append(run(body))
    thread.join()
    assert seen == ["background", "background"]


def test_a_loop_that_cannot_take_the_seam() -> None:
    class Fixed(asyncio.SelectorEventLoop):
        @property
        def call_soon(self) -> Any:  # type: ignore[override]
            return super().call_soon

    with pytest.raises(cw.UsageError, match="does not let its call_soon be replaced"):
        cw.new_event_loop(QUEUES, loop_factory=Fixed)
