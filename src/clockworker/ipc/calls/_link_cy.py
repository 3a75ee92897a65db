# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A link: the calls between us and one peer, over a connection (`_connection_cy`) and under its credit (`_credit_cy`).

A call of ours is sent at once if there is credit and the connection is not crowded; else it waits in its lane, or if it will
not wait it ends in ChannelFull. In flight it is `pending`, until the answer comes. A call of the peer's is `serving`, until
it is answered. When the peer dies, all of them end.

While a peer is replaced in good order there are two of it, the old incarnation and its successor, and for each there is a link:
the peer's own, through which everybody calls, and its *other*. Calls go to the incarnation that has the place, first the old
one and after the change the new one, so no call waits for a replacement. Those in flight are answered by whom they were sent
to. A call that is part of a request of the peer's goes to the incarnation that asked, which waits for it. At the next
replacement the two links change parts.

Where the old incarnation hands over its state, the link to it is suspended before that: new calls wait in their lanes, and go
to the successor at the change, in the order in which they were made. A call that is made within others may be what one waits
for that is running there, and is let through when that seems to be so (`suspend`).

The peer may be found to have broken its ring whenever something is sent to it, and all calls end at once then: also in the
midst of a loop here over those that wait or are in flight. So each such loop looks at each turn at what is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ChannelFull, MessageTooLarge, SchemaMismatch, ShardDown, UsageError
from clockworker.ipc.calls._call_cy import Call, Channel, Method, new_call, unsendable
from clockworker.ipc.calls._chain_cy import CHAIN, DEEPEST, pack_envelope
from clockworker.ipc.calls._credit_cy import Credit, Debts, Lane
from clockworker.ipc.calls._frames import ENVELOPE, FLAGS, KEYED, Kind
from clockworker.ipc.calls._shared_cy import Shared
from clockworker.ipc.rings._connection_cy import Connection, RingConnection, Worklist

if cython.compiled:
    from cython.cimports.clockworker.executor._native import call_or_error
    from cython.cimports.clockworker.ipc.calls._call_cy import DONE, SENT, WAITING
    from cython.cimports.clockworker.ipc.calls._native import context_get
    from cython.cimports.clockworker.ipc.rings._monotonic import now_ns
else:
    from time import monotonic_ns as now_ns

    from clockworker.executor._pure import call_or_error
    from clockworker.ipc.calls._call_cy import DONE, SENT, WAITING

_ONE_WAY = int(Kind.ONE_WAY)
_CANCEL = int(Kind.CANCEL)
_CREDIT = int(Kind.CREDIT)
_ENVELOPE = ENVELOPE
_KEYED = KEYED
_FLAGS = FLAGS
_CHAIN = CHAIN  # C globals when compiled
_DEEPEST = DEEPEST


@cython.final
@cython.cclass
class Link(Channel):
    """Calls to and from one peer."""

    connection: Connection
    shared: Shared
    peer: int
    pending: dict[int, Call]
    serving: dict[int, Any]  # the peer's calls: requests
    outgoing: dict[int, Any]  # the streams among them
    mismatches: dict[int, str]  # methods whose version the peer does not understand
    variants: dict[int, Any]  # whose calls by the peer are not as ours: a Target for them, or a str: why there is none
    schemas: dict[str, Any]  # what services the peer has told of
    credit: Credit
    credit_waits: int
    streams: int  # open to the peer
    one_ways_done: int  # of the peer's
    other: Link | None  # to the peer's other incarnation; None: this is the other
    changed: bool  # the other's incarnation has the place
    split: bool  # calls may be for the other
    holding: bool  # suspended
    when_quiet: Callable[[], None] | None  # after the change: told when no call to the old incarnation is in flight

    def __init__(self, connection: Connection | int, shared: Shared) -> None:
        """connection: or the peer's number, for one over rings that nobody flushes, outside a mesh."""
        if connection is None or shared is None:
            raise TypeError("a link has a connection, and a mesh that it is of")
        if isinstance(connection, int):
            connection = RingConnection(connection, shared.core, Worklist())
        self.core = shared.core
        self.loop = shared.loop
        self.connection = connection
        self.shared = shared
        self.peer = connection.peer
        connection.relieved = self.relieved
        connection.broken = self._broken
        self.pending = {}
        self.serving = {}
        self.outgoing = {}
        self.mismatches = {}
        self.variants = {}
        self.schemas = {}
        self.credit = Credit(shared.limits.credit)
        self.credit_waits = 0
        self.streams = 0
        self.one_ways_done = 0
        self.other = None
        self.changed = False
        self.split = False
        self.holding = False
        self.when_quiet = None
        self._debts = Debts(shared.limits.credit)
        self._next_call = 0

    @property
    def connected(self) -> bool:
        return self.connection.connected

    def connect(self, epoch: int, *ends: Any) -> None:
        """A new incarnation of the peer, at the other ends of these."""
        self.connection.connect(epoch, *ends)  # type: ignore[attr-defined]

    def disconnect(self, reason: str, keep: bool = False) -> None:
        """The peer is gone. Calls in flight end in ShardDied, those that wait for credit in ShardDown; its own are aborted, but
        for one-way requests: those it would not have heard of again. keep: those that wait go on waiting, for another."""
        if not self.connection.connected:
            return
        self.connection.close()
        pending, self.pending = self.pending, {}
        serving, self.serving = self.serving, {}
        self.outgoing = {}
        self.mismatches = {}
        self.variants = {}
        self.schemas = {}
        self._debts = Debts(self.shared.limits.credit)
        self.streams = 0
        for call in pending.values():
            if call.state != DONE:
                self._fail(call, self.connection.died(reason, call.method.name))
        self.when_quiet = None
        self.holding = False
        if keep:
            self.credit.renew()
        else:
            self._refuse_waiting()
        for request in serving.values():
            try:
                request.cancel()
            except Exception as error:  # of a future of the application's, which is told that nobody waits for it
                self.loop.call_exception_handler(
                    {"message": f"cancelling a call of {self.where()} failed", "exception": error}
                )

    def pair(self, other: Link) -> None:
        """This is the peer's own link, and that its other."""
        self.other = other

    def look_for_split(self) -> None:
        """One of the two was connected, or disconnected."""
        assert self.other is not None
        self.split = self.changed or self.other.connection.connected

    def present(self) -> Link:
        """The link to the incarnation that has the place."""
        return self.other if self.changed and self.other is not None else self

    def change(self, when_quiet: Callable[[], None]) -> None:
        """The peer's successor takes its place. `when_quiet` is called once the calls in flight to the old one have been
        answered."""
        assert self.other is not None
        old = self.present()
        self.changed = not self.changed
        self.look_for_split()
        old.holding = False
        self.present().inherit(old)
        old.hold(when_quiet)

    def inherit(self, old: Link) -> None:
        """What waits for credit there waits for it here."""
        for theirs in list(old.credit.lanes.values()):
            lane = self.credit.lane(theirs.queue, theirs.depth)
            while theirs.waiting:
                call, since = theirs.waiting.popitem(last=False)
                call.channel = self
                call.lane = lane
                lane.waiting[call] = since
        self.relieved()

    def hold(self, when_quiet: Callable[[], None]) -> None:
        """There will be no new calls, but for those of tasks that serve this incarnation."""
        if self.connection.connected and self.pending:
            self.when_quiet = when_quiet
        else:
            when_quiet()

    def suspend(self) -> None:
        """New calls wait. Again: of those that wait, the ones that are made within others go now, and the rest still waits.
        One of them may be what is waited for by a call that is running there."""
        if self.holding:
            self.holding = False
            for lane in list(self.credit.lanes.values()):
                if lane.depth > 0:
                    self._give_back(lane, 0)
        self.holding = self.connection.connected

    def resume(self) -> None:
        """What waits goes to whom it was meant for."""
        if self.holding:
            self.holding = False
            self.relieved()

    def _way(self) -> Link:
        """The link for a call that is made now."""
        other = self.other
        assert other is not None
        within = CHAIN.get()
        if within is not None and within.within is not None:
            within = within.within
        if within is not None and not within.ended and (within.asked_by is self or within.asked_by is other):
            return within.asked_by
        return other if self.changed else self

    def where(self) -> str:
        return self.connection.where

    def down(self) -> ShardDown | UsageError:
        """The error of a call that finds no peer."""
        if self.shared.refusal is not None:
            return UsageError(self.shared.refusal)
        return self.connection.down()

    # Calls out

    def submit(self, call: Call) -> None:
        """Send the call as soon as there is credit; first come, first served."""
        if self.split:
            way = self._way()
            if way is not self:
                call.channel = way
                way.submit(call)
                return
        shared = self.shared
        connection = self.connection
        method = call.method
        call.state = DONE  # until it is on its way
        depth = call.depth
        if connection.connected and not connection.crowded:
            connection.send_soon()
        encoded = call_or_error(shared.encode, call.arguments)
        if type(encoded) is not bytes:
            raise self._unsendable(method, call.arguments, encoded)
        body: bytes = encoded
        call.arguments = None
        if not connection.connected:
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
        if call.deadline_ns or group is not None or depth:
            body = pack_envelope(call.deadline_ns, group, depth, shared.place, body)
            call.kind |= _ENVELOPE
        if call.kind & _KEYED:
            body = call.key + body
        if len(body) > shared.max_message:
            raise self.too_large(body, f"the arguments of {method.name}")
        lane = self.credit.lane(queue, depth)
        call.body = body
        call.lane = lane
        if lane.credit > 0 and not connection.crowded and not self.holding:
            self._begin(call)
        elif (call.nowait and not self._will_begin(lane)) or (depth == _DEEPEST and lane.credit <= 0):
            raise self._full(call, connection.crowded)
        else:
            call.state = WAITING
            lane.waiting[call] = now_ns()
            self.credit_waits += 1
            if not shared.watched:
                shared.watch()
        if call.deadline_ns and call.state != DONE and shared.deadlines.add(call.deadline_ns, call):
            shared.new_earliest()

    def _will_begin(self, lane: Lane) -> bool:
        """Whether one more call has credit, and is sent as soon as the link is no longer suspended."""
        return self.holding and not self.connection.crowded and len(lane.waiting) < lane.credit

    def _full(self, call: Call, crowded: bool) -> ChannelFull:
        """The error of a call that finds no credit and does not wait."""
        lane: Lane = call.lane
        if crowded:
            full = f"{self.connection.backlog_bytes:,} bytes wait for room on the way to {self.where()}"
        else:
            full = (
                f"{self.credit.limit:,} calls are in flight to {self.where()} in this queue, "
                "which is all the credit that there is"
            )
            if lane.depth:
                full += f" at depth {lane.depth}"
            if lane.depth == _DEEPEST:
                full += f" (a call made within {_DEEPEST} others or more, each waiting for the next, does not wait for credit)"
        return ChannelFull(f"{full}; {call.method.name} was not called")

    def post(self, method: Method, arguments: tuple[Any, ...]) -> Call | None:
        """A one-way request, sent. Or the call to wait for, where it is not as simple as that."""
        self.check_thread(method.name)
        shared = self.shared
        connection = self.connection
        within = context_get(_CHAIN) if cython.compiled else _CHAIN.get()
        if within is not None:
            return new_call(self, _ONE_WAY, method, arguments, 0, False)
        queue: int = method.queue_identifier
        current = self.core.current
        if current is not None:
            membership = current.membership
            if membership.group is not None:
                return new_call(self, _ONE_WAY, method, arguments, 0, False)
            if queue == 0:
                queue = shared.identifiers[membership.queue]
        lane = self.credit.lane(queue, 0)
        if lane.credit <= 0 or not connection.connected or connection.crowded or self.split or self.mismatches:
            return new_call(self, _ONE_WAY, method, arguments, 0, False)
        connection.send_soon()
        encoded = call_or_error(shared.encode, arguments)
        if type(encoded) is not bytes:
            raise self._unsendable(method, arguments, encoded)
        body: bytes = encoded
        if len(body) > shared.max_message:
            raise self.too_large(body, f"the arguments of {method.name}")
        lane.credit -= 1
        self._next_call += 1
        shared.one_ways_sent += 1
        self.connection.send(_ONE_WAY, queue, method.identifier, self._next_call, body)
        return None

    def _unsendable(self, method: Method, arguments: Any, error: BaseException) -> BaseException:
        """What to raise of arguments that could not be encoded."""
        if not isinstance(error, Exception):
            return error
        found = unsendable(method, arguments, self.shared.encode, error)
        found.__cause__ = error
        return found

    def leave(self, call: Call) -> None:
        if call.state == WAITING:
            lane: Lane = call.lane
            lane.waiting.pop(call, None)
        elif call.state == SENT and call.number in self.pending:
            self.connection.send(_CANCEL, 0, 0, call.number, b"")
        self._ended(call)

    def settle(self, number: int) -> Call | None:
        """The call whose answer has come. Its credit goes to who waits. None for an answer that nobody asked for."""
        call: Call | None = self.pending.pop(number, None)
        if call is not None:
            if not call.method.streams:
                self._give_back(call.lane, 1)
            else:
                self.streams -= 1
                if call.opening:
                    self._begun(call)
            if call.deadline_ns and call.state != DONE:
                self._ended(call)
            if self.when_quiet is not None and not self.pending:
                self.when_quiet()
                self.when_quiet = None
        return call

    def begun(self, number: int) -> None:
        """The peer has begun with a stream."""
        call: Call | None = self.pending.get(number)
        if call is not None and call.opening:
            self._begun(call)

    def _begun(self, call: Call) -> None:
        call.opening = False
        self._give_back(call.lane, 1)

    def give_back(self, queue: int, depth: int, count: int) -> None:
        """One-way requests are done there."""
        self._give_back(self.credit.lane_of_done(queue, depth, count), count)

    def relieved(self) -> None:
        """Those who wait may go, as far as there is credit."""
        for lane in list(self.credit.lanes.values()):
            self._give_back(lane, 0)

    def _give_back(self, lane: Lane, count: int) -> None:
        lane.credit += count
        while lane.waiting and lane.credit > 0 and not self.connection.crowded and not self.holding:
            call: Call = lane.waiting.popitem(last=False)[0]
            self._begin(call)

    def _begin(self, call: Call) -> None:
        lane: Lane = call.lane
        if call.method.streams and call.kind & ~_FLAGS != _ONE_WAY:
            if self.streams >= self.shared.limits.streams:
                if call.state == WAITING:
                    self._ended(call)
                call.fail(
                    ChannelFull(
                        f"{self.streams:,} streams to {self.where()} are open, which is the limit; "
                        f"{call.method.name} was not called"
                    )
                )
                return
            self.streams += 1
            call.opening = True
        lane.credit -= 1
        self._next_call += 1
        call.number = self._next_call
        body = call.body
        call.body = b""
        if call.kind & ~_FLAGS == _ONE_WAY:
            self.shared.one_ways_sent += 1
            if call.state == WAITING:
                self._ended(call)
            call.finish(_ONE_WAY, b"")
        else:
            self.shared.calls_sent += 1
            call.state = SENT
            self.pending[call.number] = call
        self.connection.send(call.kind, lane.queue, call.method.identifier, call.number, body)

    def _refuse_waiting(self) -> None:
        for call in self.credit.clear():
            if call.state == WAITING:
                self._fail(call, self.down())

    def _broken(self, error: Exception) -> None:
        self.shared.broken(self, error)

    def _fail(self, call: Call, error: Exception) -> None:
        try:
            call.fail(error)
        except Exception as failed:  # of whom its end is told to
            self.loop.call_exception_handler(
                {"message": f"telling of the end of {call.method.name} failed", "exception": failed}
            )
        self._ended(call)

    def _ended(self, call: Call) -> None:
        if call.deadline_ns:
            self.shared.deadlines.answered()

    # Calls in

    def answer(self, epoch: int, number: int, kind: int, body: bytes) -> None:
        """Once for each of the peer's calls, unless it has been answered as cancelled, or the peer is another by now."""
        if epoch == self.connection.epoch and self.serving.pop(number, None) is not None:
            if self.outgoing:
                self.outgoing.pop(number, None)
            self.connection.send(kind, 0, 0, number, body)

    def owe(self, epoch: int, queue: int) -> None:
        """One of the peer's one-way requests is done. queue: its lane there, that of a queue and a depth."""
        if epoch == self.connection.epoch and self.connection.connected:
            done = self._debts.add(queue)
            if done:
                self.connection.send(_CREDIT, queue & 0xFFFFFFFF, queue >> 32, done, b"")

    def too_large(self, body: bytes, what: str) -> MessageTooLarge:
        return MessageTooLarge(
            f"{what} is {len(body):,} bytes encoded; max_message is {self.shared.max_message:,}. Nothing was sent"
        )
