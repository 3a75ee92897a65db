# cython: language_level=3, annotation_typing=False
"""A link: the pair of rings to one peer, the calls in flight over it, and the frames that wait for room.

Frames leave in the order in which they were sent, and the peer is told of each at once. While it is awake that costs a store
and a fence; if it sleeps, the bell is rung once, and it wakes up while we go on sending. Rejected: telling it once a turn
of the executor. Then the two took turns: one worked through its batch while the other slept. With 16 calls in flight that
was a quarter as fast, with 64 less than half, and the bell was rung more often, since each batch found the peer asleep.

What finds the ring full waits in `_backlog`, in this process's memory, until the end of the turn or the next news of the peer.
Once a ring's worth waits there the link is *crowded*, and new calls wait, as if there were no credit, until half of that has
found room: else a thousand calls of a megabyte each would lie there, and new memory costs more than copying does.
Credit bounds it: no more than `credit` calls are in flight to one peer for each queue that they run in there, each owes exactly
one reply, even when its caller has left, and only that reply gives the credit back. So two full rings cannot wait for each
other: each side always takes in what comes. A call that finds no credit waits here, encoded; the reply that brings credit
sends it at once, before its caller has run again, so nobody overtakes it.

Credit is counted for each queue (a `Lane`), so that a flood of calls into one does not keep a call into another waiting. A
one-way request is owed no reply; the peer counts those that are done and gives their credit back many at a time.

A link is *held* while its peer is replaced in good order: calls wait here as if there were no credit, over the end of the old
incarnation, until the new one is connected. Only a call that is made while serving one of the peer's own goes through, since
the peer waits for that before it leaves. That such a call is made on a task which the serving one has started cannot be seen;
so as long as calls of the peer's are being served, what waits is let through from time to time.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ChannelFull, MessageTooLarge, SchemaMismatch, ShardDied, ShardDown
from clockworker.executor._core_cy import Core
from clockworker.ipc._ahead_cy import Habit
from clockworker.ipc._call_cy import DEADLINE, Call, Channel, Method, new_call
from clockworker.ipc._deadlines import Deadlines
from clockworker.ipc._doorbell_cy import PeerDoorbell
from clockworker.ipc._frames import ENVELOPE, Kind, pack_envelope
from clockworker.ipc._limits import Limits
from clockworker.ipc._ring_cy import PoisonedRing, RingConsumer, RingProducer

if cython.compiled:
    from cython.cimports.clockworker.ipc._call_cy import DONE, SENT, WAITING
    from cython.cimports.clockworker.ipc._monotonic import now_ns
else:
    from time import monotonic_ns as now_ns

    from clockworker.ipc._call_cy import DONE, SENT, WAITING

_ONE_WAY = int(Kind.ONE_WAY)
_CANCEL = int(Kind.CANCEL)
_CREDIT = int(Kind.CREDIT)
_ENVELOPE = ENVELOPE
_DEADLINE = DEADLINE  # a C global when compiled


class Shared:
    """What all links of a mesh have in common."""

    core: Core
    loop: asyncio.AbstractEventLoop
    shard_id: int
    limits: Limits
    max_message: int
    encode: Any
    identifiers: dict[Any, int]  # of our queues' states
    deadlines: Deadlines
    dirty: list[Link]  # with something to flush
    calls_sent: int
    one_ways_sent: int
    new_earliest: Callable[[], None]  # a deadline is earlier than all others
    broken: Callable[[Link, PoisonedRing], None]

    def __init__(
        self,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        shard_id: int,
        limits: Limits,
        identifiers: dict[Any, int],
        new_earliest: Callable[[], None],
        broken: Callable[[Link, PoisonedRing], None],
    ) -> None:
        self.core = core
        self.loop = loop
        self.shard_id = shard_id
        self.limits = limits
        self.max_message = limits.max_message
        self.encode = msgspec.msgpack.Encoder().encode
        self.identifiers = identifiers
        self.deadlines = Deadlines()
        self.dirty = []
        self.calls_sent = 0
        self.one_ways_sent = 0
        self.new_earliest = new_earliest
        self.broken = broken


@cython.final
@cython.cclass
class Lane:
    """The credit for one queue of the peer, and who waits for it, first come, first served."""

    queue: int  # its identifier
    credit: int
    waiting: OrderedDict[Call, None]

    def __init__(self, queue: int, credit: int) -> None:
        self.queue = queue
        self.credit = credit
        self.waiting = OrderedDict()


@cython.final
@cython.cclass
class Debt:
    """Credit that we owe the peer."""

    queue: int  # the identifier of ours in which its one-way requests ran
    done: int  # how many of them

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self.done = 0


@cython.final
@cython.cclass
class Link(Channel):
    """One peer, connected or not. It stays the same object over the peer's incarnations."""

    shared: Shared
    peer: int
    epoch: int
    connected: bool
    pending: dict[int, Call]
    serving: dict[int, Any]  # the peer's calls: requests
    outgoing: dict[int, Any]  # the streams among them
    mismatches: dict[int, str]  # methods that the peer has another version of
    schemas: dict[str, Any]  # what services the peer has told of
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    credit_waits: int
    consumer: RingConsumer
    producer: RingProducer
    rings_before: int  # of the peer, at its earlier incarnations
    rings_ahead_before: int
    doorbell: PeerDoorbell
    lanes: dict[int, Lane]
    dirty: bool  # among those to be flushed
    when_quiet: Callable[[], None] | None  # while held: told when no call is in flight
    one_ways_done: int  # of the peer's

    def __init__(self, peer: int, shared: Shared) -> None:
        self.core = shared.core
        self.loop = shared.loop
        self.shared = shared
        self.peer = peer
        self.epoch = 0
        self.connected = False
        self.pending = {}
        self.serving = {}
        self.outgoing = {}
        self.mismatches = {}
        self.schemas = {}
        self.frames_sent = 0
        self.frames_received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.credit_waits = 0
        self.rings_before = 0
        self.rings_ahead_before = 0
        self.lanes = {}
        self.dirty = False
        self.when_quiet = None
        self.one_ways_done = 0
        self._habit = Habit()
        self._last_lane: Lane | None = None
        self._next_call = 0
        self._backlog: deque[tuple[int, int, int, int, bytes]] = deque()
        self._backlog_bytes = 0
        self._crowded = False
        self._announced = 0  # of what is published in the ring, how much the peer has been told of
        self._debts: dict[int, Debt] = {}
        self._last_debt: Debt | None = None
        self._many_owed = max(1, shared.limits.credit // 4)

    def connect(self, epoch: int, consumer: RingConsumer, producer: RingProducer, doorbell: PeerDoorbell) -> None:
        """A new incarnation of the peer, with rings that nobody has used."""
        self.epoch = epoch
        self.consumer = consumer
        self.producer = producer
        self.doorbell = doorbell
        self._announced = 0
        self._habit = Habit()
        self.connected = True

    def disconnect(self, reason: str) -> None:
        """The peer is gone. Calls in flight end in ShardDied, those that wait for credit in ShardDown, unless the link is held;
        its own are aborted, but for one-way requests: those it would not have heard of again."""
        if not self.connected:
            return
        self.connected = False
        self._backlog.clear()
        self._backlog_bytes = 0
        self._crowded = False
        pending, self.pending = self.pending, {}
        self._last_lane = None
        serving, self.serving = self.serving, {}
        self.outgoing = {}
        self._debts = {}
        self._last_debt = None
        self.mismatches = {}
        self.schemas = {}
        for call in pending.values():
            if call.state != DONE:
                call.fail(ShardDied(f"{reason} with {call.method.name} in flight; it may have run or not"))
                self._ended(call)
        for lane in self.lanes.values():
            lane.credit = self.shared.limits.credit
        if self.when_quiet is None:
            self._refuse_waiting()
        for request in serving.values():
            request.cancel()
        self.consumer.close()
        self.producer.close()
        self.rings_before += self.doorbell.rings
        self.rings_ahead_before += self.doorbell.rings_ahead
        self.doorbell.close()

    def hold(self, when_quiet: Callable[[], None]) -> None:
        """Keep new calls for the peer's next incarnation, and say when those in flight have been answered."""
        self.when_quiet = when_quiet
        if not self.pending:
            when_quiet()

    def release(self) -> None:
        """Hold no longer: what has waited is sent, or ends in ShardDown if there is no peer."""
        self.when_quiet = None
        if self.connected:
            for lane in list(self.lanes.values()):
                self._give_back(lane, 0)
        else:
            self._refuse_waiting()

    def let_through(self, epoch: int) -> bool:
        """While held and not quiet yet: send what waits to the incarnation of this epoch, if it may be waiting for it. False if
        it is held no longer."""
        if self.when_quiet is None or not self.connected or self.epoch != epoch:
            return False
        if self.pending and self.serving:
            for lane in list(self.lanes.values()):
                while lane.credit > 0 and lane.waiting:
                    call: Call = lane.waiting.popitem(last=False)[0]
                    self._begin(call)
        return True

    def where(self) -> str:
        return f"shard {self.peer}"

    def down(self) -> ShardDown:
        """The error of a call that finds no peer."""
        return ShardDown(f"shard {self.peer} is down; nothing was sent")

    # Calls out

    def submit(self, call: Call) -> None:
        """Send the call as soon as there is credit; first come, first served."""
        shared = self.shared
        method = call.method
        call.state = DONE  # until it is on its way
        if self.connected and not self._crowded and self.when_quiet is None:
            self.doorbell.ring_ahead()  # it wakes up while we encode
        body = shared.encode(call.arguments)
        call.arguments = None
        if not self.connected and self.when_quiet is None:
            raise self.down()
        if self.mismatches and method.identifier in self.mismatches:
            raise SchemaMismatch(self.mismatches[method.identifier])
        queue: int = method.queue_identifier
        group = None
        current = self.core.current
        if current is not None:
            membership = current.membership
            if queue == 0:
                queue = shared.identifiers[membership.queue]
            group = membership.group
        if call.deadline_ns or group is not None:
            body = pack_envelope(call.deadline_ns, group, shared.shard_id, body)
            call.kind |= _ENVELOPE
        if len(body) > shared.max_message:
            raise self.too_large(body, f"the arguments of {method.name}")
        lane = self._lane(queue)
        call.body = body
        call.lane = lane
        held = self.when_quiet is not None and not (self.connected and self._serves_peer())
        # A call that goes through while the link is held goes through in any case: the peer waits for it.
        crowded = self._crowded and self.when_quiet is None
        if lane.credit > 0 and not held and not crowded:
            self._begin(call)
        elif call.nowait and not (held and len(lane.waiting) < lane.credit):
            if crowded:
                full = f"{self._backlog_bytes:,} bytes wait for room in the ring to shard {self.peer}"
            else:
                full = (
                    f"{shared.limits.credit:,} calls are in flight to shard {self.peer} in this queue, "
                    "which is all the credit that there is"
                )
            raise ChannelFull(f"{full}; {method.name} was not called")
        else:
            if not held:
                self.credit_waits += 1
            call.state = WAITING
            lane.waiting[call] = None
        if call.deadline_ns and call.state != DONE and shared.deadlines.add(call.deadline_ns, call):
            shared.new_earliest()

    def post(self, method: Method, arguments: tuple[Any, ...]) -> Call | None:
        """A one-way request, sent. Or the call to wait for, where it is not as simple as that."""
        shared = self.shared
        queue: int = method.queue_identifier
        current = self.core.current
        if current is not None:
            membership = current.membership
            if membership.group is not None:
                return new_call(self, _ONE_WAY, method, arguments, 0, False)
            if queue == 0:
                queue = shared.identifiers[membership.queue]
        lane = self._lane(queue)
        if lane.credit <= 0 or not self.connected or self._crowded or self.when_quiet is not None or self.mismatches:
            return new_call(self, _ONE_WAY, method, arguments, 0, False)
        if _DEADLINE.get():
            return new_call(self, _ONE_WAY, method, arguments, 0, False)
        self.doorbell.ring_ahead()
        body = shared.encode(arguments)
        if len(body) > shared.max_message:
            raise self.too_large(body, f"the arguments of {method.name}")
        lane.credit -= 1
        self._next_call += 1
        shared.one_ways_sent += 1
        self.send(_ONE_WAY, queue, method.identifier, self._next_call, body)
        return None

    def _lane(self, queue: int) -> Lane:
        lane = self._last_lane
        if lane is None or lane.queue != queue:
            lane = self.lanes.get(queue)
            if lane is None:
                lane = self.lanes[queue] = Lane(queue, self.shared.limits.credit)
            self._last_lane = lane
        return lane

    def leave(self, call: Call) -> None:
        if call.state == WAITING:
            lane: Lane = call.lane
            lane.waiting.pop(call, None)
        elif call.state == SENT and call.number in self.pending:
            self.send(_CANCEL, 0, 0, call.number, b"")
        self._ended(call)

    def settle(self, number: int) -> Call | None:
        """The call whose answer has come. Its credit goes to who waits. None for an answer that nobody asked for."""
        call: Call | None = self.pending.pop(number, None)
        if call is not None:
            self._give_back(call.lane, 1)
            if call.deadline_ns and call.state != DONE:
                self._ended(call)
            if self.when_quiet is not None and not self.pending:
                self.when_quiet()
        return call

    def give_back(self, queue: int, count: int) -> None:
        """One-way requests are done there."""
        lane = self.lanes.get(queue)
        if lane is None or lane.credit + count > self.shared.limits.credit:
            raise PoisonedRing(f"credit for {count} requests that were not sent")
        self._give_back(lane, count)

    def _give_back(self, lane: Lane, count: int) -> None:
        lane.credit += count
        while lane.credit > 0 and lane.waiting and self.when_quiet is None and not self._crowded:
            call: Call = lane.waiting.popitem(last=False)[0]
            self._begin(call)

    def _begin(self, call: Call) -> None:
        lane: Lane = call.lane
        lane.credit -= 1
        self._next_call += 1
        call.number = self._next_call
        body = call.body
        call.body = b""
        if call.kind & ~_ENVELOPE == _ONE_WAY:
            self.shared.one_ways_sent += 1
            if call.state == WAITING:
                self._ended(call)
            call.finish(_ONE_WAY, b"")
        else:
            self.shared.calls_sent += 1
            call.state = SENT
            self.pending[call.number] = call
        self.send(call.kind, lane.queue, call.method.identifier, call.number, body)

    def _serves_peer(self) -> bool:
        """Whether the running task serves a call of the peer's."""
        task = asyncio.current_task(self.loop)
        return any(request.runs_in(task) for request in self.serving.values())

    def _refuse_waiting(self) -> None:
        lanes, self.lanes = self.lanes, {}
        self._last_lane = None
        for lane in lanes.values():
            for call in lane.waiting:
                call.fail(self.down())
                self._ended(call)

    def _ended(self, call: Call) -> None:
        if call.deadline_ns:
            self.shared.deadlines.answered()

    # Calls in

    def hear(self) -> None:
        """The peer has news for us. If it sleeps, it may be time to wake it for what we shall have to say to that."""
        if self.connected and self.doorbell.may_ring_ahead() and self._habit.hear(now_ns()) and not self.core.is_busy():
            self.doorbell.ring_ahead()

    def answer(self, epoch: int, number: int, kind: int, body: bytes) -> None:
        """Once for each of the peer's calls, unless it has been answered as cancelled, or the peer is another by now."""
        if epoch == self.epoch and number in self.serving:
            del self.serving[number]
            if self.outgoing:
                self.outgoing.pop(number, None)
            self.send(kind, 0, 0, number, body)

    def owe(self, epoch: int, queue: int) -> None:
        """One of the peer's one-way requests is done."""
        if epoch == self.epoch and self.connected:
            debt = self._last_debt
            if debt is None or debt.queue != queue:
                debt = self._debts.get(queue)
                if debt is None:
                    debt = self._debts[queue] = Debt(queue)
                self._last_debt = debt
            debt.done += 1
            if debt.done >= self._many_owed:
                done = debt.done
                debt.done = 0
                self.send(_CREDIT, queue, 0, done, b"")

    def too_large(self, body: bytes, what: str) -> MessageTooLarge:
        return MessageTooLarge(
            f"{what} is {len(body):,} bytes encoded; max_message is {self.shared.max_message:,}. Nothing was sent"
        )

    # Frames out

    def send(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        """Put a frame into the ring, or behind those that wait for room."""
        if not self.connected:
            return
        self.bytes_sent += len(body)
        try:
            if self._backlog or not self.producer.push(kind, queue, method, call, body):
                self._backlog.append((kind, queue, method, call, body))
                self._backlog_bytes += len(body)
                self._crowded = self._crowded or self._backlog_bytes > self.producer.capacity
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
            if self._backlog and not self._send_backlog():
                # The stall must be visible before we look once more: then either we see the room, or the peer our stall.
                self.producer.stall()
                self._send_backlog()
        except PoisonedRing as error:
            self.shared.broken(self, error)
            return
        if self._crowded and self._backlog_bytes <= self.producer.capacity >> 1:
            self._crowded = False
            for lane in list(self.lanes.values()):
                self._give_back(lane, 0)
            if not self.connected:  # its ring was broken
                return
        self._announce()

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
        if self.consumer.producer_stalled():
            self.doorbell.announce()

    def _send_backlog(self) -> bool:
        while self._backlog:
            kind, queue, method, call, body = self._backlog[0]
            if not self.producer.push(kind, queue, method, call, body):
                return False
            self._backlog.popleft()
            self._backlog_bytes -= len(body)
            self.frames_sent += 1
        return True


def open_link_ends(
    incoming: int, outgoing: int, doorbell: tuple[int, int], own: int, max_message: int
) -> tuple[RingConsumer, RingProducer, PeerDoorbell]:
    """Map what the supervisor passed for one peer, and close the descriptors that are not needed any more."""
    memory, eventfd = doorbell
    opened: list[RingConsumer | RingProducer] = []
    try:
        opened.append(consumer := RingConsumer(incoming, max_message))
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
