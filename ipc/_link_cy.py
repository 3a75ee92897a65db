# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A link: the calls between us and one peer, over a connection (`_connection_cy`) and under its credit (`_credit_cy`).

A call of ours is sent at once if there is credit and the connection is not crowded; else it waits in its lane, or if it will
not wait it ends in ChannelFull. In flight it is `pending`, until the answer comes. A call of the peer's is `serving`, until it
is answered. When the peer dies, all of them end.

A link is *held* while its peer is replaced in good order: calls wait here as if there were no credit, over the end of the old
incarnation, until the new one is connected. Only a call that is made while serving one of the peer's own goes through, since
the peer waits for that before it leaves. That such a call is made on a task which the serving one has started cannot be seen;
so as long as calls of the peer's are being served, what waits is let through from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ChannelFull, MessageTooLarge, SchemaMismatch, ShardDied, ShardDown
from clockworker.ipc._call_cy import DEADLINE, Call, Method, new_call, unsendable
from clockworker.ipc._connection_cy import Connection
from clockworker.ipc._credit_cy import Credit, Debts, Lane
from clockworker.ipc._frames import ENVELOPE, Kind, pack_envelope
from clockworker.ipc._shared_cy import Shared

if cython.compiled:
    from cython.cimports.clockworker.executor._native import context_int
    from cython.cimports.clockworker.ipc._call_cy import DONE, SENT, WAITING
else:
    from clockworker.ipc._call_cy import DONE, SENT, WAITING

_ONE_WAY = int(Kind.ONE_WAY)
_CANCEL = int(Kind.CANCEL)
_CREDIT = int(Kind.CREDIT)
_ENVELOPE = ENVELOPE
_DEADLINE = DEADLINE  # a C global when compiled


@cython.final
@cython.cclass
class Link(Connection):
    """Calls to and from one peer."""

    pending: dict[int, Call]
    serving: dict[int, Any]  # the peer's calls: requests
    outgoing: dict[int, Any]  # the streams among them
    mismatches: dict[int, str]  # methods whose version the peer does not understand
    variants: dict[int, Any]  # whose calls by the peer are not as ours: a Target for them, or a str: why there is none
    schemas: dict[str, Any]  # what services the peer has told of
    credit: Credit
    credit_waits: int
    one_ways_done: int  # of the peer's
    when_quiet: Callable[[], None] | None  # while held: told when no call is in flight

    def __init__(self, peer: int, shared: Shared) -> None:
        super().__init__(peer, shared)
        self.pending = {}
        self.serving = {}
        self.outgoing = {}
        self.mismatches = {}
        self.variants = {}
        self.schemas = {}
        self.credit = Credit(shared.limits.credit)
        self.credit_waits = 0
        self.one_ways_done = 0
        self.when_quiet = None
        self._debts = Debts(shared.limits.credit)
        self._next_call = 0

    def disconnect(self, reason: str) -> None:
        """The peer is gone. Calls in flight end in ShardDied, those that wait for credit in ShardDown, unless the link is held;
        its own are aborted, but for one-way requests: those it would not have heard of again."""
        if not self.connected:
            return
        self.close()
        pending, self.pending = self.pending, {}
        serving, self.serving = self.serving, {}
        self.outgoing = {}
        self.mismatches = {}
        self.variants = {}
        self.schemas = {}
        self._debts = Debts(self.shared.limits.credit)
        for call in pending.values():
            if call.state != DONE:
                call.fail(ShardDied(f"{reason} with {call.method.name} in flight; it may have run or not"))
                self._ended(call)
        self.credit.restore()
        if self.when_quiet is None:
            self._refuse_waiting()
        for request in serving.values():
            request.cancel()

    def hold(self, when_quiet: Callable[[], None]) -> None:
        """Keep new calls for the peer's next incarnation, and say when those in flight have been answered."""
        self.when_quiet = when_quiet
        if not self.pending:
            when_quiet()

    def release(self) -> None:
        """Hold no longer: what has waited is sent, or ends in ShardDown if there is no peer."""
        self.when_quiet = None
        if self.connected:
            self.relieved()
        else:
            self._refuse_waiting()

    def let_through(self, epoch: int) -> bool:
        """While held and not quiet yet: send what waits to the incarnation of this epoch, if it may be waiting for it. False if
        it is held no longer."""
        if self.when_quiet is None or not self.connected or self.epoch != epoch:
            return False
        if self.pending and self.serving:
            for lane in list(self.credit.lanes.values()):
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
        if self.connected and not self.crowded and self.when_quiet is None:
            self.doorbell.ring_ahead()  # it wakes up while we encode
        try:
            body = shared.encode(call.arguments)
        except Exception as error:
            raise unsendable(method, call.arguments, shared.encode, error) from error
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
        lane = self.credit.lane(queue)
        call.body = body
        call.lane = lane
        held = self.when_quiet is not None and not (self.connected and self._serves_peer())
        # A call that goes through while the link is held goes through in any case: the peer waits for it.
        crowded = self.crowded and self.when_quiet is None
        if lane.credit > 0 and not held and not crowded:
            self._begin(call)
        elif call.nowait and not (held and len(lane.waiting) < lane.credit):
            if crowded:
                full = f"{self.backlog_bytes:,} bytes wait for room in the ring to shard {self.peer}"
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
        lane = self.credit.lane(queue)
        if lane.credit <= 0 or not self.connected or self.crowded or self.when_quiet is not None or self.mismatches:
            return new_call(self, _ONE_WAY, method, arguments, 0, False)
        if context_int(_DEADLINE) if cython.compiled else _DEADLINE.get():
            return new_call(self, _ONE_WAY, method, arguments, 0, False)
        self.doorbell.ring_ahead()
        try:
            body = shared.encode(arguments)
        except Exception as error:
            raise unsendable(method, arguments, shared.encode, error) from error
        if len(body) > shared.max_message:
            raise self.too_large(body, f"the arguments of {method.name}")
        lane.credit -= 1
        self._next_call += 1
        shared.one_ways_sent += 1
        self.send(_ONE_WAY, queue, method.identifier, self._next_call, body)
        return None

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
        self._give_back(self.credit.lane_of_done(queue, count), count)

    def relieved(self) -> None:
        """Those who wait may go, as far as there is credit."""
        for lane in list(self.credit.lanes.values()):
            self._give_back(lane, 0)

    def _give_back(self, lane: Lane, count: int) -> None:
        lane.credit += count
        while lane.credit > 0 and lane.waiting and self.when_quiet is None and not self.crowded:
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
        for call in self.credit.clear():
            call.fail(self.down())
            self._ended(call)

    def _ended(self, call: Call) -> None:
        if call.deadline_ns:
            self.shared.deadlines.answered()

    # Calls in

    def answer(self, epoch: int, number: int, kind: int, body: bytes) -> None:
        """Once for each of the peer's calls, unless it has been answered as cancelled, or the peer is another by now."""
        if epoch == self.epoch and self.serving.pop(number, None) is not None:
            if self.outgoing:
                self.outgoing.pop(number, None)
            self.send(kind, 0, 0, number, body)

    def owe(self, epoch: int, queue: int) -> None:
        """One of the peer's one-way requests is done."""
        if epoch == self.epoch and self.connected:
            done = self._debts.add(queue)
            if done:
                self.send(_CREDIT, queue, 0, done, b"")

    def too_large(self, body: bytes, what: str) -> MessageTooLarge:
        return MessageTooLarge(
            f"{what} is {len(body):,} bytes encoded; max_message is {self.shared.max_message:,}. Nothing was sent"
        )
