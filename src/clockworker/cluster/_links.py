"""A shard's links to the shards of other nodes: one wire to the broker, and a far connection (`_far_cy`) for each shard that
was ever called or has called.

When the wire is lost so are all sessions, and calls end in `ShardDown` at once until there is another wire. A new one is tried
for ever, after pauses that grow to a second.

The calls' view of the cluster (`ipc.calls._owners.Cluster`) is here too: which places there are, and by way of `Keys` whose a
key is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from clockworker._errors import CallError
from clockworker.cluster import _subjects
from clockworker.cluster._far_cy import PIECE, FarConnection
from clockworker.cluster._peer import FarPeer
from clockworker.cluster._session_cy import HEAD, Ended, Session
from clockworker.cluster._wire import Wire, WireError
from clockworker.ipc import Mesh
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._owners import PLACES, Owner

logger = logging.getLogger("clockworker.cluster")

LARGEST_WINDOW = 1 << 20
ALL_WINDOWS = 48 << 20  # bytes, below what a server keeps for one who is slow (`max_pending`, 64 MiB)
SMALLEST_WINDOW = 16 << 10
FAREWELL_S = 1.0
_MOST_OPENINGS = 10_000
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_TICKS = 12  # of a time of silence
_LONGEST_TICK_S = 0.25


class Node(Protocol):
    """As the view has it."""

    @property
    def slot(self) -> int:
        """Of its shards' places."""

    @property
    def shards(self) -> int:
        """How many it has."""


class Keys(Protocol):
    """Who owns what, by the view that this node knows."""

    def owner(self, checksum: int) -> Owner:
        """Of the key with this checksum: the local number of a shard of this node, or a place. Raises `NodeIsolated`."""

    def refusal(self, partition: int, epoch: int) -> CallError | None:
        """Why a call of a key is not served here now. None: it is."""


class FarLinks:
    """Of the shard whose mesh it is.

    wire: makes one, which is not connected. cluster, node: names. silence_s: after which a shard that is not heard is taken to
    be gone. succeeds: there is another incarnation of this shard, which has its place. unknown: told of a node that is heard
    and is in no view that we know.
    """

    def __init__(
        self,
        mesh: Mesh,
        wire: Callable[[], Wire],
        *,
        cluster: str,
        node: str,
        keys: Keys,
        silence_s: float = 5.0,
        succeeds: bool = False,
        unknown: Callable[[str], None] = lambda node: None,
    ) -> None:
        self.mesh = mesh
        self.node = node
        self.shard = mesh.shard_id
        self.place = mesh.shard_id  # among all, once we are in the view
        self.wire: Wire | None = None  # that is connected
        self.ended: Counter[str] = Counter()  # sessions, by reason
        self.piece = PIECE
        self._slot = 0  # 0: we are not in the view
        self._keys = keys
        self._make_wire = wire
        self._cluster = cluster
        self._silence_ns = round(silence_s * 1e9)
        self._unknown = unknown
        self._waits = succeeds
        self._has_left = False
        self._openings: dict[str, bytes] = {}  # of sessions, that were heard before we had our place
        self._nodes: dict[str, Node] = {}
        self._names: dict[int, str] = {}  # of nodes, by slot
        self._silent: frozenset[str] = frozenset()
        self._places: Sequence[int] = range(mesh.count)
        self._peers: dict[int, FarPeer] = {}
        self._in_session: set[FarConnection] = set()
        self._subjects: dict[FarConnection, str] = {}
        self._senders: dict[str, FarPeer] = {}  # by the subject of what they send us
        self._stuck: list[FarConnection] = []  # whose message the wire has not taken
        self._flushing: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._connected = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_ns = 0
        self._when_connected: list[Callable[[Wire], None]] = []
        self._loop = asyncio.get_running_loop()
        mesh.join(self)
        mesh.after_elsewhere = self.send_off

    # Beginning and end

    def start(self) -> None:
        """Connect, and again whenever that is lost; `connected` waits for it."""
        self._keeping = self._loop.create_task(self._keep(), name="wire")

    async def close(self) -> None:
        """Leave: peers are told, and calls end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        wire = self.wire
        for connection in list(self._in_session):
            if (farewell := connection.session.end()) is not None and wire is not None:
                self.publish(connection, farewell)
        self._go_all("lost", "was left")
        if self._flushing is not None:
            self._flushing.cancel()
        self.wire = None
        if wire is not None:
            with contextlib.suppress(WireError, TimeoutError):  # what peers are told
                await asyncio.wait_for(wire.flush(), FAREWELL_S)
            await wire.close()

    async def connected(self) -> Wire:
        """The wire, once there is one."""
        while self.wire is None:
            self._connected.clear()
            await self._connected.wait()
        return self.wire

    def when_connected(self, tell: Callable[[Wire], None]) -> None:
        """Call it with each wire, the present one too."""
        self._when_connected.append(tell)
        if self.wire is not None:
            tell(self.wire)

    async def _connect(self) -> Wire:
        wire = self._make_wire()
        wire.lost = lambda error: self._lose(wire, error)
        try:
            await wire.connect()
            await wire.subscribe(_subjects.to_any(self._cluster, self.node, self.shard), self._heard)
        except BaseException:
            await wire.close()
            raise
        self._lost.clear()
        self.wire = wire
        self.piece = min(PIECE, wire.max_payload - HEAD.size)
        self._connected.set()
        for place in self._peers:
            self._judge(place)
        for tell in self._when_connected:
            tell(wire)
        return wire

    async def _keep(self) -> None:
        pause_s, said = _FIRST_PAUSE_S, False
        while True:
            try:
                wire = await self._connect()
            except WireError as error:
                if not said:
                    logger.warning("shard %d has no connection to the cluster: %s", self.shard, error)
                said = True
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            if said:
                logger.warning("shard %d is connected to the cluster", self.shard)
            await self._lost.wait()
            await wire.close()
            pause_s, said = _FIRST_PAUSE_S, True

    def _lose(self, wire: Wire, error: Exception) -> None:
        if wire is not self.wire:
            return
        logger.error("shard %d has lost its connection to the cluster: %s", self.shard, error)
        self.wire = None
        self._go_all("lost", "is not to be reached: the connection to the broker was lost")
        self._stuck.clear()
        self._lost.set()

    def _go_all(self, kind: str, reason: str) -> None:
        for peer in self._peers.values():
            peer.go(Ended(kind, reason))

    # Replacement

    def leave(self) -> None:
        """A successor of this shard is ready: what is new is for it."""
        if self._has_left:
            return
        self._has_left = True
        for peer in self._peers.values():
            peer.leave()
        # What peers are told goes out at the end of this turn, and this after it.
        self._loop.call_soon(self._give_place)

    def _give_place(self) -> None:
        if self.mesh.elsewhere:
            self._loop.call_soon(self._give_place)
        elif self.wire is not None:
            self.wire.publish(_subjects.to(self._cluster, self.node, self.shard, self.node, self.shard), b"")

    def alone(self) -> None:
        """The incarnation before us has left its place, or is gone."""
        if self._waits:
            self._waits = False
            for place in self._peers:
                self._judge(place)
            openings, self._openings = self._openings, {}
            for subject, message in openings.items():
                self._heard(subject, message)

    def _has_twin(self) -> bool:
        return self.mesh.links[self.shard].connection.connected

    # The view

    def see(self, slot: int, nodes: Mapping[str, Node], silent: Collection[str] = ()) -> None:
        """The view, and those of it that are not heard. Again whenever one of the two is another. slot: ours; 0: we are not in
        it, and call nobody of it."""
        self._slot = slot
        self._nodes = dict(nodes) if slot else {}
        self._names = {each.slot: name for name, each in self._nodes.items()}
        self._silent = frozenset(silent)
        self._senders.clear()  # a node that left and joined again has another slot, and speaks by the same subjects
        self._places = range(self.mesh.count)
        if slot:
            self.place = self.mesh.shared.place = slot * PLACES + self.shard
            self._places = [
                shard if each.slot == slot else each.slot * PLACES + shard
                for each in sorted(self._nodes.values(), key=lambda node: node.slot)
                for shard in range(each.shards)
            ]
        window = self.window()
        for place, peer in self._peers.items():
            peer.set_window(window)
            name = self._names.get(place // PLACES)
            if name is not None and name not in (peer.node, self.node):
                peer.become(name)
                self._address(peer)
            self._judge(place)

    @property
    def calls_sent(self) -> int:
        return sum(each.calls_sent for each in self._subjects)

    @property
    def window_waits(self) -> int:
        """How often a connection was crowded."""
        return sum(each.window_waits for each in self._subjects)

    def sessions(self) -> int:
        """How many there are."""
        return len(self._in_session)

    def window(self) -> int:
        """Bytes that may be under way to one shard."""
        return max(SMALLEST_WINDOW, min(LARGEST_WINDOW, ALL_WINDOWS // max(1, len(self._places))))

    def _judge(self, place: int) -> None:
        """Is it there?"""
        peer = self._peers[place]
        node = self._nodes.get(peer.node)
        if node is None or node.slot != place // PLACES or peer.shard >= node.shards:
            peer.go(Ended("left", "has left the cluster"))
        elif peer.node in self._silent:
            peer.go(Ended("silence", f"is not to be reached: node {peer.node} is not heard"))
        elif self.wire is not None:
            peer.come(waits=self._waits)

    # What calls ask of it

    def places(self) -> Sequence[int]:
        return self._places

    def link(self, place: int) -> Link | None:
        peer = self._peer(place)
        return None if peer is None else peer.link

    def owner(self, checksum: int) -> Owner:
        return self._keys.owner(checksum)

    def refusal(self, partition: int, epoch: int) -> CallError | None:
        return self._keys.refusal(partition, epoch)

    def _peer(self, place: int) -> FarPeer | None:
        peer = self._peers.get(place)
        if peer is not None:
            return peer
        slot, shard = divmod(place, PLACES)
        name = self._names.get(slot)
        if name is None or slot == self._slot or shard >= self._nodes[name].shards:
            return None
        peer = FarPeer(self, name, shard, place, lambda: Session(self.window(), self._silence_ns, _draw))
        self._address(peer)
        for connection in peer.connections:
            connection.session.leaves = self._has_left
        self._peers[place] = peer
        self._judge(place)
        return peer

    def _address(self, peer: FarPeer) -> None:
        for connection in peer.connections:
            self._subjects[connection] = _subjects.to(self._cluster, peer.node, peer.shard, self.node, self.shard)

    # What connections ask of it

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def publish(self, connection: FarConnection, message: bytes) -> bool:
        wire = self.wire
        if wire is None:
            return False
        if wire.publish(self._subjects[connection], message, hold=True):
            return True
        self._stuck.append(connection)
        if self._flushing is None:
            self._flushing = self._loop.create_task(self._flush(wire), name="flush")
        return False

    def send_off(self) -> None:
        wire = self.wire
        if wire is not None:
            wire.send_off()

    async def _flush(self, wire: Wire) -> None:
        try:
            await wire.flush()
        except WireError as error:
            self._lose(wire, error)
        finally:
            self._flushing = None
            stuck, self._stuck = self._stuck, []
            for connection in stuck:
                connection.go_on()

    def knows(self, node: str) -> bool:
        """Whether it is in the view."""
        return node in self._nodes

    def is_silent(self, node: str) -> bool:
        return node in self._silent or node not in self._nodes

    def session_began(self, connection: FarConnection) -> None:
        self._in_session.add(connection)
        if self._timer is None:
            self._ticked_ns = 0
            self._tick()

    def session_ended(self, connection: FarConnection, ended: Ended) -> None:
        if connection in self._in_session:
            self._in_session.discard(connection)
            self.ended[ended.kind] += 1
            if ended.kind in ("rules", "version"):
                logger.error("shard %d ends its session with %s: that %s", self.shard, connection.where, ended)

    # The wire's messages, and time

    def _heard(self, subject: str, body: bytes) -> None:
        peer = self._senders.get(subject) or self._sender(subject)
        if peer is not None:
            if (self._waits or self._has_left) and len(body) >= HEAD.size and not HEAD.unpack_from(body)[3]:
                # It begins a session with the incarnation that has our place; we may be that one soon.
                if self._waits and len(self._openings) < _MOST_OPENINGS:
                    self._openings[subject] = body
                return
            peer.hear(body, alone=not self._has_twin())

    def _sender(self, subject: str) -> FarPeer | None:
        """Who has sent it: as the subject says, which the broker has checked."""
        found = _subjects.sender(subject)
        if found is None:
            return None
        if found.node == self.node:
            if found.shard == self.shard:
                self.alone()
            return None
        node = self._nodes.get(found.node)
        if node is None:
            self._unknown(found.node)
            return None
        peer = self._peer(node.slot * PLACES + found.shard)
        if peer is not None:
            self._senders[subject] = peer
        return peer

    def _tick(self) -> None:
        now, tick_s = self.now_ns(), min(_LONGEST_TICK_S, self._silence_ns / 1e9 / _TICKS)
        late_ns = now - self._ticked_ns - round(tick_s * 1e9)
        for connection in list(self._in_session):
            if self._ticked_ns and late_ns > self._silence_ns >> 2:
                connection.session.slept(late_ns)  # what came meanwhile waits in the socket
            connection.look()
        self._ticked_ns = now
        # Nobody wakes up who has no session.
        self._timer = self._loop.call_later(tick_s, self._tick) if self._in_session else None


def _draw() -> int:
    return secrets.randbelow(0xFFFFFFFF) + 1
