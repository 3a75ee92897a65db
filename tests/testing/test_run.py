"""Runs that a seed repeats."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import clockworker as cw
from clockworker.testing import Clock, new_event_loop, run

QUEUES = [cw.Queue("a", 2), cw.Queue("b")]


async def order() -> str:
    """Six tasks of three steps in three queues, and who was first."""
    seen: list[str] = []

    async def work(name: str) -> None:
        for _ in range(3):
            seen.append(name)
            await asyncio.sleep(0)

    queues = cw.current_executor().queues()
    handles = [queues[number % len(queues)].spawn(work(str(number))) for number in range(6)]
    for handle in handles:
        await handle
    return "".join(seen)


async def children() -> str:
    seen: list[str] = []

    async def work(name: str) -> None:
        seen.append(name)

    async with asyncio.TaskGroup() as group:
        for name in "abcdef":
            group.create_task(work(name))
    return "".join(seen)


def test_a_seed_makes_a_run_again_and_another_makes_another() -> None:
    assert [run(order(), queues=list_of_queues(), seed=7) for _ in range(5)] == [
        run(order(), queues=list_of_queues(), seed=7)
    ] * 5
    assert len({run(order(), queues=list_of_queues(), seed=seed) for seed in range(20)}) > 15


def list_of_queues() -> list[cw.Queue]:
    return [*QUEUES, cw.Queue("las", scheduler=cw.LAS())]


def test_compiled_or_not_a_seed_means_the_same() -> None:
    assert run(order(), queues=list_of_queues(), seed=1) == "414425223000133515"


def test_without_a_seed_it_is_as_in_production_and_the_same_each_time() -> None:
    assert {run(children()) for _ in range(5)} == {"abcdef"}
    assert len({run(order(), queues=list_of_queues()) for _ in range(5)}) == 1


def test_every_order_comes() -> None:
    """Of a task's own children, whatever it starts them by."""
    first = Counter(run(children(), seed=seed)[0] for seed in range(100))
    assert set(first) == set("abcdef")


def test_queues_take_turns_as_the_seed_says() -> None:
    async def turns() -> str:
        seen: list[str] = []

        async def work(name: str) -> None:
            for _ in range(30):
                seen.append(name)
                await asyncio.sleep(0)

        executor = cw.current_executor()
        handles = [executor.queue(name).spawn(work(name)) for name in "ab"]
        for handle in handles:
            await handle
        return "".join(seen)

    runs = {run(turns(), queues=QUEUES, seed=seed) for seed in range(10)}
    assert len(runs) == 10  # one task a queue: nothing else could differ


def test_what_a_run_raises_has_its_seed() -> None:
    async def fails() -> None:
        raise LookupError("nothing here")

    with pytest.raises(LookupError) as caught:
        run(fails(), seed=1234)
    assert caught.value.__notes__ == ["clockworker.testing: seed=1234"]
    with pytest.raises(LookupError) as caught:
        run(fails())
    assert not hasattr(caught.value, "__notes__")


def test_a_panic_ends_the_run() -> None:
    async def body() -> None:
        async def fails() -> None:
            raise LookupError("nothing here")

        cw.current_executor().queue("b").spawn(fails())
        await asyncio.sleep(100)
        pytest.fail("it has gone on")

    with pytest.raises(LookupError, match="nothing here"):
        run(body(), queues=QUEUES)


def test_a_loop_for_whoever_runs_tests_otherwise() -> None:
    clock = Clock(autojump=True)

    async def body() -> str:
        assert cw.current_executor().current_queue().key == "test"  # type: ignore[union-attr]
        await asyncio.sleep(3)
        return await children()

    def once(seed: int | None) -> str:
        with asyncio.Runner(loop_factory=lambda: new_event_loop(clock=clock, seed=seed)) as runner:
            return runner.run(body())

    assert once(5) == once(5) != once(None) == "abcdef"
    assert clock.now == 9


def test_a_body_that_cannot_be_run_is_not_left_unawaited() -> None:
    for wrong in ({"seed": -1}, {"seed": "7"}, {"min_slice": -1}):
        with pytest.raises(cw.ConfigurationError, match=f"{next(iter(wrong))} is "):
            run(children(), **wrong)  # type: ignore[arg-type]
