"""Which shard is connected to which: rings, epochs, and what peers are told of each other.

Each ordered pair of shards shares a ring, and every ring belongs to one pair of incarnations: when a shard's end has been
reaped, its peers get `Disconnect`; when its successor has been spawned, both get `Connect` with fresh rings and a new
epoch. Calls to a starting shard wait in its ring. A ring that was found broken is replaced in the same way, with both ends
alive. The supervisor makes the memory, hands it over and closes its own descriptors: it never looks into a ring.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from clockworker import ipc
from clockworker.shards._control import Begin, Connect, Disconnect
from clockworker.shards._member import Member
from clockworker.shards._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

RING_CAPACITY = 1 << 21  # bytes; untouched pages of a ring take no memory, and a ring whose reader keeps up touches few


class Wiring:
    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._epoch = 0
        self._epochs: dict[tuple[int, int], int] = {}  # of the rings that each pair has now
        self._begun = False

    def begin(self) -> None:
        """Every shard has been spawned and connected once: their applications may start."""
        self._begun = True
        for member in self._members:
            member.tell(Begin())

    def add(self, shard: int, process: ShardProcess) -> None:
        """Connect a new incarnation with all that are there."""
        for peer in self._members:
            if peer.id != shard and peer.process is not None:
                self._connect(shard, process, peer.id, peer.process)
        if self._begun:
            process.send(Begin())

    def remove(self, shard: int) -> None:
        """It has been reaped."""
        for peer in self._members:
            peer.tell(Disconnect(shard))

    def poisoned(self, member: Member, process: ShardProcess, peer: int, epoch: int) -> None:
        """`member` found the peer's ring broken. The pair gets new ones, unless it has them already: both ends may report the
        same. What the shard says is not trusted."""
        other = self._process(member, peer)
        if other is not None and self._epochs.get(_pair(member.id, peer)) == epoch:
            log.error("shard %d broke the rules of its ring to %s: the two get new ones", peer, member)
            self._connect(member.id, process, peer, other)

    def unconnected(self, member: Member, process: ShardProcess, peer: int, epoch: int) -> None:
        """`member` could not make its end of the link, and says so later: by now it may have another, or no peer."""
        other = self._process(member, peer)
        if other is not None and self._epochs.get(_pair(member.id, peer)) == epoch:
            self._connect(member.id, process, peer, other)

    def _process(self, member: Member, peer: int) -> ShardProcess | None:
        return self._members[peer].process if 0 <= peer < len(self._members) and peer != member.id else None

    def _connect(self, a: int, process_a: ShardProcess, b: int, process_b: ShardProcess) -> None:
        self._epoch += 1
        self._epochs[_pair(a, b)] = self._epoch
        a_to_b = ipc.create_ring(RING_CAPACITY)
        b_to_a = ipc.create_ring(RING_CAPACITY)
        process_a.send(Connect(b, self._epoch), [b_to_a, a_to_b, *process_b.doorbell])
        process_b.send(Connect(a, self._epoch), [a_to_b, b_to_a, *process_a.doorbell])
        os.close(a_to_b)
        os.close(b_to_a)


def _pair(a: int, b: int) -> tuple[int, int]:
    return min(a, b), max(a, b)
