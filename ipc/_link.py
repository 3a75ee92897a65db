"""A link: the pair of rings to one peer, the calls in flight over it, and the frames that wait for room.

Frames leave in the order in which they were sent. What finds the ring full waits in `_backlog`, in this process's memory.
Credit bounds it: no more than `credit` calls are in flight to one peer, each owes exactly one reply, even when its caller
has left, and only that reply gives the credit back. So two full rings cannot wait for each other: each side always takes
in what comes. A call that finds no credit waits here, encoded; the reply that brings credit sends it at once, before its
caller has run again, so nobody overtakes it.

A link is *held* while its peer is replaced in good order: calls wait here as if there were no credit, over the death of the
old incarnation, until the new one is connected. Only a call that is made while serving one of the peer's own goes through,
since the peer waits for that before it leaves.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from clockworker._errors import ConfigurationError, MessageTooLarge, ShardDied, ShardDown
from clockworker.ipc._doorbell_cy import PeerDoorbell
from clockworker.ipc._frames import Kind, Reassembly, pieces
from clockworker.ipc._remote import RemoteMethod
from clockworker.ipc._ring_cy import RingConsumer, RingProducer


class Limits(msgspec.Struct, frozen=True):
    """Bounds of a mesh. max_message: bytes of one encoded call or reply. credit: calls in flight from here to one peer."""

    max_message: int = 16 * 1024 * 1024
    credit: int = 1_024

    def __post_init__(self) -> None:
        for name, value in (("max_message", self.max_message), ("credit", self.credit)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from 1")


class Call:
    """A call of ours: what it asks for, and the future of its caller."""

    __slots__ = ("body", "future", "method", "number", "queue")

    def __init__(self, method: RemoteMethod, queue: int, body: bytes, future: asyncio.Future[Any]) -> None:
        self.method = method
        self.queue = queue
        self.body = body  # until it is sent
        self.future = future
        self.number = 0  # from when it is sent


class Link:
    """One peer, connected or not. It stays the same object over the peer's incarnations."""

    def __init__(self, peer: int, limits: Limits) -> None:
        self.peer = peer
        self.epoch = 0
        self.connected = False
        self.pending: dict[int, Call] = {}
        self.serving: dict[int, asyncio.Task[None] | None] = {}  # None while its first step runs at birth
        self.frames_sent = 0
        self.frames_received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.credit_waits = 0
        self.rings_before = 0  # of the doorbells of earlier incarnations
        self.consumer: RingConsumer
        self.reassembly: Reassembly
        self._limits = limits
        self._credit = 0
        self._next_call = 0
        self._backlog: deque[tuple[int, int, int, int, bytes]] = deque()
        self._waiting_for_credit: deque[Call] = deque()
        self._when_quiet: Callable[[], None] | None = None  # while held
        self._flushed = 0  # frames that the peer has been told of

    def connect(self, epoch: int, consumer: RingConsumer, producer: RingProducer, doorbell: PeerDoorbell) -> None:
        """A new incarnation of the peer, with rings that nobody has used."""
        self.epoch = epoch
        self.consumer = consumer
        self.producer = producer
        self.doorbell = doorbell
        self.largest_frame = producer.capacity >> 2
        self.reassembly = Reassembly(self._limits.max_message)
        self._flushed = self.frames_sent
        self._credit = self._limits.credit
        self.connected = True
        self._when_quiet = None
        self._begin_waiting()

    def disconnect(self, reason: str) -> None:
        """The peer is gone. Calls in flight end in ShardDied, those that wait for credit in ShardDown unless the link is held;
        its own are aborted."""
        if not self.connected:
            return
        self.connected = False
        self._backlog.clear()
        for call in self.pending.values():
            if not call.future.done():
                call.future.set_exception(
                    ShardDied(f"{reason} with {call.method.name} in flight; it may have run or not")
                )
        self.pending.clear()
        if self._when_quiet is None:
            self._refuse_waiting()
        for task in self.serving.values():
            if task is not None:
                task.cancel()
        self.serving.clear()
        self.rings_before += self.doorbell.rings
        self.consumer.close()
        self.producer.close()
        self.doorbell.close()

    def hold(self, when_quiet: Callable[[], None]) -> None:
        """Keep new calls for the peer's next incarnation, and say when those in flight have been answered."""
        self._when_quiet = when_quiet
        if not self.pending:
            when_quiet()

    def release(self) -> None:
        """Hold no longer."""
        self._when_quiet = None
        if self.connected:
            self._begin_waiting()
        else:
            self._refuse_waiting()

    def down(self) -> ShardDown:
        """The error of a call that finds no peer."""
        return ShardDown(f"shard {self.peer} is down; nothing was sent")

    def submit(self, call: Call) -> None:
        """Send the call as soon as there is credit; first come, first served. ShardDown if the peer is down."""
        if self._when_quiet is not None and not (self.connected and self._serves_peer()):
            self._waiting_for_credit.append(call)
        elif not self.connected:
            raise self.down()
        elif self._credit > 0:
            self._begin(call)
        else:
            self.credit_waits += 1
            self._waiting_for_credit.append(call)

    def settle(self, number: int) -> Call | None:
        """The call whose reply has come. Its credit goes to who waits. None for a reply that nobody asked for."""
        call = self.pending.pop(number, None)
        if call is not None:
            self._credit += 1
            if self._when_quiet is None:
                self._begin_waiting()
            elif not self.pending:
                self._when_quiet()
        return call

    def in_flight(self, call: Call) -> bool:
        """Whether the call was sent and its reply has not come."""
        return self.pending.get(call.number) is call

    def check_size(self, body: bytes, what: str) -> None:
        """Raise MessageTooLarge if the body may not be sent."""
        if len(body) > self._limits.max_message:
            raise MessageTooLarge(
                f"{what} is {len(body):,} bytes encoded; max_message is {self._limits.max_message:,}. Nothing was sent"
            )

    def send(self, kind: Kind, queue: int, method: int, call: int, body: bytes) -> None:
        """Put a frame into the ring, or behind those that wait for room. The peer is told at the next flush."""
        self.bytes_sent += len(body)
        if len(body) <= self.largest_frame:
            self._send_frame(kind, queue, method, call, body)
            return
        for last, piece in pieces(body, self.largest_frame):
            self._send_frame(kind if last else Kind.CHUNK, queue, method, call, piece)

    def flush(self) -> None:
        """Send what waits, as far as there is room, and tell the peer of all that is new to it."""
        if not self.connected:
            return
        if self._backlog and not self._send_backlog():
            # The stall must be visible before we look once more: then either we see the room, or the peer our stall.
            self.producer.stall()
            self._send_backlog()
        if self.frames_sent != self._flushed:
            self._flushed = self.frames_sent
            self.doorbell.announce()

    def announce_room(self) -> None:
        """After taking frames in: if the peer waits for room in its ring to us, tell it."""
        if self.consumer.producer_stalled():
            self.doorbell.announce()

    def _send_frame(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        if self._backlog or not self.producer.push(kind, queue, method, call, body):
            self._backlog.append((kind, queue, method, call, body))
        else:
            self.frames_sent += 1

    def _send_backlog(self) -> bool:
        while self._backlog:
            if not self.producer.push(*self._backlog[0]):
                return False
            self._backlog.popleft()
            self.frames_sent += 1
        return True

    def _serves_peer(self) -> bool:
        """Whether the running task serves a call of the peer's."""
        return asyncio.current_task() in self.serving.values()

    def _begin_waiting(self) -> None:
        while self._credit > 0 and self._waiting_for_credit:
            waiting = self._waiting_for_credit.popleft()
            if not waiting.future.done():  # else its caller has left
                self._begin(waiting)

    def _refuse_waiting(self) -> None:
        for call in self._waiting_for_credit:
            if not call.future.done():
                call.future.set_exception(self.down())
        self._waiting_for_credit.clear()

    def _begin(self, call: Call) -> None:
        self._credit -= 1
        self._next_call += 1
        call.number = self._next_call
        self.pending[call.number] = call
        body, call.body = call.body, b""
        self.send(Kind.REQUEST, call.queue, call.method.identifier, call.number, body)


def open_link_ends(
    incoming: int, outgoing: int, doorbell: tuple[int, int], own: int
) -> tuple[RingConsumer, RingProducer, PeerDoorbell]:
    """Map what the supervisor passed for one peer, and close the descriptors that are not needed any more."""
    memory, eventfd = doorbell
    opened: list[RingConsumer | RingProducer] = []
    try:
        opened.append(consumer := RingConsumer(incoming))
        opened.append(producer := RingProducer(outgoing))
        return consumer, producer, PeerDoorbell(memory, eventfd, own)
    except BaseException:
        for end in opened:
            end.close()
        os.close(eventfd)
        raise
    finally:
        for descriptor in (incoming, outgoing, memory):
            os.close(descriptor)
