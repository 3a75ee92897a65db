# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A connection: the pair of rings to one peer, its doorbell, and the frames that wait for room.

Frames leave in the order in which they were sent, and the peer is told of each at once. While it is awake that costs a store
and a fence; if it sleeps, the bell is rung once, and it wakes up while we go on sending. Rejected: telling it once a turn
of the executor. Then the two took turns: one worked through its batch while the other slept. With 16 calls in flight that
was a quarter as fast, with 64 less than half, and the bell was rung more often, since each batch found the peer asleep.

What finds the ring full waits in `backlog`, in this process's memory, until the end of the turn or the next news of the peer.
Once a ring's worth waits there the connection is *crowded*, and new calls wait, as if there were no credit, until half of that
has found room: else a thousand calls of a megabyte each would lie there, and new memory costs more than copying does. Replies
do not wait: credit bounds how many there are (`_credit_cy`).
"""

from __future__ import annotations

from collections import deque

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.ipc._ahead_cy import Habit
from clockworker.ipc._call_cy import Channel
from clockworker.ipc._doorbell_cy import PeerDoorbell
from clockworker.ipc._ring_cy import PoisonedRing, RingConsumer, RingProducer
from clockworker.ipc._shared_cy import Shared

if cython.compiled:
    from cython.cimports.clockworker.ipc._monotonic import now_ns
else:
    from time import monotonic_ns as now_ns


class Connection(Channel):
    """To one peer, which is there or not. It is the same object for every second incarnation of the peer: see `_link_cy`."""

    shared: Shared
    peer: int
    epoch: int
    connected: bool
    consumer: RingConsumer
    producer: RingProducer
    doorbell: PeerDoorbell
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    rings_before: int  # of the peer, at its earlier incarnations
    rings_ahead_before: int
    backlog: deque[tuple[int, int, int, int, bytes]]
    backlog_bytes: int
    crowded: bool
    dirty: bool  # among those to be flushed
    unfinished: bool  # among those whose rings may have more for us

    def __init__(self, peer: int, shared: Shared) -> None:
        self.core = shared.core
        self.loop = shared.loop
        self.shared = shared
        self.peer = peer
        self.epoch = 0
        self.connected = False
        self.frames_sent = 0
        self.frames_received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.rings_before = 0
        self.rings_ahead_before = 0
        self.backlog = deque()
        self.backlog_bytes = 0
        self.crowded = False
        self.dirty = False
        self.unfinished = False
        self._announced = 0  # of what is published in the ring, how much the peer has been told of
        self._habit = Habit()

    def relieved(self) -> None:
        """It was crowded, and is no longer."""
        raise NotImplementedError

    def connect(self, epoch: int, consumer: RingConsumer, producer: RingProducer, doorbell: PeerDoorbell) -> None:
        """A new incarnation of the peer, with rings that nobody has used."""
        if consumer is None or producer is None or doorbell is None:
            raise TypeError("a connection needs two rings and a doorbell")
        self.epoch = epoch
        self.consumer = consumer
        self.producer = producer
        self.doorbell = doorbell
        self._announced = 0
        self._habit = Habit()
        self.connected = True

    def close(self) -> None:
        """The peer is gone, and with it what waited for room."""
        if not self.connected:
            return
        self.connected = False
        self.backlog.clear()
        self.backlog_bytes = 0
        self.crowded = False
        self.consumer.close()
        self.producer.close()
        self.rings_before += self.doorbell.rings
        self.rings_ahead_before += self.doorbell.rings_ahead
        self.doorbell.close()

    def forsake(self) -> None:
        """Touch nothing that is shared any more, and tell nobody: this process is only a copy of the one that was connected."""
        self.connected = False

    def send(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        """Put a frame into the ring, or behind those that wait for room."""
        if not self.connected:
            return
        self.bytes_sent += len(body)
        try:
            if self.backlog or not self.producer.push(kind, queue, method, call, body):
                self.backlog.append((kind, queue, method, call, body))
                self.backlog_bytes += len(body)
                self.crowded = self.crowded or self.backlog_bytes > self.producer.capacity
                self.mark_dirty()
            else:
                self.frames_sent += 1
                self._announce()
        except PoisonedRing as error:
            self.shared.broken(self, error)

    def mark_dirty(self) -> None:
        """Flush it at the end of the executor's turn."""
        if not self.dirty:
            self.dirty = True
            self.shared.dirty.append(self)
            # At the end of a turn the executor polls us anyway; make sure that there is one.
            if not self.core._scheduled:
                self.core.wake()

    def flush(self) -> None:
        """Send what waits, as far as there is room, and tell the peer of all that is new to it."""
        self.dirty = False
        if not self.connected:
            return
        try:
            if self.backlog and not self._send_backlog():
                # The stall must be visible before we look once more: then either we see the room, or the peer our stall.
                self.producer.stall()
                self._send_backlog()
        except PoisonedRing as error:
            self.shared.broken(self, error)
            return
        if self.crowded and self.backlog_bytes <= self.producer.capacity >> 1:
            self.crowded = False
            self.relieved()
            if not self.connected:  # its ring was broken
                return
        self._announce()

    def _send_backlog(self) -> bool:
        while self.backlog:
            kind, queue, method, call, body = self.backlog[0]
            if not self.producer.push(kind, queue, method, call, body):
                return False
            self.backlog.popleft()
            self.backlog_bytes -= len(body)
            self.frames_sent += 1
        return True

    def _announce(self) -> None:
        """Tell the peer of what has been published."""
        published = self.producer.published()
        if published != self._announced:
            self._announced = published
            self.doorbell.announce()
            if self._habit.heard_ns:
                self._habit.follow(now_ns())

    def announce_room(self) -> None:
        """After taking frames in: if the peer waits for room in its ring to us, tell it."""
        if self.connected and self.consumer.producer_stalled():
            self.doorbell.announce()

    def hear(self) -> None:
        """The peer has news for us. If it sleeps, it may be time to wake it for what we shall have to say to that."""
        if self.connected and self.doorbell.may_ring_ahead() and self._habit.hear(now_ns()) and not self.core.is_busy():
            self.doorbell.ring_ahead()
