"""Rule 2: nothing is cut in code whose plain objects are in between two states."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import clockworker as cw
from clockworker.executor import _guard_cy
from tests.conftest import Run, until
from tests.executor.slices import (
    ask,
    ask_with,
    compute_until,
    cuts,
    needs_slices,
    queues,
    refusals,
    rule,
    with_and_without,
)

pytestmark = [needs_slices, pytest.mark.usefixtures("by_hand")]

MODULE = """
from tests.executor.slices import ask
ask()
complete = True
"""


@with_and_without
def test_a_module_is_imported_whole(run: Run, on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut_while_imported.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[bool] = []

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                import cut_while_imported

                assert cut_while_imported.complete
                compute_until(lambda: seen)

            async def look() -> None:
                await until(lambda: "cut_while_imported" in sys.modules)
                import cut_while_imported

                seen.append(hasattr(cut_while_imported, "complete"))

            watching = executor.queue("foreground").spawn(look())
            await executor.queue("background").spawn(hog())
            await watching
            assert ("guarded" in refusals(executor)) == on

    try:
        with rule("guarded", on):
            run(body)
    finally:
        sys.modules.pop("cut_while_imported", None)
    if on:
        assert seen == [True]


@with_and_without
def test_asyncios_own_objects_are_seen_between_two_calls(run: Run, on: bool) -> None:
    """A queue of asyncio's counts what is unfinished after it has put it: nobody sees one without the other."""

    class Asking(asyncio.Queue[int]):
        def _put(self, item: int) -> None:
            super()._put(item)
            ask_with(on, lambda: not all(whole))

    whole: list[bool] = []

    async def body() -> None:
        async with cw.Executor(queues()) as executor:
            items = Asking()

            async def hog() -> None:
                for number in range(50):
                    seen = len(whole)
                    items.put_nowait(number)
                    compute_until(lambda seen=seen: len(whole) > seen)  # type: ignore[misc]

            async def look() -> None:
                while not handle.done():
                    whole.append(items._unfinished_tasks == items.qsize())  # type: ignore[attr-defined]
                    await asyncio.sleep(0)

            handle = executor.queue("background").spawn(hog())
            watching = executor.queue("foreground").spawn(look())
            await handle
            await watching

    with rule("guarded", on):
        run(body)
    assert all(whole) == on


class Finalized:
    """Is cut in its finalizer, and says whether anybody ran meanwhile."""

    inside = False

    def __init__(self, log: list[str], on: bool, seen: Callable[[], object]) -> None:
        self.log = log
        self.on = on
        self.seen = seen
        self.cycle: object = None

    def __del__(self) -> None:
        type(self).inside = True
        ask_with(self.on, self.seen)
        type(self).inside = False
        self.log.append("finalized")


@with_and_without
def test_a_finalizer_is_not_cut(run: Run, on: bool) -> None:
    log: list[str] = []
    seen: list[bool] = []

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                for _ in range(50):
                    had = len(seen)
                    Finalized(log, on, lambda: any(seen))
                    compute_until(lambda had=had: len(seen) > had)  # type: ignore[misc]

            async def look() -> None:
                while not handle.done():
                    seen.append(Finalized.inside)
                    await asyncio.sleep(0)

            handle = executor.queue("background").spawn(hog())
            watching = executor.queue("foreground").spawn(look())
            await handle
            await watching

    with rule("guarded", on):
        run(body)
    assert any(seen) != on
    assert log == ["finalized"] * 50


@with_and_without
def test_what_the_collector_calls_is_not_cut(run: Run, on: bool) -> None:
    """The callback of a weak reference has any name. Cut there, the collector would find itself at work ever after."""
    works: list[bool] = []

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            class Node:
                other: Any = None

            async def hog() -> None:
                one, other = Node(), Node()
                one.other, other.other = other, one
                reference = weakref.ref(one, lambda _: ask())
                del one, other
                gc.collect()
                assert reference() is None
                compute_until(lambda: works)

            async def look() -> None:
                class Garbage:
                    pass

                one = Garbage()
                one.itself = one  # type: ignore[attr-defined]
                reference = weakref.ref(one)
                del one
                gc.collect()
                works.append(reference() is None)

            handle = executor.queue("background").spawn(hog())
            await executor.queue("foreground").spawn(wait_for_cut(executor, look))
            await handle
            assert refusals(executor).get("gc", 0) == (1 if on else 0)

    gc.disable()
    try:
        with rule("gc", on):
            run(body)
    finally:
        gc.enable()
    assert works == [on]


async def wait_for_cut(executor: cw.Executor, then: Any) -> None:
    while not cuts(executor):
        await asyncio.sleep(0)
    await then()


@with_and_without
def test_what_the_executor_calls_is_not_cut(run: Run, on: bool) -> None:
    """A scheduler of the application's, in the middle of what its executor does."""
    pushing = 0
    most = 0

    class Asking(cw.RunnableFifo):
        def push(self, task: cw.ScheduledTask) -> None:
            nonlocal pushing, most
            pushing += 1
            most = max(most, pushing)
            ask()
            super().push(task)
            pushing -= 1

    async def body() -> None:
        declared = [cw.Queue("foreground", 8, scheduler=Asking()), queues()[1]]
        async with cw.Executor(declared) as executor:

            async def short() -> None:
                await asyncio.sleep(0)

            async def long() -> None:
                while not handle.done():
                    await asyncio.sleep(0)

            async def hog() -> None:
                for number in range(10_000):
                    if number >= 20 and (on or most > 1):  # EEVDF says who is next after a cut
                        break
                    executor.queue("foreground").spawn(short())
                    ask()

            handle = executor.queue("background").spawn(hog())
            executor.queue("foreground").spawn(long())
            await handle
            await executor.drain()
            assert ("executor" in refusals(executor)) == on

    with rule("executor", on):
        run(body)
    assert (most == 1) == on


def test_the_walk_ends_at_the_first_coroutine(run: Run) -> None:
    """What asyncio awaits is cut: only what asyncio itself computes is not."""

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                ask()

            async def main() -> None:
                await asyncio.wait_for(hog(), 60)
                async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                    group.create_task(hog())
                await asyncio.gather(hog(), hog())
                await asyncio.shield(hog())

            await executor.queue("background").spawn(main())
            assert cuts(executor) == 5
            assert refusals(executor) == {}

    run(body)


def test_a_boundary_of_ours(run: Run) -> None:
    names: dict[str, Any] = {"__name__": "clockworker.made.up"}
    exec(
        "def call(function):\n    ask()\n    return function()\n\ndef other(function):\n    return function()\n", names
    )
    names["ask"] = ask
    _guard_cy.calls_out(names["call"])

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog(name: str) -> None:
                names[name](lambda: ask())

            await executor.queue("background").spawn(hog("call"))
            assert (cuts(executor), refusals(executor)) == (1, {"guarded": 1})
            await executor.queue("background").spawn(hog("other"))
            assert (cuts(executor), refusals(executor)) == (1, {"guarded": 2})

    run(body)


def test_verdicts_are_of_code_in_its_module(run: Run) -> None:
    """Two functions with equal code, of which one is guarded."""
    source = compile("def call(ask):\n    ask()\n", "<same>", "exec")
    open_names: dict[str, Any] = {"__name__": "somebody"}
    guarded_names: dict[str, Any] = {"__name__": "asyncio.made_up"}
    exec(source, open_names)
    exec(compile("def call(ask):\n    ask()\n", "<same>", "exec"), guarded_names)
    assert open_names["call"].__code__ == guarded_names["call"].__code__

    async def body() -> None:
        async with cw.Executor(queues()) as executor:

            async def hog() -> None:
                for _ in range(3):
                    open_names["call"](ask)
                    guarded_names["call"](ask)

            await executor.queue("background").spawn(hog())
            assert (cuts(executor), refusals(executor)) == (3, {"guarded": 3})

    run(body)
