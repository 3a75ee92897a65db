"""Tasks are made with one dictionary of keywords for all, and in whatever context: each is as if it had been made by itself."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Coroutine
from typing import Any

import clockworker as cw
from tests.conftest import Run

QUEUES = [cw.Queue("foreground", 8), cw.Queue("background")]


async def named_as_its_function() -> str | None:
    task = asyncio.current_task()
    return task and task.get_name()


def test_each_task_has_its_own_name(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            queue = executor.queue("background")
            given = [None, None, "first", "first", "second", None, "first", "".join(["fir", "st"])]
            handles = [queue.spawn(named_as_its_function(), name=name) for name in given]
            expected = [name or "named_as_its_function" for name in given]
            assert [await handle for handle in handles] == expected
            assert [handle.task.get_name() for handle in handles] == expected

    run(body)


def test_each_task_has_a_context_of_its_own(run: Run) -> None:
    """Whether who spawns has variables set, is in the queue itself, or neither."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def change() -> tuple[str, object]:
        before = variable.get()
        variable.set("the child's")
        await asyncio.sleep(0)
        queue = cw.current_executor().current_queue()
        return before, queue and queue.key

    async def both(executor: cw.Executor) -> list[object]:
        seen: list[object] = []
        for value in ("unset", "set"):
            if value == "set":
                variable.set(value)
            handles = [executor.queue(key).spawn(change()) for key in ("background", "foreground") * 2]
            seen += [await handle for handle in handles]
            assert variable.get() == value
        return seen

    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            expected = [(value, key) for value in ("unset", "set") for key in ("background", "foreground") * 2]
            assert await executor.queue("background").spawn(both(executor)) == expected
            assert await both(executor) == expected

    run(body)


def test_a_task_that_a_finalizer_starts_meanwhile_has_its_own_name(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor(QUEUES) as executor:
            queue = executor.queue("background")
            started: dict[str, Any] = {}

            def start(name: str, coroutine: Coroutine[Any, Any, str | None]) -> None:
                started[name] = queue.spawn(coroutine, name=name)

            class Garbage:
                def __init__(self, name: str) -> None:
                    self.me = self
                    self.name = name

                def __del__(self) -> None:
                    start(self.name, named_as_its_function())

            threshold = gc.get_threshold()
            try:
                for allocations in range(1, 60):  # each time it is another one that makes the collector run
                    gc.collect()
                    Garbage(f"inner {allocations}")
                    coroutine = named_as_its_function()
                    gc.set_threshold(allocations, 1_000, 1_000)
                    start(f"outer {allocations}", coroutine)
                    gc.set_threshold(*threshold)
            finally:
                gc.set_threshold(*threshold)
            gc.collect()
            assert len(started) == 2 * 59
            for name, handle in started.items():
                assert await handle == name

    run(body)
