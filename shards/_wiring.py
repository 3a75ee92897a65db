"""Which shard is connected to which: rings, epochs, and what peers are told of each other.

Each ordered pair of shards shares a ring, and every ring belongs to one pair of incarnations: when a shard's end has been
reaped, its peers get `Disconnect`; when its successor has been spawned, both get `Connect` with fresh rings and a new
epoch. Calls to a starting shard wait in its ring. While a shard is replaced its peers are connected with both incarnations,
of which one is `beside` the other; the two are not connected with each other. A ring that was found broken is replaced in the
same way, with both ends alive. The supervisor makes the memory, hands it over and closes its own descriptors: it never looks
into a ring.
"""

from __future__ import annotations

import logging
import os

from clockworker import ipc
from clockworker.shards._control import Begin, Connect, Disconnect
from clockworker.shards._member import Member, Members
from clockworker.shards._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

RING_CAPACITY = 1 << 21  # bytes; untouched pages of a ring take no memory, and a ring whose reader keeps up touches few


class Wiring:
    def __init__(self, members: Members) -> None:
        self._members = members
        self._epoch = 0
        self._epochs: dict[frozenset[ShardProcess], int] = {}  # of the rings that each pair has now
        self._begun = False

    def begin(self) -> None:
        """Every shard has been spawned and connected once: their applications may start."""
        self._begun = True
        for member in self._members:
            member.tell(Begin())

    def place(self, member: Member) -> int:
        """The word of the doorbells that its new incarnation is to use: not that of another one that is there."""
        taken = {each.process.place for each in self._members.everyone() if each.id == member.id and each.process}
        return member.id + len(self._members) if member.id in taken else member.id

    def add(self, member: Member, process: ShardProcess) -> None:
        """Connect a new incarnation with all that are there."""
        for peer, peers in self._members.processes(member.id):
            self._connect(member, process, peer, peers)
        if self._begun:
            process.send(Begin())

    def remove(self, member: Member, process: ShardProcess) -> None:
        """It has been reaped."""
        for _, peers in self._members.processes(member.id):
            self._epochs.pop(frozenset({process, peers}), None)
            peers.send(Disconnect(member.id, self._is_beside(member)))

    def poisoned(self, member: Member, process: ShardProcess, peer: int, epoch: int) -> None:
        """`member` found the peer's ring broken. The pair gets new ones, unless it has them already: both ends may report the
        same. What the shard says is not trusted."""
        for other, others in self._members.processes(member.id):
            if other.id == peer and self._epochs.get(frozenset({process, others})) == epoch:
                log.error("shard %d broke the rules of its ring to %s: the two get new ones", peer, member)
                self._connect(member, process, other, others)

    def _connect(self, a: Member, process_a: ShardProcess, b: Member, process_b: ShardProcess) -> None:
        self._epoch += 1
        self._epochs[frozenset({process_a, process_b})] = self._epoch
        a_to_b = ipc.create_ring(RING_CAPACITY)
        b_to_a = ipc.create_ring(RING_CAPACITY)
        to_a = Connect(b.id, self._epoch, process_b.place, self._is_beside(b))
        to_b = Connect(a.id, self._epoch, process_a.place, self._is_beside(a))
        process_a.send(to_a, [b_to_a, a_to_b, *process_b.doorbell])
        process_b.send(to_b, [a_to_b, b_to_a, *process_a.doorbell])
        os.close(a_to_b)
        os.close(b_to_a)

    def _is_beside(self, member: Member) -> bool:
        return member is self._members.beside
