"""Which shard is connected to which: rings, epochs, and what peers are told of each other.

Each ordered pair of shards shares a ring, and every ring belongs to one pair of incarnations: when a shard's end has been
reaped, its peers get `Disconnect`; when its successor has been spawned, both get `Connect` with fresh rings and a new
epoch. Calls to a starting shard wait in its ring. A ring that was found broken is replaced in the same way, with both ends
alive. The supervisor makes the memory, hands it over and closes its own descriptors: it never looks into a ring.

At the start no shard reads before its application is imported, and the descriptors for all pairs would have to wait somewhere:
on their way, which the kernel bounds, and then with the supervisor. So then a pair is connected only when what was sent to
both has been taken by the kernel.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack

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
        self._unconnected: deque[tuple[int, int]] = deque()  # pairs, before all have begun
        self._all_spawned = False
        self._begun = False

    def begin(self) -> None:
        """Every shard has been spawned once: when all are connected their applications may start."""
        self._all_spawned = True
        self._go_on()

    def add(self, shard: int, process: ShardProcess) -> None:
        """Connect a new incarnation with all that are there. Raises `OSError` if there are no descriptors for that."""
        peers = [peer for peer in self._members if peer.id != shard and peer.process is not None]
        if not self._begun:
            process.channel.when_flushed = self._go_on
            self._unconnected.extend((shard, peer.id) for peer in peers)
            self._go_on()
            return
        for peer in peers:
            assert peer.process is not None
            self._connect(shard, process, peer.id, peer.process)
        process.send(Begin())

    def remove(self, shard: int) -> None:
        """It has been reaped."""
        self._unconnected = deque(pair for pair in self._unconnected if shard not in pair)
        for peer in self._members:
            peer.tell(Disconnect(shard))
        self._go_on()

    def _go_on(self) -> None:
        while self._unconnected:
            a, b = self._unconnected[0]
            process_a, process_b = self._members[a].process, self._members[b].process
            if process_a is None or process_b is None:
                self._unconnected.popleft()
                continue
            if process_a.channel.backlogged or process_b.channel.backlogged:
                return
            try:
                self._connect(a, process_a, b, process_b)
            except OSError as error:  # those that have half of it meet again when one is started anew
                log.error("shards %d and %d cannot be connected: %s", a, b, error)
                process_a.kill()
            self._unconnected.popleft()
        if self._all_spawned and not self._begun:
            self._begun = True
            for member in self._members:
                member.tell(Begin())

    def poisoned(self, member: Member, process: ShardProcess, peer: int, epoch: int) -> None:
        """`member` found the peer's ring broken. The pair gets new ones, unless it has them already: both ends may report the
        same. What the shard says is not trusted."""
        other = self._process(member, peer)
        if other is not None and self._epochs.get(_pair(member.id, peer)) == epoch:
            log.error("shard %d broke the rules of its ring to %s: the two get new ones", peer, member)
            try:
                self._connect(member.id, process, peer, other)
            except OSError as error:
                log.error("%s is killed, since there is no new ring to be had: %s", member, error)
                process.kill()

    def unconnected(self, member: Member, process: ShardProcess, peer: int, epoch: int) -> None:
        """`member` could not make its end of the link, and says so later: by now it may have another, or no peer."""
        other = self._process(member, peer)
        if other is not None and self._epochs.get(_pair(member.id, peer)) == epoch:
            self._connect(member.id, process, peer, other)

    def _process(self, member: Member, peer: int) -> ShardProcess | None:
        return self._members[peer].process if 0 <= peer < len(self._members) and peer != member.id else None

    def _connect(self, a: int, process_a: ShardProcess, b: int, process_b: ShardProcess) -> None:
        """Raises `OSError`; then one of the two may have been told."""
        self._epoch += 1
        self._epochs[_pair(a, b)] = self._epoch
        with ExitStack() as rings:
            a_to_b = ipc.create_ring(RING_CAPACITY)
            rings.callback(os.close, a_to_b)
            b_to_a = ipc.create_ring(RING_CAPACITY)
            rings.callback(os.close, b_to_a)
            process_a.send(Connect(b, self._epoch), [b_to_a, a_to_b, *process_b.doorbell])
            process_b.send(Connect(a, self._epoch), [a_to_b, b_to_a, *process_a.doorbell])


def _pair(a: int, b: int) -> tuple[int, int]:
    return min(a, b), max(a, b)
