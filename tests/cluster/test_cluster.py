"""What a shard makes of what its supervisor tells: which calls begin, and when services hear of what moves."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable

import pytest

import clockworker as cw
from clockworker.cluster import _cluster
from clockworker.cluster._cluster import Cluster
from clockworker.cluster._view import View
from clockworker.cluster._word import Word, boot_time, create_word, take_word
from tests.conftest import Run

PARTITIONS = 16
MINE = 77  # our incarnation
CONFIRM_S = 4.0


class FakeWord:
    valid = True
    epoch: int | None = None  # None: any

    def is_valid(self, epoch: int) -> bool:
        return self.valid

    def is_of(self, epoch: int) -> bool:
        return self.epoch is None or self.epoch == epoch


class Told:
    """A cluster of a and b, as a shard of a hears of it. Partitions of a: those that `owned` names; shard 0 of two has the even
    ones."""

    def __init__(self, shard: int = 0) -> None:
        self.word = FakeWord()
        self.cluster = Cluster("a", shard, CONFIRM_S)
        self.cluster.take_word(self.word)  # type: ignore[arg-type]
        self.moves: list[tuple[set[int], set[int], int]] = []

    def view(
        self, epoch: int, owned: Iterable[int], moved: Iterable[int] = (), *, settled: bool = True, joined: bool = True
    ) -> None:
        view = View(PARTITIONS).with_node("b", 1, 5, 0.0)  # slot 1
        if joined:
            view = view.with_node("a", 2, MINE, 0.0)  # slot 2
        owned = {*owned}
        owners = array("I", [2 if partition in owned else 1 for partition in range(PARTITIONS)])
        self.cluster.take_view(
            epoch,
            view.encode(),
            owners.tobytes(),
            array("I", moved).tobytes(),
            incarnation=MINE,
            settled=settled,
        )

    async def moved(self, gained: frozenset[int], lost: frozenset[int], epoch: int) -> None:
        self.moves.append(({*gained}, {*lost}, epoch))

    def served(self) -> set[int]:
        return {partition for partition in range(PARTITIONS) if self.cluster.refusal(partition) is None}


async def settle_down() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_only_what_is_ours_begins_and_only_while_the_word_says_so() -> None:
    told = Told()
    assert told.cluster.owns("k") is False
    with pytest.raises(cw.NodeIsolated, match="has not joined the cluster yet"):
        told.cluster.partition("k")
    told.view(1, [0, 1, 2, 3])
    assert told.served() == {0, 2}  # the odd ones are shard 1's
    assert isinstance(told.cluster.refusal(1), cw.NotOwner)
    assert isinstance(told.cluster.refusal(4), cw.NotOwner)
    told.word.valid = False
    assert isinstance(told.cluster.refusal(0), cw.NodeIsolated)
    assert isinstance(told.cluster.refusal(4), cw.NotOwner)


def test_a_new_view_that_is_not_confirmed_yet_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not cut off has to notice nothing of it."""
    now = 100.0
    monkeypatch.setattr(_cluster, "boot_time", lambda: now)
    told = Told()
    told.view(1, [0, 2])
    told.word.valid = False
    assert isinstance(told.cluster.refusal(0), cw.NodeIsolated)
    told.word.epoch = 2  # the supervisor has read it already
    assert isinstance(told.cluster.refusal(0), cw.NotOwner)
    told.view(2, [0, 2])
    assert isinstance(told.cluster.refusal(0), cw.NotOwner)
    told.word.valid = True
    assert told.cluster.refusal(0) is None
    told.word.valid = False
    now += CONFIRM_S
    assert isinstance(told.cluster.refusal(0), cw.NodeIsolated)


def test_places() -> None:
    told = Told()
    told.view(1, [0, 1])
    owners = {}
    for number in range(200):
        owner = told.cluster.owner(number << 24)
        owners[owner.partition] = int(owner)
    assert owners[0] == 0
    assert owners[1] == 1
    assert owners[2] == 1024
    assert told.cluster.nodes["a"].slot == told.cluster.slot == 2


def test_who_is_not_in_the_view_serves_nothing_and_knows_the_others() -> None:
    told = Told()
    told.view(1, [], joined=False)
    assert told.served() == set()
    assert told.cluster.slot == 0
    assert told.cluster.owner(0) == 1024


def test_what_is_gained_waits_for_the_view_to_be_settled() -> None:
    told = Told()
    told.view(1, [0, 2])
    told.view(2, [0, 2, 4, 6], moved=[4, 6], settled=False)
    assert told.served() == {0, 2}
    assert "not served yet" in str(told.cluster.refusal(4))
    told.cluster.settle(1)  # another view's
    assert told.served() == {0, 2}
    told.cluster.settle(2)
    assert told.served() == {0, 2, 4, 6}


def test_services_hear_of_it_before_it_is_served(run: Run) -> None:
    async def body() -> None:
        told, go_on = Told(), asyncio.Event()

        async def moved(gained: frozenset[int], lost: frozenset[int], epoch: int) -> None:
            await told.moved(gained, lost, epoch)
            await go_on.wait()

        await told.cluster.add_hook(moved)
        told.view(1, [0, 2])
        await settle_down()
        assert told.moves == [({0, 2}, set(), 1)]
        assert told.served() == set()
        go_on.set()
        await settle_down()
        assert told.served() == {0, 2}
        told.view(2, [2, 4], moved=[4], settled=False)
        assert told.served() == {2}
        await settle_down()
        assert told.moves[1:] == [(set(), {0}, 2)]
        told.cluster.settle(2)
        await settle_down()
        assert told.moves[2:] == [({4}, set(), 2)]
        assert told.served() == {2, 4}

    run(body)


def test_what_is_lost_and_gained_again_is_heard_of_both_ways(run: Run) -> None:
    """Another had it meanwhile: what the service knows of it is old."""

    async def body() -> None:
        told = Told()
        await told.cluster.add_hook(told.moved)
        told.view(1, [0, 2])
        await settle_down()
        told.view(2, [2])
        told.view(3, [0, 2], moved=[0])  # before anybody has heard of the second
        assert told.served() == {2}
        await settle_down()
        assert told.moves[1:] == [({0}, {0}, 3)]
        assert told.served() == {0, 2}

    run(body)


def test_of_views_that_were_missed_nobody_knows_what_they_moved(run: Run) -> None:
    async def body() -> None:
        told = Told()
        await told.cluster.add_hook(told.moved)
        told.view(1, [0, 2])
        await settle_down()
        told.view(4, [0, 2])
        assert told.served() == set()
        await settle_down()
        assert told.moves[1:] == [({0, 2}, {0, 2}, 4)]
        assert told.served() == {0, 2}

    run(body)


def test_what_moves_while_a_service_hears_of_something_else(run: Run) -> None:
    async def body() -> None:
        told, go_on = Told(), asyncio.Event()

        async def moved(gained: frozenset[int], lost: frozenset[int], epoch: int) -> None:
            await told.moved(gained, lost, epoch)
            await go_on.wait()

        await told.cluster.add_hook(moved)
        told.view(1, [0, 2])
        await settle_down()
        told.view(2, [2])
        told.view(3, [0, 2, 4], moved=[0, 4])
        go_on.set()
        await settle_down()
        assert told.moves == [({0, 2}, set(), 1), ({0, 4}, {0}, 3)]
        assert told.served() == {0, 2, 4}

    run(body)


def test_a_hook_that_raises_is_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cluster, "RETRY_S", 0.0)

    async def body() -> None:
        told, tries = Told(), 0

        async def moved(gained: frozenset[int], lost: frozenset[int], epoch: int) -> None:
            nonlocal tries
            tries += 1
            assert told.served() == set()
            if tries < 3:
                raise OSError("no store")

        await told.cluster.add_hook(moved)
        told.view(1, [0])
        await settle_down()
        assert tries == 3
        assert told.served() == {0}

    run(body)


def test_a_service_that_starts_later_hears_of_what_is_served(run: Run) -> None:
    async def body() -> None:
        told = Told()
        told.view(1, [0, 2])
        await told.cluster.add_hook(told.moved)
        assert told.moves == [({0, 2}, set(), 1)]
        with pytest.raises(cw.UsageError, match="give `async def partitions_moved"):
            await told.cluster.add_hook(3)  # type: ignore[arg-type]

    run(body)


def test_changes_are_the_views(run: Run) -> None:
    async def body() -> None:
        told = Told()
        seen: list[tuple[int, set[str]]] = []

        async def watch() -> None:
            async for view in told.cluster.changes():
                seen.append((view.epoch, {*view.nodes}))  # noqa: PERF401  # it is looked at meanwhile

        watching = asyncio.create_task(watch())
        await settle_down()
        told.view(1, [], joined=False)
        await settle_down()
        told.view(2, [0])
        told.view(3, [0])  # of two at once the last
        await settle_down()
        assert seen == [(1, {"b"}), (3, {"a", "b"})]
        watching.cancel()

    run(body)


def test_the_word() -> None:
    descriptor = create_word()
    word, reader = Word(descriptor, writable=True), take_word(descriptor)
    assert not reader.is_valid(0)
    word.write(7, boot_time() + 60)
    assert reader.is_valid(7)
    assert not reader.is_valid(6)
    assert reader.is_of(7)
    assert not reader.is_of(6)
    assert not reader.is_valid(8)
    word.write(7, boot_time() - 0.001)
    assert not reader.is_valid(7)
    word.write(2**40 + 5, boot_time() + 60)
    assert reader.is_valid(2**40 + 5)
    word.write(8, 0.0)
    assert not reader.is_valid(8)
    with pytest.raises(TypeError):
        reader._words[0] = 1
