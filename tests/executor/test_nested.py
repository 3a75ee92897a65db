"""Groups of queues: each level against the fluid ideal of what that level has had; declarations, handles and statistics."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clockworker as cw
import clockworker.testing as testing
from bench._fluid import FluidModel
from clockworker.executor._eevdf_cy import Entity
from clockworker.executor._nested_cy import Level, Nested
from tests.conftest import Run

SLICE = 1_000_000


class Tree:
    """A random tree of groups and queues, and beside each level the ideal machine for it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.nested = Nested()
        self.queues: list[Entity] = []
        self.places: dict[
            int, list[tuple[str, int]]
        ] = {}  # of a queue: on each level, from its own up, who stands for it
        self.members: dict[
            str, list[tuple[int, Any]]
        ] = {}  # of a level: shares, and the queue's number or the group's name
        self.levels: dict[str, Level] = {}
        self._fill("top", 0)
        self.fluids = {name: FluidModel([share for share, _ in found], SLICE) for name, found in self.members.items()}
        self.longest = 0

    def _fill(self, name: str, depth: int) -> None:
        found: list[tuple[int, Any]] = []
        self.members[name] = found
        for number in range(self.chance.randint(1, 4)):
            share = self.chance.randint(1, 20)
            if depth < 3 and self.chance.random() < 0.4:
                inner = f"{name}/{number}"
                self.levels[inner] = self.nested.begin_group(inner, share, SLICE)
                found.append((share, inner))
                self._fill(inner, depth + 1)
                self.nested.end_group()
            else:
                found.append((share, len(self.queues)))
                self.queues.append(self.nested.add(len(self.queues), share, SLICE))
        for place, (_, member) in enumerate(found):
            inside = [member] if isinstance(member, int) else self._queues_in(member)
            for queue in inside:
                self.places.setdefault(queue, []).append((name, place))

    def _queues_in(self, name: str) -> list[int]:
        return [
            queue
            for _, member in self.members[name]
            for queue in ([member] if isinstance(member, int) else self._queues_in(member))
        ]

    def wake(self, queue: int) -> None:
        for name, place in self.places[queue]:
            if self.fluids[name].queues[place].active:
                break
            self.fluids[name].wake(place)
        self.nested.activate(self.queues[queue])

    def sleep(self, queue: int) -> None:
        for name, place in self.places[queue]:
            self.fluids[name].sleep(place)
            if any(member.active for member in self.fluids[name].queues):
                break
        self.nested.deactivate(self.queues[queue])

    def run(self) -> int:
        picked = self.nested.pick()
        assert picked is not None
        queue: int = picked.item  # type: ignore[assignment]
        assert self.queues[queue].active
        elapsed = self.chance.randint(1_000, 300_000)
        self.longest = max(self.longest, elapsed)
        foretold = self.nested.stays(picked, elapsed)
        self.nested.charge(picked, elapsed)
        assert (self.nested.pick() is picked) is foretold
        for name, place in self.places[queue]:
            self.fluids[name].run(place, elapsed)
        return queue

    def change(self) -> None:
        name = self.chance.choice(list(self.members))
        place = self.chance.randrange(len(self.members[name]))
        member = self.members[name][place][1]
        share = self.chance.randint(1, 20)
        if isinstance(member, int):
            self.nested.set_share(self.queues[member], share)
        else:
            self.nested.set_group_share(self.levels[member], share)
        self.fluids[name].set_share(place, share)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32).map(random.Random), st.booleans())
def test_each_level_is_within_its_bound(chance: random.Random, changes: bool) -> None:
    tree = Tree(chance)
    awake: list[int] = []
    asleep = list(range(len(tree.queues)))
    for _ in range(500):
        for queue in list(asleep):
            if chance.random() < 0.15:
                asleep.remove(queue)
                awake.append(queue)
                tree.wake(queue)
        assert tree.nested.total_share == sum(tree.queues[queue].share for queue in awake)
        assert tree.nested.asleep == len(asleep)
        if changes and chance.random() < 0.03:
            tree.change()
        if not awake:
            assert tree.nested.pick() is None
            continue
        queue = tree.run()
        if chance.random() < 0.1:
            awake.remove(queue)
            asleep.append(queue)
            tree.sleep(queue)
    for fluid in tree.fluids.values():
        fluid.end()
        for member in fluid.queues:
            assert member.most_owed_ns <= SLICE + tree.longest
            assert member.most_ahead_ns <= SLICE + tree.longest


def test_a_queue_that_sleeps_leaves_its_part_to_its_group() -> None:
    nested = Nested()
    alone = nested.add("alone", 1, SLICE)
    nested.begin_group("group", 1, SLICE)
    first, second = nested.add("first", 9, SLICE), nested.add("second", 1, SLICE)
    nested.end_group()

    def count(steps: int) -> dict[Any, int]:
        counts = {"alone": 0, "first": 0, "second": 0}
        for _ in range(steps):
            entity = nested.pick()
            assert entity is not None
            counts[entity.item] += 1  # type: ignore[index]
            nested.charge(entity, 100_000)
        return counts

    for entity in (alone, first, second):
        nested.activate(entity)
    counts = count(2_000)
    assert counts["alone"] == pytest.approx(1_000, abs=12)
    assert counts["second"] == pytest.approx(100, abs=12)
    nested.deactivate(first)
    assert count(200)["second"] == pytest.approx(100, abs=12)


def test_who_outranks_whom_is_asked_where_they_meet() -> None:
    nested = Nested()
    outside = nested.add("outside", 1, 10 * SLICE)
    group = nested.begin_group("group", 1, SLICE)
    first, second = nested.add("first", 1, 10 * SLICE), nested.add("second", 1, SLICE)
    nested.end_group()
    nested.activate(outside)
    assert nested.pick() is outside
    nested.activate(first)
    assert nested.outranks(first, outside)  # the group's slice is short, though that of the queue is long
    assert not nested.outranks(outside, first)
    nested.activate(second)
    assert nested.outranks(second, first)
    assert group.entity is not None


# Declarations


def test_an_executor_of_groups_in_groups(run: Run) -> None:
    async def body() -> None:
        declared = [
            cw.Queue("web", share=8),
            cw.QueueGroup(
                "tenants",
                share=2,
                queues=[
                    cw.Queue("a", share=3, scheduler=cw.LAS()),
                    cw.Queue("b"),
                    cw.QueueGroup("small", queues=[cw.Queue("c")]),
                ],
            ),
        ]
        async with cw.Executor(declared) as executor:
            assert [queue.key for queue in executor.queues()] == ["web", "a", "b", "c"]
            assert [group.key for group in executor.queue_groups()] == ["tenants", "small"]
            handles = [queue.spawn(asyncio.sleep(0, queue.key)) for queue in executor.queues() for _ in range(3)]
            assert [await handle for handle in handles] == [key for key in ("web", "a", "b", "c") for _ in range(3)]
            stats = executor.group_stats()
            assert stats["tenants"].queues == ("a", "b", "c")
            assert (stats["tenants"].outer, stats["small"].outer) == (None, "tenants")
            assert stats["tenants"].wanted == 0.2
            assert stats["small"].wanted == 0.2
            assert stats["tenants"].busy_ns == sum(executor.queue_stats()[key].busy_ns for key in "abc")
            assert stats["tenants"].polls >= 9
            busy = {key: queue.busy_ns for key, queue in executor.queue_stats().items()}
            assert stats["tenants"].got == pytest.approx(1 - busy["web"] / sum(busy.values()), abs=0.01)
            with pytest.raises(KeyError, match="no group of queues 'web'; there are 'tenants', 'small'"):
                executor.queue_group("web")
            group = executor.queue_group("tenants")
            assert "tenants" in repr(group)
            group.share = 5
            assert group.share == executor.group_stats()["tenants"].share == 5
            with pytest.raises(cw.ConfigurationError, match="share of group of queues 'tenants' is 0"):
                group.share = 0

    run(body)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: cw.QueueGroup([], queues=[cw.Queue("a")]), "not hashable"),
        (lambda: cw.QueueGroup("g"), "group of queues 'g' is empty"),
        (lambda: cw.QueueGroup("g", share=0, queues=[cw.Queue("a")]), "share of group of queues 'g' is 0"),
        (lambda: cw.QueueGroup("g", queues=cw.Queue("a")), "give a list"),
        (lambda: cw.QueueGroup("g", queues=3), "give a list"),
        (lambda: cw.QueueGroup("g", slice=-1, queues=[cw.Queue("a")]), "slice of group of queues 'g' is -1"),
        (lambda: cw.Executor([cw.QueueGroup("g", queues=["a"])]), "one is 'a'"),
        (
            lambda: cw.Executor([cw.Queue("a"), cw.QueueGroup("g", queues=[cw.Queue("a")])]),
            "two queues have the key 'a'",
        ),
        (
            lambda: cw.Executor(
                [cw.QueueGroup("g", queues=[cw.Queue("a")]), cw.QueueGroup("g", queues=[cw.Queue("b")])]
            ),
            "two groups of queues have the key 'g'",
        ),
    ],
)
def test_declarations_that_cannot_be(make: Any, wrong: str) -> None:
    with pytest.raises(cw.ConfigurationError, match=wrong):
        make()


def test_groups_are_so_deep() -> None:
    declared: Any = cw.Queue("q")
    for depth in range(9):
        declared = cw.QueueGroup(depth, queues=[declared])
    with pytest.raises(cw.ConfigurationError, match="they can be 8 deep"):
        cw.Executor([declared])


def test_parts_of_the_core_by_a_wound_clock() -> None:
    """And after a change of the group's share."""
    clock = testing.Clock(autojump=True)
    had: dict[str, int] = {"web": 0, "a": 0, "b": 0}

    async def work(name: str) -> None:
        while clock.now < 2:
            clock.jump(0.0004)
            if name in had:
                had[name] += 1
            await asyncio.sleep(0)

    async def main() -> None:
        executor = cw.current_executor()
        handles = [executor.queue(name).spawn(work(name)) for name in had]
        await asyncio.sleep(1)
        before = dict(had)
        executor.queue_group("tenants").share = 3
        for handle in handles:
            await handle
        after = {name: had[name] - before[name] for name in had}
        for counts, part in ((before, 1 / 2), (after, 3 / 4)):
            whole = sum(counts.values())
            assert (counts["a"] + counts["b"]) / whole == pytest.approx(part, abs=0.01)
            assert counts["a"] / (counts["a"] + counts["b"]) == pytest.approx(0.9, abs=0.01)

    group = cw.QueueGroup("tenants", queues=[cw.Queue("a", share=9), cw.Queue("b")])
    testing.run(main(), queues=[cw.Queue("main", share=100), cw.Queue("web"), group], clock=clock)


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_by_a_seed(seed: int) -> None:
    async def main() -> list[int]:
        queue = cw.current_executor().queue("a")
        return [await queue.spawn(asyncio.sleep(0, number)) for number in range(5)]

    group = cw.QueueGroup("g", queues=[cw.Queue("a"), cw.Queue("b", scheduler=cw.LAS())])
    assert testing.run(main(), queues=[cw.Queue("main"), group], seed=seed) == list(range(5))


def test_a_queue_that_is_due_sooner_stops_one_of_another_group(run: Run) -> None:
    """`should_yield`, by a wake-up while a step runs."""
    asked: list[bool] = []

    async def body() -> None:
        declared = [
            cw.QueueGroup("slow", queues=[cw.Queue("background")]),
            cw.QueueGroup("quick", share=8, queues=[cw.Queue("foreground", slice=0.0001)]),
        ]
        async with cw.Executor(declared, min_slice=1.0, driver_yield=1.0) as executor:
            gate = asyncio.Event()

            async def waits() -> None:
                await gate.wait()

            async def computes() -> None:
                asked.append(cw.should_yield())
                gate.set()
                asked.append(cw.should_yield())

            waiting = executor.queue("foreground").spawn(waits())
            await asyncio.sleep(0.01)
            await executor.queue("background").spawn(computes())
            await waiting

    run(body)
    assert asked == [False, True]


def test_who_has_queues_gets_no_levels_any_more(run: Run) -> None:
    """Their entities are on no level."""

    async def body() -> None:
        async with cw.Executor([cw.Queue("only")]) as executor:
            with pytest.raises(cw.UsageError, match="there are queues already"):
                executor._core.nest()
            assert await executor.queue("only").spawn(asyncio.sleep(0, 7)) == 7

    run(body)


def test_an_entity_on_no_level_is_refused() -> None:
    stranger = Entity("item", 1, 1_000_000, 0)
    for method in (Nested().activate, Nested().deactivate, Nested().lag_ns):
        with pytest.raises((AttributeError, TypeError)):
            method(stranger)
