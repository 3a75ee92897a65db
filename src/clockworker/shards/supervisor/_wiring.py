"""Which shard is connected to which: rings, epochs, and what peers are told of each other.

Each ordered pair of shards shares a ring, and every ring belongs to one pair of incarnations: when a shard's end has been
reaped, its peers get `Disconnect`; when its successor has been spawned, both get `Connect` with fresh rings and a new
epoch. Calls to a starting shard wait in its ring. While a shard is replaced its peers are connected with both incarnations,
of which one is `beside` the other; and the two with each other, for what they publish, and for state that moves
(`_transfer`). A ring that was found broken is replaced in the same way, with both ends alive. The supervisor makes the memory,
hands it over and closes its own descriptors: it never looks into a ring.

At the start no shard reads before its application is imported, and the descriptors for all pairs would have to wait somewhere:
on their way, which the kernel bounds, and then with the supervisor. So then a pair is connected only when what was sent to
both has been taken by the kernel.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import ExitStack

from clockworker import ipc
from clockworker.shards.protocol._control_channel import Lent
from clockworker.shards.protocol._messages import Begin, Connect, Disconnect
from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

RING_CAPACITY = 1 << 21  # bytes; untouched pages of a ring take no memory, and a ring whose reader keeps up touches few
TWIN_CAPACITY = 1 << 25  # between the two incarnations of a shard, for its state: it holds a window of `worker._state`


class Wiring:
    """Makes the ring of each pair of shards, hands the ends to both, and makes it anew when one of them is replaced."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._epoch = 0
        self._epochs: dict[frozenset[ShardProcess], int] = {}  # of the rings that each pair has now
        self._unconnected: deque[tuple[int, int]] = deque()  # pairs, before all have begun
        self._all_spawned = False
        self._begun = False

    def begin(self) -> None:
        """Every shard has been spawned once: when all are connected their applications may start."""
        self._all_spawned = True
        self._go_on()

    def place(self, member: Member) -> int:
        """The word of the doorbells that its new incarnation is to use: not that of another one that is there."""
        taken = {each.process.place for each in self._members.everyone() if each.id == member.id and each.process}
        return member.id + len(self._members) if member.id in taken else member.id

    def add(self, member: Member, process: ShardProcess) -> None:
        """Connect a new incarnation with all that are there. Raises `OSError` if there are no descriptors for that."""
        peers = self._members.processes(process)
        if not self._begun:
            process.channel.when_flushed = self._go_on
            self._unconnected.extend((member.id, peer.id) for peer, _ in peers)
            self._go_on()
            return
        for peer, other in peers:
            self._connect(member, process, peer, other)
        process.send(Begin())

    def remove(self, member: Member, process: ShardProcess) -> None:
        """It has been reaped."""
        for _, other in self._members.processes(process):
            self._epochs.pop(frozenset({process, other}), None)
            other.send(Disconnect(member.id, self._is_beside(member)))
        if not self._begun:
            self._unconnected = deque(pair for pair in self._unconnected if member.id not in pair)
            self._go_on()

    def _go_on(self) -> None:
        while self._unconnected:
            a, b = (self._members[shard] for shard in self._unconnected[0])
            if a.process is None or b.process is None:
                self._unconnected.popleft()
                continue
            if a.process.channel.backlogged or b.process.channel.backlogged:
                return
            try:
                self._connect(a, a.process, b, b.process)
            except OSError as error:  # those that have half of it meet again when one is started anew
                log.error("%s and %s cannot be connected: %s", a, b, error)
                a.process.kill()
            self._unconnected.popleft()
        if self._all_spawned and not self._begun:
            self._begun = True
            for member in self._members:
                member.tell(Begin())

    def poisoned(self, member: Member, process: ShardProcess, peer: int, epoch: int) -> None:
        """`member` found the peer's ring broken. The pair gets new ones, unless it has them already: both ends may report the
        same. What the shard says is not trusted."""
        for other, others in self._members.processes(process):
            if other.id == peer and self._epochs.get(frozenset({process, others})) == epoch:
                log.error("shard %d broke the rules of its ring to %s: the two get new ones", peer, member)
                self._connect_anew(member, process, other, others)

    def unconnected(self, member: Member, process: ShardProcess, peer: int, epoch: int) -> None:
        """`member` could not make its end of the link, and says so later: by now it may have another, or no peer."""
        for other, others in self._members.processes(process):
            if other.id == peer and self._epochs.get(frozenset({process, others})) == epoch:
                self._connect_anew(member, process, other, others)

    def _connect_anew(self, member: Member, process: ShardProcess, other: Member, others: ShardProcess) -> None:
        try:
            self._connect(member, process, other, others)
        except OSError as error:
            log.error("%s is killed, since there is no new ring to be had: %s", member, error)
            process.kill()

    def _connect(self, a: Member, process_a: ShardProcess, b: Member, process_b: ShardProcess) -> None:
        """Raises `OSError`; then one of the two may have been told."""
        self._epoch += 1
        self._epochs[frozenset({process_a, process_b})] = self._epoch
        to_a = Connect(b.id, self._epoch, process_b.place, self._is_beside(b), b.incarnation, _is_ready(b))
        to_b = Connect(a.id, self._epoch, process_a.place, self._is_beside(a), a.incarnation, _is_ready(a))
        with ExitStack() as rings:
            capacity = RING_CAPACITY if a.id != b.id else TWIN_CAPACITY
            a_to_b = Lent(ipc.create_ring(capacity))
            rings.callback(a_to_b.close)
            b_to_a = Lent(ipc.create_ring(capacity))
            rings.callback(b_to_a.close)
            process_a.send(to_a, [b_to_a, a_to_b, *process_b.doorbell])
            process_b.send(to_b, [a_to_b, b_to_a, *process_a.doorbell])

    def _is_beside(self, member: Member) -> bool:
        return member is self._members.beside


def _is_ready(member: Member) -> bool:
    """Or has been."""
    return member.state in (State.READY, State.DRAINING)
