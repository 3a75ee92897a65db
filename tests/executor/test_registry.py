"""asyncio's set of all tasks while executors keep tasks of their own: all_tasks() names every task, and all is undone."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from asyncio import all_tasks
from typing import Any

import clockworker as cw
from tests.conftest import Run


def registry() -> Any:
    found = getattr(asyncio.tasks, "_scheduled_tasks", None)
    return asyncio.tasks._all_tasks if found is None else found  # type: ignore[attr-defined]


# From CPython 3.14 on the set is for tasks that are not the C Task's, which are in a list without weak references.
IS_OURS = "registry" not in cw.switched_off()
IN_A_SET = sys.version_info < (3, 14)


def test_all_tasks_names_every_task(run: Run) -> None:
    async def body() -> None:
        never = asyncio.Event()
        outside = asyncio.create_task(never.wait())
        async with cw.Executor([cw.Queue("first"), cw.Queue("second")]) as executor:
            spawned = [executor.queue(key).spawn(never.wait()).task for key in ("first", "second")]
            inherited: list[asyncio.Task[Any]] = []

            async def start() -> None:
                inherited.append(asyncio.create_task(never.wait()))
                await never.wait()

            spawned.append(executor.queue("first").spawn(start()).task)
            beside = asyncio.create_task(never.wait())
            while not inherited:
                await asyncio.sleep(0)
            me = asyncio.current_task()
            assert all_tasks() == {me, outside, *spawned, *inherited, beside}
            if IS_OURS:
                assert all(task in registry() for task in all_tasks())
                assert len(registry()) >= len(all_tasks())
            spawned[0].cancel()
            await asyncio.wait([spawned[0]])
            assert all_tasks() == {me, outside, *spawned[1:], *inherited, beside}
        assert all_tasks() == {me, outside, beside}
        for task in (outside, beside):
            task.cancel()

    run(body)


def test_tasks_that_are_made_in_a_queue_by_others_are_left_out_too(run: Run) -> None:
    async def body() -> None:
        never = asyncio.Event()

        async def start() -> list[asyncio.Task[Any]]:
            made = [asyncio.create_task(never.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            assert all(weakref.getweakrefcount(task) == 0 for task in made) is (IS_OURS or not IN_A_SET)
            assert set(made) < all_tasks()
            return made

        async with cw.Executor([cw.Queue("first")]) as executor:
            made = await executor.queue("first").spawn(start())
            assert set(made) < all_tasks()
            outside = asyncio.create_task(never.wait())
            assert weakref.getweakrefcount(outside) or not IN_A_SET
            made[0].cancel()
            await asyncio.wait(made[:1])
            assert all_tasks() == {asyncio.current_task(), outside, *made[1:]}
            outside.cancel()
        assert all_tasks() == {asyncio.current_task()}

    run(body)


def test_a_task_that_was_there_before_the_executor_is_in_the_set_once(run: Run) -> None:
    async def body() -> None:
        never = asyncio.Event()
        first = cw.Executor([cw.Queue("first")])
        async with first:
            task = first.queue("first").spawn(never.wait()).task
            await asyncio.sleep(0)
            first._core.detach()
            core = cw.Executor([cw.Queue("second")])._core
            core.attach(asyncio.get_running_loop())
            never.set()
            later = asyncio.create_task(asyncio.sleep(0))
            assert all_tasks() == {asyncio.current_task(), task, later}
            await later
            core.detach()
        await task

    run(body)


def test_the_set_is_as_it_was_when_the_last_executor_has_left(run: Run) -> None:
    kind = type(registry())

    async def body() -> None:
        others = asyncio.new_event_loop()
        executor = cw.Executor([cw.Queue("elsewhere")])
        async with cw.Executor([cw.Queue("first")]) as here:
            assert (type(registry()) is not kind) is IS_OURS
            executor._core.attach(others)
            assert await here.queue("first").spawn(asyncio.sleep(0, "ran")) == "ran"
        assert (type(registry()) is not kind) is IS_OURS
        executor._core.detach()
        others.close()

    run(body)
    assert type(registry()) is kind
    assert "add" not in vars(registry())


def test_tasks_that_are_pending_at_a_detach_are_asyncios_again(run: Run) -> None:
    async def body() -> None:
        done = asyncio.Event()
        async with cw.Executor([cw.Queue("first")]) as executor:
            task = executor.queue("first").spawn(done.wait()).task
            executor._core.detach()
            assert task in all_tasks()
        assert task in all_tasks()
        done.set()
        await task

    run(body)


def test_no_task_is_kept(run: Run) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("first")]) as executor:
            seen = []
            for start in (executor.queue("first").spawn, asyncio.create_task):
                for _ in range(3):
                    task: Any = start(asyncio.sleep(0))
                    await task
                    seen.append(weakref.ref(getattr(task, "task", task)))
            del task
            await asyncio.sleep(0)  # this step is a wake-up by the last of them, which the loop holds
            gc.collect()
            assert [reference() for reference in seen] == [None] * 6
        assert len(all_tasks()) == 1

    run(body)


def test_what_a_finalizer_starts_in_the_middle_of_a_spawn_is_a_task_like_others(run: Run) -> None:
    async def body() -> None:
        never = asyncio.Event()
        async with cw.Executor([cw.Queue("first")]) as executor:
            started: list[asyncio.Task[Any]] = []

            class Garbage:
                def __init__(self) -> None:
                    self.me = self

                def __del__(self) -> None:
                    started.append(executor.queue("first").spawn(never.wait()).task)
                    started.append(asyncio.create_task(never.wait()))

            threshold = gc.get_threshold()
            try:
                for allocations in range(1, 60):  # each time it is another one that makes the collector run
                    gc.collect()
                    Garbage()
                    gc.set_threshold(allocations, 1_000, 1_000)
                    started.append(executor.queue("first").spawn(never.wait()).task)
                    gc.set_threshold(*threshold)
            finally:
                gc.set_threshold(*threshold)
            gc.collect()
            assert len(started) == 3 * 59
            assert {asyncio.current_task(), *started} == all_tasks()
            for task in started:
                task.cancel()
            await asyncio.wait(started)

    run(body)
