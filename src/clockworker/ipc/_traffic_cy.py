# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The traffic of a shard: what the executor polls. It takes frames in, hands them on, and starts the calls of the peers.

A request becomes a task in the queue that it names (its method's own, else its caller's, else the first), and in the caller's
group, or a step there if its method cannot suspend. Only that decodes the arguments and encodes the result, so that its queue
pays for them. It is charged for taking the frame out of the ring and starting it too, so that a flood shortens the turns of
the queue that it is for, and no others. A request whose deadline has passed when its turn comes is not run.

What one ring can bring in one turn is bounded, in frames and in bytes: everything else of the shard waits meanwhile, and a peer
that fills its ring as fast as we empty it would keep us for as long as it likes. So a large body is put together over several
turns, each of which its queue is charged for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import SchemaMismatch
from clockworker.executor._core_cy import Core
from clockworker.executor._steps_cy import WorkSource
from clockworker.executor._tasks_cy import Membership, QueueState
from clockworker.ipc.calls._call_cy import Call
from clockworker.ipc.calls._chain_cy import unpack_envelope
from clockworker.ipc.calls._failure import encode_failure
from clockworker.ipc.calls._frames import ENVELOPE, FLAGS, KEYED, Kind
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._owners import KEY_SIZE
from clockworker.ipc.calls._request_cy import Request, Target, logger, new_request
from clockworker.ipc.calls._shared_cy import Shared
from clockworker.ipc.rings._connection_cy import Connection, RingConnection, Worklist
from clockworker.ipc.rings._doorbell_cy import Doorbell
from clockworker.ipc.rings._ring_cy import PoisonedRing, RingConsumer

if cython.compiled:
    from cython.cimports.clockworker.ipc.calls._call_cy import DONE
else:
    from clockworker.ipc.calls._call_cy import DONE

# Taken from one ring in one turn of the executor: so many frames, or so many bytes and the rest of the frame that exceeds them.
# 256 KiB take 20 to 30 us to copy out. Messages of a megabyte come at about the same pace with half and with twice as much, but
# without a limit at less than half of it: their sender heard of room when its ring was empty, and the two took turns.
_FRAMES_A_TURN = 64
_BYTES_A_TURN = 1 << 18

_REQUEST = int(Kind.REQUEST)
_REPLY = int(Kind.REPLY)
_ERROR = int(Kind.ERROR)
_CANCEL = int(Kind.CANCEL)
_ONE_WAY = int(Kind.ONE_WAY)
_CREDIT = int(Kind.CREDIT)
_ITEM = int(Kind.ITEM)
_ACK = int(Kind.ACK)
_SCHEMA = int(Kind.SCHEMA)
_BEGUN = int(Kind.BEGUN)
_LEAVING = int(Kind.LEAVING)
_TOPIC = int(Kind.TOPIC)
_ENVELOPE = ENVELOPE
_KEYED = KEYED
_FLAGS = FLAGS
_KEY_SIZE = KEY_SIZE

Parked = tuple[Link, int, int, int, int, bytes]  # a request's link, kind, queue, method, number and body


class Traffic(WorkSource):
    """The executor's source of work beside the loop. `Mesh` is its public face."""

    core: Core
    shared: Shared
    links: list[Link]
    dirty: Worklist  # connections with something to flush
    elsewhere: list[Any]  # connections that are no rings': with something to take in or to send; see `cluster._far_cy`
    after_elsewhere: Callable[[], None]  # told after the turns of these
    heard: list[Link]  # whose news the words of the doorbell are
    doorbell: Doorbell
    targets: dict[int, Target]
    memberships: dict[int, Membership]  # of our queues, by identifier
    first: Membership
    parked: list[Parked]  # requests for a service that is not started here yet
    calls_received: int
    one_ways_received: int
    looks_seldom: bool  # while asleep, the shard looks for lost wake-ups less and less often: see `_sleep`

    def __init__(
        self, shared: Shared, doorbell: Doorbell, memberships: dict[int, Membership], first: Membership
    ) -> None:
        if doorbell is None or first is None:
            raise TypeError("a mesh has a doorbell, and a queue for what names none")
        self.core = shared.core
        self.shared = shared
        self.links = []
        self.dirty = Worklist()
        self.elsewhere = []
        self.after_elsewhere = _nothing
        self.heard = []
        self.doorbell = doorbell
        self.targets = {}
        self.memberships = memberships
        self.first = first
        self.parked = []
        self.calls_received = 0
        self.one_ways_received = 0
        self.looks_seldom = False
        self._unfinished = Worklist()  # links whose rings may have more for us
        # Of the last request: mostly the next is like it.
        self._last_identifier = 0
        self._last_target: Target | None = None
        self._last_queue = 0  # the identifier of none
        self._last_membership = first
        self._charged: QueueState | None = None  # for the requests that are just being taken in

    def unknown(self, link: Link, kind: int, queue: int, identifier: int, number: int, body: bytes) -> Target | None:
        """A request for a method that nothing here has."""
        raise NotImplementedError

    def take_schema(self, link: Link, body: bytes) -> None:
        """The peer has started a service."""
        raise NotImplementedError

    def take_topic(self, link: Link, kind: int, queue: int, method: int, number: int, body: bytes) -> None:
        """The peer has published something, or says what of ours it hears."""
        raise NotImplementedError

    # What the executor asks of a source of work

    def look(self) -> bool:
        """Take in what has come, send off what waits. True if something came."""
        self._listen()
        came = False
        if self._unfinished._count == 1:  # mostly
            came = self._take_in(self._unfinished.last())
        elif self._unfinished._count:
            for link in list(self._unfinished):
                if self._take_in(link):
                    came = True
        if self.elsewhere and self._look_elsewhere():
            came = True
        while self.dirty._count:
            ring: RingConnection = self.dirty.pop()
            ring.flush()
        return came

    def _look_elsewhere(self) -> bool:
        connections, self.elsewhere = self.elsewhere, []
        came = False
        for connection in connections:
            if connection.turn():
                came = True
        self.after_elsewhere()
        return came

    def _take_in(self, link: Link) -> bool:
        """What has come of this peer. True if something has."""
        ring: RingConnection = link.connection  # type: ignore[assignment]
        if ring.has_backlog:
            ring.mark_dirty()  # it may have made room
        received = ring.frames_received
        # Not self.drain: what a subclass may override is looked up first, each time.
        if not ring.connected or not Traffic.drain(self, link):
            Traffic._finish(self, link)
        return ring.frames_received != received

    def _listen(self) -> None:
        """Who has news?"""
        self.doorbell.wake()
        if self.doorbell.has_news():
            word = self.doorbell.next_news(0)
            while word >= 0:
                link: Link = self.heard[word]
                ring: RingConnection = link.connection  # type: ignore[assignment]
                ring.hear()
                self._begin(link)
                word = self.doorbell.next_news(word + 1)

    def _begin(self, link: Link) -> None:
        """There may be something in its ring."""
        ring: RingConnection = link.connection  # type: ignore[assignment]
        if not ring.unfinished:
            ring.unfinished = True
            self._unfinished.append(link)

    def _finish(self, link: Link) -> None:
        """There is nothing more in its ring, or the ring is gone."""
        ring: RingConnection = link.connection  # type: ignore[assignment]
        if ring.unfinished:
            ring.unfinished = False
            if self._unfinished.last() is link:
                self._unfinished.pop()
            else:
                self._unfinished.remove(link)

    def prepare_sleep(self) -> bool:
        """Announce that the shard sleeps. False if there is news after all."""
        if self._unfinished._count or self.dirty._count or self.elsewhere:
            return False
        if self.looks_seldom:
            self.look_soon()
        return self.doorbell.sleep()

    def turn_failed(self) -> None:
        """What was told in it is made sure of all the same."""
        for ring in self.dirty:
            ring.make_sure()

    def rung(self) -> None:
        """Our bell can be read: take a turn now. It is read when that has served what we were woken for."""
        self.doorbell.rung = True
        self._listen()  # before all else: a peer that is rung ahead wakes up meanwhile
        self.core.take_turn()
        if self.doorbell.rung:  # no sleep has been announced since
            self.doorbell.answer()

    def look_soon(self) -> None:
        """A new sleep begins: look for lost wake-ups more often again."""
        raise NotImplementedError

    def look_at(self, link: Link) -> None:
        """There may be something in the ring of `link`."""
        self._begin(link)
        self.core.wake()

    # Frames in

    def drain(self, link: Link) -> bool:
        """Take frames of `link` in. True if there may be more."""
        ring: RingConnection = link.connection  # type: ignore[assignment]
        if not ring.connected:
            return False
        consumer: RingConsumer = ring.consumer
        epoch = ring.epoch
        taken = 0
        consumer.allow(_BYTES_A_TURN)
        self.core.begin_charge()
        try:
            while taken < _FRAMES_A_TURN:
                body = consumer.pop()
                if body is None:
                    if consumer.has_part():
                        self._charge_part(consumer.kind, consumer.queue, consumer.method)
                    break
                taken += 1
                ring.frames_received += 1
                ring.bytes_received += len(body)
                self._take_frame(link, consumer.kind, consumer.queue, consumer.method, consumer.call, body)
                if not ring.connected or ring.epoch != epoch:
                    return False
            ring.announce_room()
        except PoisonedRing as error:
            self.shared.broken(link, error)
            return False
        finally:
            self._charge(None)
        return taken == _FRAMES_A_TURN or consumer.is_spent()

    def take_frames(self, link: Link, frames: list[tuple[int, int, int, int, bytes]]) -> None:
        """`frames` of `link` that have come over a connection that is no ring's: kind, queue, identifier, number and body of
        each. Raises `PoisonedRing` for one that breaks the rules."""
        connection: Connection = link.connection
        epoch = connection.epoch
        self.core.begin_charge()
        try:
            for kind, queue, method, number, body in frames:
                connection.frames_received += 1
                connection.bytes_received += len(body)
                self._take_frame(link, kind, queue, method, number, body)
                if not connection.connected or connection.epoch != epoch:
                    return
        finally:
            self._charge(None)

    def _take_frame(self, link: Link, kind: int, queue: int, method: int, number: int, body: bytes) -> None:
        if kind in (_REPLY, _ERROR, _LEAVING):
            call = link.settle(number)
            if call is not None and call.state != DONE:
                call.finish(kind, body)
        elif kind & ~_FLAGS == _REQUEST or kind & ~_FLAGS == _ONE_WAY:
            started_in = Traffic.accept(self, link, kind, queue, method, number, body)
            if started_in is not self._charged:
                self._charge(started_in)
        elif kind == _ITEM:
            asked: Call | None = link.pending.get(number)
            if asked is not None and asked.receiver is not None:
                if asked.opening:
                    link.begun(number)
                if asked.state != DONE:
                    asked.receiver.take(body)
        elif kind == _ACK:
            stream = link.outgoing.get(number)
            if stream is not None:
                stream.used(method)
        elif kind == _CREDIT:
            link.give_back(queue, method, number)
        elif kind == _BEGUN:
            link.begun(number)
        elif kind == _CANCEL:
            self._cancel(link, number)
        elif kind == _SCHEMA:
            self.take_schema(link, body)
        elif _TOPIC <= kind < _KEYED:
            self.take_topic(link, kind, queue, method, number, body)
        else:
            raise PoisonedRing(f"a frame of unknown kind {kind}")

    def _charge(self, queue: QueueState | None) -> None:
        """What was taken in was for this queue; one that was before it is charged for those before."""
        if self._charged is not None:
            self.core.charge(self._charged)
        self._charged = queue

    def _charge_part(self, kind: int, queue: int, method: int) -> None:
        """A part of a body has come. If it is a request's, that is for the queue in which it will run."""
        target = self.targets.get(method)
        if target is not None and (kind & ~_FLAGS == _REQUEST or kind & ~_FLAGS == _ONE_WAY):
            membership = target.membership
            if membership is None:
                membership = self.memberships.get(queue, self.first)
            if membership.queue is not self._charged:
                self._charge(membership.queue)

    def _cancel(self, link: Link, number: int) -> None:
        """The caller has left. It is answered all the same, since only an answer gives back its credit."""
        found = link.serving.get(number)
        if found is not None:
            request: Request = found
            request.cancel()
            return
        parked = [each for each in self.parked if each[0] is not link or each[4] != number]
        if len(parked) != len(self.parked):  # else it is answered already
            self.parked = parked
            link.connection.send(_ERROR, 0, 0, number, b"")

    # Calls in

    def accept(self, link: Link, kind: int, queue: int, identifier: int, number: int, body: bytes) -> QueueState | None:
        """A request of `link`, by its frame (kind, queue, identifier, number, body): start its task, or queue it as it is.
        Returns the queue in which it runs, if it does."""
        deadline_ns = 0
        group: Any = None
        depth = 0
        arguments: Any = body
        of_key: bytes | None = None
        if kind & _KEYED:
            of_key = body[:_KEY_SIZE]
            arguments = body[_KEY_SIZE:]
        if kind & _ENVELOPE:
            try:
                deadline_ns, group, depth, arguments = unpack_envelope(arguments)
            except Exception as error:
                self.refuse(link, kind, queue, number, TypeError(f"the envelope of a call cannot be read: {error}"))
                return None
        key = queue | depth << 32
        target = self._last_target
        if target is None or identifier != self._last_identifier:
            found = self.targets.get(identifier)
            if found is None:
                found = self.unknown(link, kind, key, identifier, number, body)
                if found is None:
                    return None
            target = self._last_target = found
            self._last_identifier = identifier
        if link.variants and identifier in link.variants:
            variant = link.variants[identifier]
            if not isinstance(variant, Target):
                self.refuse(link, kind, key, number, SchemaMismatch(variant))
                return None
            target = variant
        membership = target.membership
        if membership is None:
            membership = self._last_membership
            if queue != self._last_queue:
                membership = self._last_membership = self.memberships.get(queue, self.first)
                self._last_queue = queue
        if group is not None:
            membership = self.core.group(membership.queue, group)
        if kind & ~_FLAGS == _ONE_WAY:
            self.one_ways_received += 1
            request = new_request(link, target, key, 0, deadline_ns, depth, arguments)
            request.of_key = of_key
        else:
            self.calls_received += 1
            request = new_request(link, target, key, number, deadline_ns, depth, arguments)
            request.of_key = of_key
            link.serving[number] = request
            if target.method.streams:
                request.coroutine = self.serve_stream(request)
        request.start(self.core, membership)
        return membership.queue

    def refuse(self, link: Link, kind: int, queue: int, number: int, error: Exception) -> None:
        """Answer a request of `link` that is not run with `error`. kind, number: of its frame. queue: whose credit it has, the
        key of the peer's lane."""
        if kind & ~_FLAGS == _ONE_WAY:
            logger.error("a one-way request of shard %d was not run: %s", link.peer, error)
            link.owe(link.connection.epoch, queue)
        else:
            link.connection.send(_ERROR, 0, 0, number, encode_failure(error))

    def serve_stream(self, request: Request) -> Coroutine[Any, Any, None]:
        """Run a generator for a peer; see `_stream`."""
        raise NotImplementedError


def _nothing() -> None:
    pass
