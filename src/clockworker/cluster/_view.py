"""The view: who is in the cluster. One value in the broker's store; the revision of the bucket that wrote it is its epoch.

Pure: what a change makes of a view is here, who may make it is `_fence`'s.

A node has a slot, by which its shards have numbers on all nodes: `slot * 1024 + shard`. Slots count from 1 and are never used
twice; a node keeps its own while its name is in the view, also when another process has taken the place of one that died.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from clockworker.shards.config._cluster import TwoNodes

MAX_SHARDS = 1024  # of a node: what a place has room for


class Node(msgspec.Struct, frozen=True):
    """incarnation: a random number of this process of the node's. since: when it joined, in seconds of Unix time."""

    slot: int
    shards: int
    incarnation: int
    since: float = 0.0


class View(msgspec.Struct, frozen=True):
    """previous: the nodes of the view before. two_nodes: how many of two are a quorum: both, or the lower slot alone.
    partitions and two_nodes are fixed when the cluster is first started, node_timeout until all have left: who waits for others
    to have stopped relies on their counting as long as it does. lineage: a number of the cluster's beginning, 0 in a view of a
    release that had none; a second one, begun in a store that had lost the first, has another."""

    partitions: int
    two_nodes: TwoNodes = "both"
    next_slot: int = 1
    previous: dict[str, Node] = {}
    nodes: dict[str, Node] = {}
    node_timeout: float = 5.0
    lineage: int = 0

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, value: bytes) -> View:
        """Raises `ValueError` for what is no view."""
        view = msgspec.json.decode(value, type=cls)
        slots = [node.slot for node in view.nodes.values()]
        if not (
            view.partitions > 0
            and len(set(slots)) == len(slots)
            and all(0 < slot < view.next_slot for slot in slots)
            and all(0 < node.shards <= MAX_SHARDS for node in (*view.nodes.values(), *view.previous.values()))
        ):
            raise ValueError("the slots or shards of its nodes make no sense")
        return view

    def with_node(self, name: str, shards: int, incarnation: int, now: float) -> View:
        """It has joined, or taken the place of the process before under its name, with its slot."""
        there = self.nodes.get(name)
        node = Node(self.next_slot if there is None else there.slot, shards, incarnation, now)
        return msgspec.structs.replace(
            self,
            next_slot=self.next_slot + (there is None),
            previous=self.nodes,
            nodes={**self.nodes, name: node},
        )

    def without(self, names: Collection[str]) -> View:
        """They have left, or died."""
        return msgspec.structs.replace(
            self,
            previous=self.nodes,
            nodes={name: node for name, node in self.nodes.items() if name not in names},
        )

    def has(self, name: str, incarnation: int) -> bool:
        """Whether this very process is in it."""
        return (node := self.nodes.get(name)) is not None and node.incarnation == incarnation

    def is_quorum(self, names: Collection[str]) -> bool:
        return is_quorum(self.nodes, names, self.two_nodes)

    def shards(self) -> dict[str, int]:
        return {name: node.shards for name, node in self.nodes.items()}


def is_quorum(of: dict[str, Node], names: Collection[str], two_nodes: TwoNodes) -> bool:
    """More than half; any two quorums have one in common. Of nobody there is none."""
    if len(of) == 2 and two_nodes == "lowest":
        return min(of, key=lambda name: of[name].slot) in names
    return 2 * sum(name in names for name in of) > len(of)
