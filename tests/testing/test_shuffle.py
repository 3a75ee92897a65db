"""Orders that a seed gives."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import clockworker as cw
from clockworker.testing import Shuffle, shuffled


def task(name: str, group: str | None = None) -> Any:
    """As much of one as a scheduler looks at: its name is where the task would be."""
    return cw.ScheduledTask(name, group, 1)  # type: ignore[arg-type]


def orders(names: str, seed: int) -> str:
    scheduler: Any = Shuffle(seed)
    for name in names:
        scheduler.push(task(name))
    return "".join(scheduler.pop().task for _ in names)


def test_all_come_once_in_every_order_and_the_same_seed_repeats_it() -> None:
    counts = Counter(orders("abc", seed) for seed in range(600))
    assert set(counts) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert min(counts.values()) > 50
    assert orders("abcdef", 3) == orders("abcdef", 3)


def test_a_policy_is_kept() -> None:
    scheduler: Any = Shuffle(1, cw.LAS())
    had, hungry = task("had", "had"), [task(name, name) for name in "abcd"]
    scheduler.observe(had, 1_000_000)
    scheduler.push(had)
    for each in hungry:
        scheduler.push(each)
    assert len(scheduler) == 5
    popped = [scheduler.pop().task for _ in range(5)]
    assert popped[-1] == "had"
    assert sorted(popped[:-1]) == list("abcd")
    assert len(scheduler) == 0


def test_equals_of_a_policy_are_shuffled() -> None:
    def order(seed: int) -> str:
        scheduler: Any = Shuffle(seed, cw.LAS())
        for name in "abc":
            scheduler.push(task(name, name))
        return "".join(scheduler.pop().task for _ in "abc")

    assert len({order(seed) for seed in range(100)}) == 6


def test_an_inner_scheduler_forgets_what_is_done() -> None:
    told: list[object] = []

    class Inner(cw.ArrivalFifo):
        def forget_task(self, task: cw.ScheduledTask) -> None:
            told.append(task)

        def forget_group(self, group: object) -> None:
            told.append(group)

    scheduler: Any = Shuffle(1, Inner())
    done = task("a", "group")
    scheduler.forget_task(done)
    scheduler.forget_group("group")
    assert told == [done, "group"]


def test_an_empty_one_has_nothing_to_give() -> None:
    with pytest.raises((IndexError, ValueError)):
        Shuffle(1).pop()


def test_on_any_loop(run: Any) -> None:
    """With real time, where a queue's tasks are shuffled all the same."""

    async def body() -> None:
        seen: list[int] = []

        async def work(number: int) -> None:
            seen.append(number)

        queues = [cw.Queue("a", 3, on_panic="catch"), cw.Queue("b")]
        async with cw.Executor(shuffled(queues, 5)) as executor:
            assert executor.queue("a").share == 3
            handles = [executor.queue("a").spawn(work(number)) for number in range(20)]
            for handle in handles:
                await handle
        assert sorted(seen) == list(range(20)) != seen

    run(body)


def test_a_bug_of_order_is_found_and_found_again() -> None:
    """Two tasks that each read, wait and write: the sum is wrong only if they overlap."""

    async def transfer() -> int:
        total = 0
        locked = False

        async def add(number: int) -> None:
            nonlocal total, locked
            while locked:
                await asyncio.sleep(0)
            # A lock that forgets to lock before it waits.
            before = total
            if number == 1:
                await asyncio.sleep(0)
            locked = True
            total = before + number
            locked = False

        await asyncio.gather(add(1), add(2))
        return total

    from clockworker.testing import run

    results = {seed: run(transfer(), seed=seed) for seed in range(20)}
    assert set(results.values()) == {1, 3}
    assert {seed: run(transfer(), seed=seed) for seed in range(20)} == results
