"""Which node and which shard a key belongs to, by arithmetic alone: the same on every machine, whatever its libm.

Key -> partition: `crc32(key) * partitions >> 32`. Partition -> node: rendezvous, weighted by shards. Each shard of each node
has a number of 64 bits for each partition, drawn by a hash of the node's name and the shard's number, and the node of the
highest has it. A node with twice the shards draws twice as often, and so has twice the partitions. Who joins takes its part
from each of the others, and none moves between those. Partition -> shard: `partition % shards` of that node.

The numbers of a shard are one long digest, of SHAKE-128: 4,096 of them take 0.1 ms, where a hash for each takes 4. Rejected:
-weight / log(u), the textbook's form, which takes one draw a node: machines whose logarithms differ in the last bit may
disagree for ever. Between shards of a node the draws are not used: whoever has them would move keys between shards at each
change of another's.

(Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.)
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Mapping


def partition_of(checksum: int, partitions: int) -> int:
    """Of the key with this checksum (`ipc.calls._owners`)."""
    return checksum * partitions >> 32


def draw(node: str, shards: int, partitions: int) -> array[int]:
    """A node's highest number for each partition. 0.5 ms a shard."""
    highest = array("Q", bytes(8 * partitions))
    for shard in range(shards):
        drawn = array("Q")
        drawn.frombytes(hashlib.shake_128(f"{node}/{shard}".encode()).digest(8 * partitions))
        if sys.byteorder == "big":
            drawn.byteswap()
        highest = array("Q", map(max, highest, drawn)) if shard else drawn
    return highest


class Draws:
    """Remembers those of each node, since a table is made of all of them at each change of one."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._known: dict[tuple[str, int], array[int]] = {}

    def owners(self, shards: Mapping[str, int]) -> list[str]:
        """The node of each partition, of nodes with so many shards. Of no node it is empty."""
        nodes = sorted(shards)
        for node in nodes:
            if (node, shards[node]) not in self._known:
                self._known[node, shards[node]] = draw(node, shards[node], self._partitions)
        if len(nodes) < 2:
            return nodes * self._partitions
        rows = [self._known[node, shards[node]] for node in nodes]
        # Equal numbers are as likely as a broken memory: the first name has it, on each machine alike.
        return [nodes[each.index(max(each))] for each in zip(*rows, strict=True)]
