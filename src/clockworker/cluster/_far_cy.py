# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The connection of two shards of different nodes: a link's frames, over a session (`_session_cy`), in pieces (`_pieces_cy`).

It is there as long as its node is in the view and not silent. Only a request begins a session: what else there is to be said,
it says then. Frames that are sent in one turn of the executor leave in one message at its end, or before that in several: as
soon as half of the calls that are under way has been gathered, and no less than `FEWEST`. So a flood of calls is some
messages behind each other, and the two shards and the broker are at work at the same time; as one message it would be with one
of the three, while the others waited. What finds no room in the window waits here; once a window's worth does the connection is
crowded, and new calls wait, as with rings.

What has come is taken in in the executor's turns, each of which takes as much of one peer as it would out of a ring.
"""

from __future__ import annotations

from typing import Protocol

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import NodeDied, NodeDown, ShardDied, ShardDown
from clockworker.cluster._pieces_cy import HEAD_SIZE, AgainstTheRules, Incoming, Outgoing
from clockworker.cluster._session_cy import CLOSING, HEAD, IDLE, OPEN, Ended, Session
from clockworker.ipc import Mesh
from clockworker.ipc.calls._frames import FLAGS, Kind
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.rings._connection_cy import Connection
from clockworker.ipc.rings._ring_cy import PoisonedRing

PIECE = 512 * 1024  # bytes of a message, at most
IDLE_NS = 60_000_000_000  # without a call, after which a session ends
FRAMES_A_TURN = 64
BYTES_A_TURN = 1 << 18
FEWEST = 32  # frames that are no longer gathered, but sent
MOST = 128  # that are gathered

# C globals when compiled.
_REQUEST = int(Kind.REQUEST)
_ONE_WAY = int(Kind.ONE_WAY)
_FLAGS = FLAGS
_IDLE, _OPEN, _CLOSING = IDLE, OPEN, CLOSING
_HEAD_SIZE = HEAD_SIZE
_MESSAGE_HEAD = HEAD.size


if cython.compiled:
    from cython.cimports.clockworker.ipc.rings._monotonic import now_ns
else:
    from time import monotonic_ns as now_ns


class Post(Protocol):
    """What far connections have in common: the wire, and what is known of nodes."""

    mesh: Mesh
    piece: int  # bytes of frames that a message may have

    def publish(self, connection: FarConnection, message: bytes) -> bool:
        """To the peer, with the next `send_off`, which comes by itself after the turn of all connections. False: not now;
        `go_on` is called when it is time to try again."""

    def send_off(self) -> None:
        """What was published leaves now."""

    def is_silent(self, node: str) -> bool:
        """Whether the node's supervisor is not heard either."""

    def session_began(self, connection: FarConnection) -> None:
        """Look at it from time to time (`look`)."""

    def session_ended(self, connection: FarConnection, ended: Ended) -> None:
        """For those who count, and who tell."""


class Standing(Protocol):
    """Of the two incarnations that a shard may have."""

    def is_present(self, connection: FarConnection) -> bool:
        """Whether it is the one that new calls go to."""

    def held(self, connection: FarConnection) -> None:
        """It is about to be replaced."""

    def opened(self, connection: FarConnection) -> None:
        """There is a session with it."""

    def ended(self, connection: FarConnection) -> None:
        """There is none any more."""


@cython.final
@cython.cclass
class FarConnection(Connection):
    """To one incarnation of a shard of another node. place: its number among all; see `Owner`. standing: what becomes of that
    incarnation."""

    node: str
    shard: int
    session: Session
    link: Link
    calls_sent: int
    window_waits: int  # how often it was crowded

    def __init__(
        self, post: Post, standing: Standing, node: str, shard: int, place: int, session: Session, longest: int
    ) -> None:
        super().__init__(place)
        self.node = node
        self.shard = shard
        self.where = f"shard {shard} of node {node}"
        self.session = session
        self.calls_sent = 0
        self.window_waits = 0
        self._post = post
        self._standing = standing
        self._mesh = post.mesh
        self._out = Outgoing()
        self._in = Incoming(longest)
        self._unsent: bytes | None = None  # a message that the wire has not taken
        self._fewest = FEWEST
        self._most = MOST
        self._is_dirty = False
        self._is_sending = False
        self._is_there = False
        self._is_used = False  # since the last look
        self._used_ns = 0  # when it was
        self.link = post.mesh.open(self)

    # What a link asks of its connection

    def send(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        if not self.connected:
            return
        is_request = kind & ~_FLAGS == _REQUEST or kind & ~_FLAGS == _ONE_WAY
        session = self.session
        if session.state == _IDLE:
            if not is_request:
                return
            self._begin()
        if is_request:
            self._is_used = True
            self.calls_sent += 1
        self.bytes_sent += len(body)
        self.frames_sent += 1
        out = self._out
        out.put(kind, queue, method, call, body)
        self.backlog_bytes = out.size
        if not self.crowded and out.size > session.window:
            self.crowded = True
            self.window_waits += 1
        if not self._is_dirty:
            self._mark()
        gathered = out.count
        if (
            gathered >= self._fewest
            and (gathered >= self._most or gathered >= self._under_way() >> 1)
            and self._unsent is None
            and not self._is_sending
            and not session.answers
        ):
            self._send_pieces()
            self._post.send_off()

    def _under_way(self) -> int:
        """How many calls are, of ours and of the peer's."""
        return len(self.link.pending) + len(self.link.serving)

    def send_soon(self) -> None:
        pass

    def close(self) -> None:
        self.connected = False
        self._out.clear()
        self._in.clear()
        self._unsent = None
        self.backlog_bytes = 0
        self.crowded = False

    def died(self, reason: str, name: str) -> ShardDied | ShardDown:
        if not self.session.was_open:
            return self.down()
        kind = NodeDied if self._post.is_silent(self.node) else ShardDied
        return kind(f"{reason} with {name} in flight; it may have run or not")

    def down(self) -> ShardDown:
        if self._post.is_silent(self.node):
            return NodeDown(f"node {self.node} is not heard; nothing was sent to its shard {self.shard}")
        return ShardDown(f"{self.where} is down; nothing was sent")

    # Whether the peer is there

    def come(self, *, waits: bool = False) -> None:
        """Its node is in the view, and heard, and so are we. waits: calls have to, as we have not got our place yet."""
        self._is_there = True
        self.connected = self._is_wanted()
        if self.session.state == _IDLE and self.crowded != waits:
            self.crowded = waits
            if not waits:
                self.relieved()

    def go(self, ended: Ended) -> None:
        """It is not."""
        if self._is_there:
            self._is_there = False
            self._end(ended)

    def leave(self) -> None:
        """We are about to be replaced: the peer's new calls are for our successor."""
        self.session.leave(now_ns())
        if self.session.state != _IDLE:
            self._mark()

    def begin(self) -> None:
        """A session, though there is no call."""
        if self._is_there and self.session.state == _IDLE:
            self._begin()
            self._mark()

    def _is_wanted(self) -> bool:
        """Whether new calls may be made to it."""
        return self._is_there and (self.session.state != _IDLE or self._standing.is_present(self))

    def drop(self, ended: Ended) -> None:
        """The session, if there is one."""
        if self.session.state != _IDLE:
            self._end(ended)

    def is_busy(self) -> bool:
        """Whether a call is under way, or something else."""
        link = self.link
        return bool(link.pending or link.serving or self._out.size or self._in.waiting or self._unsent)

    # What comes

    def hear(self, message: bytes) -> None:
        """A message of the peer's, to us."""
        if not self._is_there:
            return
        session = self.session
        now = now_ns()
        was = session.state
        try:
            has_piece = session.hear(message, now, not self.is_busy())
        except Ended as ended:
            self._end(ended)
            if ended.again:
                self.hear(message)
            return
        if session.state != was:
            if was == _IDLE:
                self._began()
            elif was == _CLOSING:
                self._relieve()
            if session.state == _OPEN:
                self._standing.opened(self)
        if session.is_held and not self.link.holding:
            self._standing.held(self)
        if has_piece:
            self._in.put(message, _MESSAGE_HEAD)
            self._mark()
        elif session.owes or session.answers or self._out.size:
            self._mark()

    def look(self) -> None:
        """Time has passed."""
        session = self.session
        now = now_ns()
        if self._is_used:
            self._is_used, self._used_ns = False, now
        try:
            session.look(now)
        except Ended as ended:
            self._end(ended)
            return
        if session.state == _OPEN and now - self._used_ns >= IDLE_NS and not self.is_busy():
            session.close()
            self.crowded = True  # a call that comes now waits for the next session
        if session.owes:
            self._mark()

    def become(self, node: str) -> None:
        """The place is now that of a node with another name: of another cluster, to which ours has yielded."""
        self.node = node
        self.where = f"shard {self.shard} of node {node}"

    def go_on(self) -> None:
        """The wire takes messages again."""
        self._mark()

    # The executor's turn

    def turn(self) -> bool:
        """Take in what has come, and send what waits. True if something came."""
        self._is_dirty = False
        came = self._in.waiting > 0
        if came:
            self._take_in()
        self._flush()
        if self._in.waiting:
            self._mark()
        return came

    def _take_in(self) -> None:
        session = self.session
        now = now_ns()
        try:
            frames, size = self._in.take(FRAMES_A_TURN, BYTES_A_TURN, now)
            session.took(size)
            if frames:
                self._is_used = True
                self._mesh.take_frames(self.link, frames)
        except (AgainstTheRules, PoisonedRing) as error:
            self._end(Ended("rules", f"has broken the rules: {error}"))

    def _flush(self) -> None:
        session = self.session
        post = self._post
        while session.answers and post.publish(self, session.answers[0]):
            del session.answers[0]
        if session.state == _IDLE:
            return
        self._send_pieces()
        if session.owes and self._unsent is None and not post.publish(self, session.hello(now_ns())):
            session.owes = True
        waiting = self._out.size
        if self.crowded and session.state != _CLOSING and waiting <= session.window >> 1 and self._unsent is None:
            self._relieve()

    def _send_pieces(self) -> None:
        """What waits, as far as there is room for it."""
        session = self.session
        post = self._post
        out = self._out
        now = now_ns()
        self._is_sending = True
        try:
            while True:
                if self._unsent is not None:
                    if not post.publish(self, self._unsent):
                        break
                    self._unsent = None
                room = min(post.piece, session.room())
                if not out.size or room <= _HEAD_SIZE:
                    break
                before = out.size
                parts = out.take(room, now)
                self._unsent = b"".join((session.head(before - out.size, now), *parts))
        finally:
            self._is_sending = False
        self.backlog_bytes = out.size

    # Sessions

    def _begin(self) -> None:
        self.session.begin(now_ns())
        self._began()

    def _began(self) -> None:
        self.epoch += 1
        self.connected = True
        self._used_ns = now_ns()
        self._post.session_began(self)
        self._mesh.begun(self.link)

    def _end(self, ended: Ended) -> None:
        """Of the session, and of all calls that are under way; or only of what we believed of the peer."""
        session = self.session
        farewell = session.end()
        if farewell is not None:
            session.answers.append(farewell)
        keep = self._is_there and self._standing.is_present(self) and (ended.kind == "idle" or self.link.holding)
        self._post.session_ended(self, ended)
        self._mesh.ended(self.link, f"{self.where} {ended}", keep=keep)
        self.connected = self._is_wanted()
        self._standing.ended(self)
        if keep:
            self.link.relieved()
        if session.answers:
            self._mark()

    def _relieve(self) -> None:
        self.crowded = False
        self.relieved()

    def _mark(self) -> None:
        """Have a turn of the executor's."""
        if not self._is_dirty:
            self._is_dirty = True
            self._mesh.elsewhere.append(self)
            self._mesh.core.wake()
