"""FairGroups: against EEVDF by the book, against the fluid ideal, and with shares that change, fail and lie."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clockworker as cw
from bench._fluid import FluidModel
from clockworker.executor._schedulers_cy import ScheduledTask, set_owner
from tests.conftest import Run
from tests.executor.fair_model import SLICE_NS, UNIT_NS, Claim, FairModel
from tests.executor.test_schedulers import make_task, pop_all, push_all

SHARES = {"a": 4, "b": 2, "c": 1, "d": 1}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32).map(random.Random))
def test_against_the_model(chance: random.Random) -> None:
    scheduler = cw.FairGroups(SHARES)
    model = FairModel()
    claims: dict[Hashable, Claim] = {}
    lines: dict[Hashable, deque[ScheduledTask]] = {}
    groups: list[Hashable] = [*SHARES, None, None]
    idle = [make_task(number, groups[number % len(groups)]) for number in range(1, 13)]

    def account(task: ScheduledTask) -> Hashable:
        return task if task.group is None else task.group

    def push(task: ScheduledTask) -> None:
        scheduler.push(task)
        key = account(task)
        if key not in claims:
            claims[key] = model.add(key, SHARES.get(task.group, 1))
            lines[key] = deque()
        lines[key].append(task)
        if not claims[key].active:
            model.activate(claims[key])

    for _ in range(chance.randint(1, 120)):
        if idle and chance.random() < 0.4:
            push(idle.pop(chance.randrange(len(idle))))
        if len(scheduler) and chance.random() < 0.7:
            expected = model.pick()
            task = scheduler.pop()
            assert task is lines[expected.key].popleft()
            if chance.random() < 0.5:
                push(task)  # it has yielded
            else:
                idle.append(task)
            elapsed = UNIT_NS * chance.randint(0, 3)
            scheduler.observe(task, elapsed)
            model.charge(expected, elapsed)
            if not lines[expected.key]:
                model.deactivate(expected)
        assert len(scheduler) == sum(map(len, lines.values()))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1 << 32).map(random.Random))
def test_within_a_slice_and_a_step_of_the_ideal(chance: random.Random) -> None:
    """Groups of any shares, steps of any length, with sleep and with shares that change."""
    shares = {number: chance.randint(1, 100) for number in range(6)}
    scheduler = cw.FairGroups(shares)
    fluid = FluidModel(list(shares.values()), SLICE_NS)
    longest = 0
    asleep = [make_task(number + 1, number) for number in shares]
    for step in range(400):
        for task in list(asleep):
            if step == 0 or chance.random() < 0.1:
                asleep.remove(task)
                fluid.wake(task.group)  # type: ignore[arg-type]
                scheduler.push(task)
        if chance.random() < 0.02:
            number = chance.randrange(6)
            share = chance.randint(1, 100)
            scheduler.shares = {**scheduler.shares, number: share}
            fluid.set_share(number, share)
        if not len(scheduler):
            continue
        task = scheduler.pop()
        sleeps = chance.random() < 0.05
        if not sleeps:
            scheduler.push(task)
        elapsed = chance.randint(1_000, 300_000)
        longest = max(longest, elapsed)
        scheduler.observe(task, elapsed)
        fluid.run(task.group, elapsed)  # type: ignore[arg-type]
        if sleeps:
            fluid.sleep(task.group)  # type: ignore[arg-type]
            asleep.append(task)
    fluid.end()
    bound = SLICE_NS + longest
    assert max(queue.most_owed_ns for queue in fluid.queues) <= bound
    assert max(queue.most_ahead_ns for queue in fluid.queues) <= bound


def served(scheduler: cw.FairGroups, tasks: list[ScheduledTask], steps: int, elapsed: int = 100_000) -> dict[Any, int]:
    """How many steps each group has, if all are always runnable."""
    push_all(scheduler, [task for task in tasks if task.position == -1])
    counts = dict.fromkeys((task.group for task in tasks), 0)
    for _ in range(steps):
        task = scheduler.pop()
        counts[task.group] += 1
        scheduler.push(task)
        scheduler.observe(task, elapsed)
    return counts


def test_shares_by_a_mapping_and_by_a_function() -> None:
    for shares in ({"gold": 8}, lambda key: 8 if key == "gold" else None):
        counts = served(cw.FairGroups(shares), [make_task(1, "gold"), make_task(2, "tin"), make_task(3, "tin")], 900)
        assert counts["gold"] == pytest.approx(800, abs=12)


def test_a_group_of_many_has_no_more_than_a_group_of_one() -> None:
    counts = served(cw.FairGroups(), [make_task(1, "one"), *(make_task(n, "many") for n in range(2, 50))], 400)
    assert counts["one"] == pytest.approx(200, abs=12)


def test_who_comes_late_is_owed_nothing() -> None:
    """Under LAS it would have the queue to itself until it had had as much as the others."""
    scheduler = cw.FairGroups()
    served(scheduler, [make_task(1, "early")], 500)
    scheduler.push(make_task(2, "late"))
    counts = {"early": 0, "late": 0}
    for _ in range(100):
        task = scheduler.pop()
        counts[task.group] += 1  # type: ignore[index]
        scheduler.push(task)
        scheduler.observe(task, 100_000)
    assert counts["late"] == pytest.approx(50, abs=12)


def test_shares_that_change_in_place_hold_from_the_next_slice_on() -> None:
    shares = {"a": 1, "b": 1}
    scheduler = cw.FairGroups(shares)
    tasks = [make_task(1, "a"), make_task(2, "b")]
    push_all(scheduler, tasks)

    def count(steps: int) -> int:
        of_a = 0
        for _ in range(steps):
            task = scheduler.pop()
            of_a += task.group == "a"
            scheduler.push(task)
            scheduler.observe(task, 100_000)
        return of_a

    assert count(200) == pytest.approx(100, abs=12)
    shares["a"] = 9
    count(30)
    assert count(200) == pytest.approx(180, abs=12)


def test_shares_that_are_assigned_hold_at_once() -> None:
    scheduler = cw.FairGroups({"a": 1, "b": 10_000})
    push_all(scheduler, [make_task(1, "a"), make_task(2, "b")])
    for _ in range(50):  # a waits for seconds now
        task = scheduler.pop()
        scheduler.push(task)
        scheduler.observe(task, 1_000_000)
    scheduler.shares = {"a": 10_000, "b": 1}
    assert scheduler.shares == {"a": 10_000, "b": 1}
    order = []
    for _ in range(20):
        task = scheduler.pop()
        order.append(task.group)
        scheduler.push(task)
        scheduler.observe(task, 1_000_000)
    assert order.count("a") >= 18


WRONG: list[Any] = [0, -1, 10_001, 1.5, math.nan, math.inf, True, "8", [], 2**70]


@pytest.mark.parametrize("share", WRONG)
def test_a_wrong_share_is_refused_where_it_can_be_seen(share: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match=r"share of group 'a' is .* from 1 to 10,000"):
        cw.FairGroups({"a": share})
    scheduler = cw.FairGroups()
    with pytest.raises(cw.ConfigurationError, match="share of group"):
        scheduler.shares = {"a": share}


@pytest.mark.parametrize("shares", [3, "gold", [1]])
def test_what_has_no_shares_is_refused(shares: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match="give a mapping"):
        cw.FairGroups(shares)


class Complaints:
    """In the place of a core."""

    def __init__(self) -> None:
        self.heard: list[BaseException] = []

    def report(self, message: str, error: BaseException) -> None:
        self.heard.append(error)


@pytest.mark.parametrize("share", [*WRONG, RuntimeError("no")])
def test_a_share_that_turns_out_wrong_counts_as_one_and_is_said_once(share: Any) -> None:
    def shares(key: Hashable) -> Any:
        if isinstance(share, RuntimeError):
            raise share
        return share

    scheduler = cw.FairGroups(shares)
    owner = Complaints()
    set_owner(scheduler, owner)
    counts = served(scheduler, [make_task(1, "a"), make_task(2, "b")], 200, 1_000_000)
    assert counts["a"] == pytest.approx(100, abs=3)
    assert len(owner.heard) == 2  # one a group
    set_owner(scheduler, None)


def test_a_pop_that_is_never_observed_does_no_harm() -> None:
    scheduler = cw.FairGroups({"a": 3})
    tasks = [make_task(number, "ab"[number % 2]) for number in range(1, 9)]
    push_all(scheduler, tasks)
    assert sorted(pop_all(scheduler)) == list(range(1, 9))
    for task in tasks:
        scheduler.forget_task(task)
    push_all(scheduler, tasks)
    assert sorted(pop_all(scheduler)) == list(range(1, 9))
    for task in tasks:
        scheduler.observe(task, 2**62)
        scheduler.observe(task, -(2**62))
    assert len(scheduler) == 0


def test_groups_that_come_and_go_leave_nothing() -> None:
    scheduler = cw.FairGroups()
    for number in range(1, 300):
        task = make_task(number, f"group {number % 7}" if number % 2 else None)
        scheduler.push(task)
        assert scheduler.pop() is task
        scheduler.observe(task, 1_000)
        scheduler.forget_task(task)
        if task.group is not None:
            scheduler.forget_group(task.group)
    push_all(scheduler, [make_task(1, "x"), make_task(2, None)])
    assert pop_all(scheduler) == [1, 2]


# In an executor


def failing_executor(run: Run, make: Callable[[], cw.Scheduler], key: Hashable) -> list[str]:
    """What was reported, when tasks of such a group and others have run to their ends."""
    reported: list[str] = []

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
        async with cw.Executor([cw.Queue("q", scheduler=make())]) as executor:
            queue = executor.queue("q")
            handles = [queue.group("fine").spawn(asyncio.sleep(0, n)) for n in range(3)]
            handles += [queue.spawn(asyncio.sleep(0, n)) for n in range(3)]
            for n in range(3):
                with contextlib.suppress(RuntimeError):  # the caller's own, when the key fails at once
                    handles.append(queue.group(key).spawn(asyncio.sleep(0, n)))
            assert [await handle for handle in handles[:6]] == [0, 1, 2] * 2
            assert all([await handle in range(3) for handle in handles[6:]])

    run(body)
    return reported


class Moody:
    """A key whose hash fails after so many times."""

    def __init__(self, good: int) -> None:
        self.good = good

    def __hash__(self) -> int:
        self.good -= 1
        if self.good < 0:
            raise RuntimeError("not today")
        return 7

    def __eq__(self, other: object) -> bool:
        return self is other


MAKES: dict[str, Callable[[], cw.Scheduler]] = {
    "FairGroups": cw.FairGroups,
    "FairFifo": cw.FairFifo,
    "EDF": lambda: cw.EDF(within={"fine": 1.0}),
    "FairSRPT": cw.FairSRPT,
}


@pytest.mark.parametrize("good", range(3, 16))
@pytest.mark.parametrize("name", MAKES)
def test_keys_that_fail_lose_no_task(run: Run, name: str, good: int) -> None:
    for message in failing_executor(run, MAKES[name], Moody(good)):
        expected = ("of a group failed", "a RunnableFifo has taken its place", "it has no deadline")
        assert any(part in message for part in expected)


def test_shares_that_fail_in_an_executor_are_reported_and_no_task_is_lost(run: Run) -> None:
    reported = failing_executor(run, lambda: cw.FairGroups(lambda key: -3), "tenant")
    assert reported == ["the share of a group could not be found, and counts as 1"] * 2


def test_tenants_have_their_shares_of_an_executors_queue() -> None:
    """By a clock wound by hand, where a step takes what it says."""
    import clockworker.testing as testing

    clock = testing.Clock(autojump=True)
    had = {"gold": 0, "tin": 0}

    async def work(tenant: str) -> None:
        while clock.now < 1:
            clock.jump(0.0005)
            had[tenant] += 1
            await asyncio.sleep(0)

    async def main() -> None:
        executor = cw.current_executor()
        queue = executor.queue("tenants")
        handles = [queue.group("gold").spawn(work("gold"))] + [queue.group("tin").spawn(work("tin")) for _ in range(5)]
        for handle in handles:
            await handle

    testing.run(
        main(), queues=[cw.Queue("main"), cw.Queue("tenants", scheduler=cw.FairGroups({"gold": 3}))], clock=clock
    )
    assert had["gold"] / sum(had.values()) == pytest.approx(0.75, abs=0.01)
