"""A link with both ends of its rings in this process."""

from __future__ import annotations

import asyncio
import mmap
import os

import clockworker as cw
from clockworker.ipc.calls._limits import Limits
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._shared_cy import Shared
from clockworker.ipc.rings._connection_cy import RingConnection, Worklist
from clockworker.ipc.rings._doorbell_cy import Doorbell, PeerDoorbell
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer


class Ends:
    """A link of shard 0 to shard 1, and the peer's side of it."""

    def __init__(self, credit: int = 4, capacity: int = 4096) -> None:
        self.loop = asyncio.new_event_loop()
        self.broken: list[Exception] = []
        self.dirty = Worklist()
        self.drops_broken = False  # as a mesh does
        executor = cw.Executor([cw.Queue("only")])
        self.shared = Shared(
            executor._core,
            self.loop,
            0,
            Limits(credit=credit),
            {queue._queue: 7 for queue in executor.queues()},
            lambda: None,
            lambda link, error: self._found_broken(error),
        )
        self.rings = [RingConnection(1, executor._core, self.dirty) for _ in range(2)]
        self.ring = self.rings[0]
        self.link, other = [Link(ring, self.shared) for ring in self.rings]
        self.link.pair(other)
        self.capacity = capacity
        self.connect(1)

    def successor(self) -> Ends:
        """Another incarnation of the peer, connected beside it: its link, and its side of that."""
        assert self.link.other is not None
        ends = Ends.__new__(Ends)
        ends.loop, ends.shared, ends.capacity, ends.broken = self.loop, self.shared, self.capacity, self.broken
        ends.dirty, ends.rings = self.dirty, self.rings
        ends.link, ends.ring = self.link.other, self.rings[1]
        ends.connect(2)
        self.link.look_for_split()
        return ends

    def connect(self, epoch: int) -> None:
        there, back = cw.create_ring(self.capacity), cw.create_ring(self.capacity)
        self._there = mmap.mmap(there, os.fstat(there).st_size)
        memory, eventfd = cw.create_doorbell(2)
        self.peer, self.answers = RingConsumer(there), RingProducer(back)
        self.bell = Doorbell(memory, eventfd)
        self.ring.connect(epoch, RingConsumer(back), RingProducer(there), PeerDoorbell(memory, eventfd, 0))
        for descriptor in (there, back, memory):
            os.close(descriptor)

    def close(self) -> None:
        self.link.disconnect("over")
        if not self.loop.is_closed():
            self.loop.close()
        for end in (self.peer, self.answers, self.bell, self._there):
            end.close()

    def break_ring(self) -> None:
        """The peer has read more than was ever written."""
        self._there[128:136] = (1 << 40).to_bytes(8, "little")

    def _found_broken(self, error: Exception) -> None:
        self.broken.append(error)
        if self.drops_broken:
            self.link.disconnect("its ring is broken")

    def received(self) -> list[tuple[int, int, bytes]]:
        frames = []
        while (body := self.peer.pop()) is not None:
            frames.append((self.peer.kind, self.peer.call, body))
        return frames
