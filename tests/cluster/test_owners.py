"""No two nodes own a partition at once: the membership itself, with the fence, in simulated time.

Clocks run at rates that differ by just under a fifth; messages are delayed and lost, links are cut one way or both; supervisors
stand still, and their shards do not; nodes are killed and come back; the store answers late, not at all, and with what it had
before, and writes that were given up are applied much later. What is checked in each step is what a shard would do: by its last
table and the word, whether a keyed call would begin.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from clockworker.cluster import _fence, _membership
from clockworker.cluster._membership import Membership
from clockworker.cluster._wire import Entry, WireError
from clockworker.shards.config._cluster import ClusterConfig
from clockworker.shards.protocol._messages import NodesSilent, ViewChanged, ViewSettled

STEP_S = 0.1
PARTITIONS = 16
TIMEOUT = 2.0
NAMES = ["n1", "n2", "n3", "n4"]


class SharedWord:
    epoch, until = 0, 0.0

    def write(self, epoch: int, until: float) -> None:
        self.epoch, self.until = epoch, until


class Store:
    """The bucket: some requests fail, some after they were carried out, some long before they are."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.entry: Entry | None = None
        self.before: Entry | None = None
        self.late: list[tuple[float, bytes, int]] = []  # to be written: when, what, last
        self.now = 0.0
        self.trouble = 0.0
        self.writes = 0

    async def get(self, key: str) -> Entry | None:
        if self.chance.random() < self.trouble:
            raise WireError("no leader")
        return self.before if self.chance.random() < self.trouble else self.entry

    async def update(self, key: str, value: bytes, last: int) -> int | None:
        if self.chance.random() < self.trouble:
            self.late.append((self.now + self.chance.uniform(0, 4 * TIMEOUT), value, last))
            raise WireError("no answer")
        revision = self._write(value, last)
        if revision is not None and self.chance.random() < self.trouble:
            raise WireError("the answer was lost")
        return revision

    def _write(self, value: bytes, last: int) -> int | None:
        if last != (0 if self.entry is None else self.entry.revision):
            return None
        self.before, self.entry = self.entry, Entry(value, last + 1)
        self.writes += 1
        return last + 1

    def wipe(self) -> None:
        """It is lost, as with a disk."""
        self.entry = self.before = None
        self.late.clear()

    def tick(self, now: float) -> None:
        self.now = now
        for each in [each for each in self.late if each[0] <= now]:
            self.late.remove(each)
            self._write(*each[1:])


class Machine:
    """One node: a supervisor, which may stand still, and a shard, which does not."""

    def __init__(self, world: World, name: str, rate: float, start: float, node_timeout: float) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.start = start
        self.word = SharedWord()
        self.table: ViewChanged | None = None
        self.served: set[int] = set()
        self.stopped_until = 0.0
        self.next_beat = self.next_look = 0.0
        self.refusal = ""
        config = ClusterConfig(url=("memory",), node=name, name="t", node_timeout=node_timeout, partitions=PARTITIONS)
        self.membership = Membership(config, 1, self._none, self.word, self, self.clock)  # type: ignore[arg-type]
        self.membership._wire = self  # type: ignore[assignment]
        self.membership.ready()

    def _none(self) -> Any:
        raise AssertionError

    def clock(self) -> float:
        return self.start + self.world.now * self.rate

    def publish(self, subject: str, body: bytes) -> bool:
        self.world.send(self.name, subject, body)
        return True

    def tell(self, message: ViewChanged | ViewSettled | NodesSilent) -> None:
        match message:
            case ViewChanged():
                self.table = message
                slot = self.membership.view.nodes[self.name].slot if self.membership.is_in_view() else 0  # type: ignore[union-attr]
                owned = {p for p, owner in enumerate(array("I", message.owners)) if slot and owner == slot}
                self.served = owned if message.settled else owned - set(array("I", message.moved))
            case ViewSettled(epoch):
                if self.table is not None and epoch == self.table.epoch:
                    self.tell(msgspec.structs.replace(self.table, settled=True))

    def refused(self, reason: str) -> None:
        self.refusal = reason

    def serves(self) -> set[int]:
        """What would begin at this moment."""
        if self.table is None or self.word.epoch != self.table.epoch or self.clock() >= self.word.until:
            return set()
        return self.served

    def turn(self) -> None:
        at = self.clock()
        if at >= self.next_beat:
            self.next_beat = at + _fence.BEAT_S  # slow ones: what is confirmed late is what may go wrong
            self.membership._say()
        if at >= self.next_look or self.membership._news.is_set():
            self.membership._news.clear()
            self.next_look = at + _membership.LOOK_S
            looking = self.membership._look(self.world.store)
            try:
                looking.send(None)
            except StopIteration:
                pass
            except WireError:
                pass
            else:
                raise AssertionError("the store never waits")


class World:
    def __init__(self, seed: int, trouble: float = 0.3, apart: float = 0.199) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.store = Store(self.chance)
        self.trouble = trouble
        self.apart = apart
        self.machines: dict[str, Machine] = {}
        self.cut: set[tuple[str, str]] = set()
        self.underway: list[tuple[float, str, str, bytes]] = []  # when, to whom, subject, body
        self.owners: dict[int, str] = {}
        self.moves = 0
        self.served_for = 0
        self.allowed = False  # two of one partition

    def start(self, name: str, node_timeout: float = TIMEOUT) -> None:
        rate = self.chance.choice([1.0, 1.0 - self.apart])
        self.machines[name] = Machine(self, name, rate, self.chance.uniform(0, 1000), node_timeout)

    def send(self, sender: str, subject: str, body: bytes) -> None:
        for name in self.machines:
            if name != sender and (sender, name) not in self.cut and self.chance.random() >= self.trouble / 3:
                slow = self.chance.random() < self.trouble / 3
                delay = self.chance.uniform(0, 2 * TIMEOUT if slow else STEP_S)
                self.underway.append((self.now + delay, name, subject, body))

    def step(self) -> None:
        self.now += STEP_S
        self.store.tick(self.now)
        due = [each for each in self.underway if each[0] <= self.now]
        self.underway = [each for each in self.underway if each[0] > self.now]
        order = [*self.machines.values()]
        self.chance.shuffle(order)
        for machine in order:
            if machine.stopped_until > self.now:
                self.underway += [each for each in due if each[1] == machine.name]  # they wait in its socket
                continue
            for _, name, subject, body in due:
                if name == machine.name:
                    machine.membership._heard(subject, body)
                    self.check()
            machine.turn()
            self.check()

    def check(self) -> None:
        owners: dict[int, str] = {}
        for name, machine in self.machines.items():
            for partition in machine.serves():
                assert self.allowed or partition not in owners, (
                    f"{name} and {owners[partition]} own partition {partition} at {self.now:.1f}"
                )
                owners[partition] = name
        self.moves += sum(self.owners.get(partition, owner) != owner for partition, owner in owners.items())
        self.owners |= owners
        self.served_for += len(owners)

    def run(self, seconds: float, *, calm: bool = False) -> None:
        self.store.trouble = 0.0 if calm else self.trouble
        until = self.now + seconds
        while self.now < until:
            if not calm and self.chance.random() < STEP_S * self.trouble:
                self.befall()
            self.step()

    def befall(self) -> None:
        """Something does."""
        name = self.chance.choice(NAMES)
        other = self.chance.choice(NAMES)
        match self.chance.randrange(6):
            case 0:
                self.cut |= {(name, each) for each in NAMES}
            case 1:
                self.cut |= {(each, name) for each in NAMES}
            case 2:
                self.cut.add((name, other))
            case 3:
                self.cut.clear()
            case 4 if name in self.machines:
                self.machines[name].stopped_until = self.now + self.chance.uniform(0, 3 * TIMEOUT)
            case 5:
                self.start(name)  # killed before, if it was there

    def heal(self) -> None:
        self.cut.clear()
        saved, self.trouble = self.trouble, 0.0
        self.run(12 * TIMEOUT, calm=True)
        self.trouble = saved


def worlds(count: int, **changes: float) -> Iterator[World]:
    for seed in range(count):
        world = World(seed, **changes)
        for name in NAMES[:3]:
            world.start(name)
        yield world


def test_no_two_own_a_partition() -> None:
    moves = 0
    for world in worlds(25):
        world.run(15, calm=True)
        world.run(60)
        world.heal()
        # Whatever it was, the cluster gets over it: every partition has its owner.
        serving = {p for machine in world.machines.values() for p in machine.serves()}
        assert serving == set(range(PARTITIONS)), world.now
        moves += world.moves
    assert moves > 500  # it was no peaceful time


def test_a_calm_cluster_is_one_of_all() -> None:
    for world in worlds(5, trouble=0.0):
        world.run(10, calm=True)
        views = [machine.membership.view for machine in world.machines.values()]
        assert {*views[0].nodes} == {*NAMES[:3]}  # type: ignore[union-attr]
        assert all(view == views[0] for view in views)
        assert world.store.writes == 3


def test_a_dead_nodes_keys_are_served_in_time() -> None:
    for world in worlds(5, trouble=0.0):
        world.run(10, calm=True)
        world.machines["n2"].stopped_until = 1e9
        died = world.now
        while {p for m in world.machines.values() for p in m.serves()} != set(
            range(PARTITIONS)
        ) or world.now < died + 2:
            world.step()
            assert world.now < died + 2 * TIMEOUT / (1 - world.apart) + 2, "2 x node_timeout and a write"


def test_a_deaf_node_writes_out_nobody_and_is_written_out() -> None:
    for world in worlds(5, trouble=0.0):
        world.run(10, calm=True)
        world.cut = {("n1", "n3"), ("n2", "n3")}
        world.run(20, calm=True)
        assert {*world.machines["n1"].membership.view.nodes} == {"n1", "n2"}  # type: ignore[union-attr]
        assert not world.machines["n3"].serves()
        assert {p for machine in world.machines.values() for p in machine.serves()} == set(range(PARTITIONS))
        world.heal()
        assert {*world.machines["n1"].membership.view.nodes} == {"n1", "n2", "n3"}  # type: ignore[union-attr]


def test_who_comes_when_all_have_left_begins_anew() -> None:
    """Under another name: nobody is left who could say that the last view is settled."""
    for world in worlds(5, trouble=0.0):
        world.run(10, calm=True)
        for name in NAMES[:3]:
            world.machines[name].membership._leaving = True
        world.run(5, calm=True)
        assert not any(machine.serves() for machine in world.machines.values())
        left = world.machines["n1"].membership.view
        assert left is not None
        assert (left.nodes, left.previous) == ({}, {})
        world.machines.clear()
        world.start("n4")
        world.run(5, calm=True)
        assert world.machines["n4"].serves() == set(range(PARTITIONS))


def test_nodes_of_another_node_timeout_are_refused_until_all_have_left() -> None:
    """Who counts to less would serve what another, who counts to more, still owns."""
    for world in worlds(2, trouble=0.0):
        world.run(10, calm=True)
        world.start("n4", node_timeout=TIMEOUT / 2)
        world.run(5, calm=True)
        assert world.machines["n4"].refusal == (
            "[cluster] node_timeout is 1.0, and cluster t was started with 2.0; give 2.0, or stop all nodes first"
        )
        for name in NAMES[:3]:
            world.machines[name].membership._leaving = True
        world.run(5, calm=True)
        world.machines.clear()
        world.start("n4", node_timeout=TIMEOUT / 2)
        world.run(5, calm=True)
        assert world.machines["n4"].serves() == set(range(PARTITIONS))


def second_cluster(world: World, count: int) -> tuple[list[Machine], list[Machine]]:
    """The store is lost, and so many begin anew while they cannot hear those of before, who go on."""
    world.run(10, calm=True)
    old, new = [*NAMES[:3]], [f"m{number}" for number in range(count)]
    world.store.wipe()
    world.cut = {(one, other) for one in old for other in new} | {(one, other) for one in new for other in old}
    world.allowed = True
    for name in new:
        world.start(name)
    world.run(10, calm=True)
    both = [world.machines[name] for name in old], [world.machines[name] for name in new]
    assert {p for machine in both[1] for p in machine.serves()} == set(range(PARTITIONS))
    if count == 1:  # else they have seen it in the store already
        assert {p for machine in both[0] for p in machine.serves()} == set(range(PARTITIONS))
    world.cut = set()
    world.run(3 * _fence.BEAT_S / (1 - world.apart), calm=True)  # everybody has heard everybody
    return both


def test_of_two_clusters_the_newer_yields_if_it_is_lower() -> None:
    """What is written is not theirs then: the others serve on, and the log says what to do."""
    for world in worlds(5, trouble=0.0):
        old, new = second_cluster(world, 1)
        world.allowed = False
        world.run(20, calm=True)
        assert not new[0].serves()
        assert {p for machine in old for p in machine.serves()} == set(range(PARTITIONS))
        assert {machine.membership.epoch for machine in old} == {3}
        # It goes on once they have been stopped, as the log says, and are forgotten.
        for machine in old:
            del world.machines[machine.name]
        world.run(12 * TIMEOUT, calm=True)
        assert new[0].serves() == set(range(PARTITIONS))


@pytest.mark.parametrize("count", [3, 4, 5])
def test_of_two_clusters_the_older_yields_if_it_is_lower_and_joins(count: int) -> None:
    """Of one epoch (3) the one that began later is higher."""
    for world in worlds(5, trouble=0.0):
        old, new = second_cluster(world, count)
        world.allowed = False
        world.run(12 * TIMEOUT, calm=True)
        views = [machine.membership.view for machine in (*old, *new)]
        assert len(views[0].nodes) == 3 + count  # type: ignore[union-attr]
        assert all(view == views[0] for view in views)
        assert {p for machine in (*old, *new) for p in machine.serves()} == set(range(PARTITIONS))


# Each rule, when it is broken, is found.


@pytest.mark.parametrize("count", [1, 3])
def test_without_the_fourth_two_clusters_go_on(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fence.Fence, "yields_to", lambda fence, now: 0)
    monkeypatch.setattr(_fence.Fence, "is_news", lambda fence, view, epoch: epoch > fence.epoch)
    for world in worlds(2, trouble=0.0):
        both = second_cluster(world, count)
        world.run(20, calm=True)
        for machines in both:
            assert {p for machine in machines for p in machine.serves()} == set(range(PARTITIONS))


def _owns_alone(fence: _fence.Fence, now: float) -> float:
    return now + fence.fence_after if fence.view and fence.view.has(fence.name, fence.incarnation) else 0.0


def _any_epoch(fence: _fence.Fence, name: str) -> float:
    peer = fence._member(name)
    if peer is None:
        return float("-inf")
    number = peer.alive.heard.get(fence.name, (0, 0))[1]
    return next((at for sent, at in fence._sent if sent == number), float("-inf"))


MUTATIONS = {
    "no confirmations are needed": {"until": _owns_alone},
    # Who has an old copy of the store yields, and this would hardly be found.
    "confirmations of any epoch": {"_confirmed": _any_epoch, "misses": lambda fence, epoch: None},
    "what is gained is served at once": {"is_settled": lambda fence, now: True},
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_rule_is_found(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in MUTATIONS[mutation].items():
        monkeypatch.setattr(_fence.Fence, name, function)
    with pytest.raises(AssertionError, match="own partition"):
        for world in worlds(60, trouble=0.5):
            world.run(10, calm=True)
            world.run(60)


def test_so_are_clocks_that_differ_by_more() -> None:
    """By much more: who is written out was silent for as long again before, and that is margin which no rule counts on."""
    with pytest.raises(AssertionError, match="own partition"):
        for world in worlds(100, trouble=0.5, apart=0.75):
            world.run(10, calm=True)
            world.run(60)
