from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clockworker.cluster._view import Node, View, is_quorum

NAMES = st.sampled_from(["a", "b", "c", "d"])


class Changes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.view = View(64)
        self.slots: dict[tuple[str, int], int] = {}  # by name and how often it has joined
        self.joins = dict.fromkeys("abcd", 0)

    @rule(name=NAMES, shards=st.integers(1, 1024), incarnation=st.integers(1, 2**62))
    def join(self, name: str, shards: int, incarnation: int) -> None:
        before = self.view
        self.view = before.with_node(name, shards, incarnation, 0.0)
        if name in before.nodes:
            assert self.view.nodes[name].slot == before.nodes[name].slot
        else:
            self.joins[name] += 1
            self.slots[name, self.joins[name]] = self.view.nodes[name].slot
        assert self.view.previous == before.nodes
        assert self.view.has(name, incarnation)

    @rule(names=st.sets(NAMES))
    def leave(self, names: set[str]) -> None:
        before = self.view
        self.view = before.without(names)
        assert self.view.nodes.keys() == before.nodes.keys() - names
        assert self.view.previous == before.nodes

    @invariant()
    def no_slot_is_used_twice(self) -> None:
        assert len(set(self.slots.values())) == len(self.slots)

    @invariant()
    def it_travels(self) -> None:
        assert View.decode(self.view.encode()) == self.view


TestChanges = Changes.TestCase


@pytest.mark.parametrize("two_nodes", ["both", "lowest"])
@pytest.mark.parametrize("count", range(1, 6))
def test_two_quorums_have_one_in_common(two_nodes: str, count: int) -> None:
    nodes = {name: Node(slot, 1, 1) for slot, name in enumerate("abcde"[:count], 1)}
    quorums = [
        names
        for mask in range(1 << count)
        if is_quorum(nodes, names := {name for bit, name in enumerate(nodes) if mask >> bit & 1}, two_nodes)  # type: ignore[arg-type]
    ]
    assert set(nodes) in quorums
    assert all(one & other for one in quorums for other in quorums)
    assert ({"a"} in quorums) == (count == 1 or (count == 2 and two_nodes == "lowest"))


def test_of_nobody_there_is_no_quorum() -> None:
    assert not is_quorum({}, {"a"}, "both")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b'{"partitions": 0}',
        b'{"partitions": 16, "next_slot": 1, "nodes": {"a": {"slot": 1, "shards": 1, "incarnation": 1}}}',
        b'{"partitions": 16, "next_slot": 2, "nodes": {"a": {"slot": 1, "shards": 0, "incarnation": 1}}}',
        b'{"partitions": 16, "next_slot": 3, "nodes": {"a": {"slot": 1, "shards": 1, "incarnation": 1},'
        b'"b": {"slot": 1, "shards": 1, "incarnation": 1}}}',
    ],
)
def test_what_is_no_view_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        View.decode(value)
