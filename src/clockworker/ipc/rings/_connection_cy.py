# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A connection: how the frames of a link get to its peer. That of two shards of one machine is a pair of rings.

What a link asks of it is in `Connection`: to send a frame, whether the peer is there (`connected`) and which incarnation of
it that is (`epoch`), and whether new calls should wait (`crowded`). It tells the link when they need not any more, and when
the peer has broken its rules. So the calls of a link know nothing of rings, and may go another way to a peer on another
machine.

Frames leave in the order in which they were sent, and the peer is told of each at once. While it is awake that costs a store;
if it sleeps, the bell is rung once, and it wakes up while we go on sending. Rejected: telling it once a turn of the executor.
Then the two took turns: one worked through its batch while the other slept. With 16 calls in flight that was a quarter as
fast, with 64 less than half, and the bell was rung more often, since each batch found the peer asleep.

Only the fence is left to the end of the turn (`_doorbell_cy`): who has told something *owes* it, and is put down before
anything is published, so that no way out of a turn passes it by. It is paid
- by the look that ends each turn, whatever became of the steps (they may raise, be cancelled, be cut), and before that whenever
  nothing is runnable; no shard sleeps while it owes;
- by `Traffic.turn_failed`, when the look itself has raised;
- at once, outside of turns: in callbacks of the loop, before the executor has begun and after it has ended;
- by `close`, before the memory goes.
A copy of the process (`forsake`) owes nothing: the original does.

What finds the ring full waits in `backlog`, in this process's memory, until the end of the turn or the next news of the peer.
Once a ring's worth waits there the connection is *crowded*, and new calls wait, as if there were no credit, until half of that
has found room: else a thousand calls of a megabyte each would lie there, and new memory costs more than copying does. Replies
do not wait: credit bounds how many there are (`_credit_cy`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ShardDied, ShardDown
from clockworker.executor._core_cy import Core
from clockworker.ipc.rings._ahead_cy import Habit
from clockworker.ipc.rings._doorbell_cy import PeerDoorbell
from clockworker.ipc.rings._ring_cy import PoisonedRing, RingConsumer, RingProducer

if cython.compiled:
    from cython.cimports.clockworker.ipc.rings._monotonic import now_ns
else:
    from time import monotonic_ns as now_ns


@cython.final
@cython.cclass
class Worklist:
    """What is to be seen to, last come first. It keeps its room when it runs empty: a list that takes in one thing and gives it
    away again, turn after turn, has its memory made and freed each time, which was a twentieth of a call."""

    def __init__(self) -> None:
        self._room: list[Any] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._room[: self._count])

    def append(self, thing: Any) -> None:
        if self._count < len(self._room):
            self._room[self._count] = thing
        else:
            self._room.append(thing)
        self._count += 1

    def pop(self) -> Any:
        """IndexError if there is nothing."""
        if self._count == 0:
            raise IndexError("pop from an empty worklist")
        self._count -= 1
        thing = self._room[self._count]
        self._room[self._count] = None
        return thing

    def last(self) -> Any:
        """What `pop` would give, and leave it. IndexError if there is nothing."""
        if self._count == 0:
            raise IndexError("an empty worklist has no last thing")
        return self._room[self._count - 1]

    def remove(self, thing: Any) -> None:
        """ValueError if it is not there."""
        for place in range(self._count):
            if self._room[place] is thing:
                self._room[place] = self.last()
                self.pop()
                return
        raise ValueError("not in this worklist")


class Connection:
    """To one peer, which is there or not. It is the same object for every second incarnation of the peer: see `_link_cy`."""

    peer: int  # its place
    where: str  # for messages: "shard 3"
    epoch: int
    connected: bool
    crowded: bool
    backlog_bytes: int  # of frames that wait here for room
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    relieved: Callable[[], None]  # it was crowded, and is no longer
    broken: Callable[[Exception], None]  # the peer has broken its rules

    def __init__(self, peer: int) -> None:
        self.peer = peer
        self.where = f"shard {peer}"
        self.epoch = 0
        self.connected = False
        self.crowded = False
        self.backlog_bytes = 0
        self.frames_sent = 0
        self.frames_received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.relieved = _ignore
        self.broken = _ignore

    def send(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        """Send a frame, after all that were sent before. Nothing, if the peer is not there. It may turn out to have broken its
        rules: then `broken` is called."""
        raise NotImplementedError

    def send_soon(self) -> None:
        """A frame will follow at once: the peer may wake up for it meanwhile."""
        raise NotImplementedError

    def close(self) -> None:
        """The peer is gone, and with it what waited for room."""
        raise NotImplementedError

    def forsake(self) -> None:
        """Touch nothing that is shared any more, and tell nobody: this process is only a copy of the one that was connected."""
        self.connected = False

    def died(self, reason: str, name: str) -> ShardDied | ShardDown:
        """The error of a call of that method that was in flight when the peer was lost."""
        return ShardDied(f"{reason} with {name} in flight; it may have run or not")

    def down(self) -> ShardDown:
        """The error of a call that finds no peer."""
        return ShardDown(f"{self.where} is down; nothing was sent")


@cython.final
@cython.cclass
class RingConnection(Connection):
    """A ring in each direction, and the peer's doorbell.

    dirty: where those are put down that are to be flushed at the end of the executor's turn.
    """

    consumer: RingConsumer
    producer: RingProducer
    doorbell: PeerDoorbell
    rings_before: int  # of the peer, at its earlier incarnations
    rings_ahead_before: int
    backlog: deque[tuple[int, int, int, int, bytes]]
    has_backlog: bool  # asked of each frame, and quicker than the deque
    unfinished: bool  # among those whose rings may have more for us

    def __init__(self, peer: int, core: Core, dirty: Worklist) -> None:
        if core is None or dirty is None:
            raise TypeError("a connection of rings belongs to a shard's executor")
        super().__init__(peer)
        self._core = core
        self._dirty = dirty
        self._is_dirty = False
        self.rings_before = 0
        self.rings_ahead_before = 0
        self.backlog = deque()
        self.has_backlog = False
        self.unfinished = False
        self._announced = 0  # of what is published in the ring, how much the peer has been told of
        self._owes = False  # to make sure that the peer has heard of it
        self._habit = Habit()

    def connect(self, epoch: int, consumer: RingConsumer, producer: RingProducer, doorbell: PeerDoorbell) -> None:
        """A new incarnation of the peer, with rings that nobody has used."""
        if consumer is None or producer is None or doorbell is None:
            raise TypeError("a connection needs two rings and a doorbell")
        self.epoch = epoch
        self.consumer = consumer
        self.producer = producer
        self.doorbell = doorbell
        self._announced = 0
        self._owes = False
        self._habit = Habit()
        self.connected = True

    def close(self) -> None:
        """The peer is gone, and with it what waited for room."""
        if not self.connected:
            return
        self.make_sure()
        self.connected = False
        self.backlog.clear()
        self.has_backlog = False
        self.backlog_bytes = 0
        self.crowded = False
        self.consumer.close()
        self.producer.close()
        self.rings_before += self.doorbell.rings
        self.rings_ahead_before += self.doorbell.rings_ahead
        self.doorbell.close()

    def send(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        """Put a frame into the ring, or behind those that wait for room."""
        if not self.connected:
            return
        self.bytes_sent += len(body)
        if not self._is_dirty and self._core._turn_ended == 0:
            self.mark_dirty()  # first: whatever stops us, the turn's end finds what we owe
        try:
            if self.has_backlog or not self.producer.push(kind, queue, method, call, body):
                self.backlog.append((kind, queue, method, call, body))
                self.has_backlog = True
                self.backlog_bytes += len(body)
                self.crowded = self.crowded or self.backlog_bytes > self.producer.capacity
                self.mark_dirty()
            else:
                self.frames_sent += 1
                self._tell()
        except PoisonedRing as error:
            self.broken(error)

    def send_soon(self) -> None:
        """If the peer sleeps, and has a core to wake up on: it does so while we encode."""
        self.doorbell.ring_ahead()

    def mark_dirty(self) -> None:
        """Flush it at the end of the executor's turn."""
        if not self._is_dirty:
            self._is_dirty = True
            self._dirty.append(self)
            # At the end of a turn the executor polls us anyway; make sure that there is one.
            if not self._core._scheduled:
                self._core.wake()

    def flush(self) -> None:
        """Send what waits, as far as there is room, and tell the peer of all that is new to it."""
        self._is_dirty = False
        if not self.connected:
            return
        try:
            if self.has_backlog and not self._send_backlog():
                # The stall must be visible before we look once more: then either we see the room, or the peer our stall.
                self.producer.stall()
                self._send_backlog()
        except PoisonedRing as error:
            self.broken(error)
            return
        self._tell()
        self.make_sure()
        if self.crowded and self.backlog_bytes <= self.producer.capacity >> 1:
            self.crowded = False
            self.relieved()

    def _send_backlog(self) -> bool:
        while self.backlog:
            kind, queue, method, call, body = self.backlog[0]
            if not self.producer.push(kind, queue, method, call, body):
                return False
            self.backlog.popleft()
            self.backlog_bytes -= len(body)
            self.frames_sent += 1
        self.has_backlog = False
        return True

    def _tell(self) -> None:
        """Of what has been published. The peer has seen it, or the turn's end makes sure of that."""
        published = self.producer._tail
        if published != self._announced:
            self._announced = published
            self._owes = True
            self.doorbell.tell()
            if self._core._turn_ended:  # we are in none
                self.make_sure()
            if self._habit.heard_ns:
                self._habit.follow(now_ns())

    def make_sure(self) -> None:
        """That the peer has heard of all that it was told, or wakes up to."""
        if self._owes:
            self._owes = False
            self.doorbell.make_sure()

    def announce_room(self) -> None:
        """After taking frames in: if the peer waits for room in its ring to us, tell it."""
        if self.connected and self.consumer.producer_stalled():
            self.doorbell.announce()

    def hear(self) -> None:
        """The peer has news for us. If it sleeps, it may be time to wake it for what we shall have to say to that."""
        if (
            self.connected
            and self.doorbell.may_ring_ahead()
            and self._habit.hear(now_ns())
            and not self._core.is_busy()
        ):
            self.doorbell.ring_ahead()


def _ignore(*of_what: object) -> None:
    """Of whom nobody waits to hear."""
