"""What a mesh has counted, as it is told."""

from __future__ import annotations

import msgspec

from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._waits import Waiting
from clockworker.ipc.rings._connection_cy import Connection, RingConnection


class MeshStats(msgspec.Struct, frozen=True):
    """Counters of a shard's traffic since it started, over all peers.

    calls_local: through `service.on(own)`. calls_sent, calls_received: to other shards, and from them.
    calls_in_flight: now. calls_timed_out: those that ended in `CallTimeout`.
    one_ways_sent, one_ways_received: requests without a reply.
    frames_sent, frames_received: of all kinds. bytes_sent, bytes_received: the bodies of these.
    credit_waits: calls that had to wait for credit.
    calls_waiting: now: for credit, for room in a ring, or for a shard that is being replaced. longest_wait_ns: of those.
    wakeups: by the doorbell.
    wakeups_in_vain: among them, by a bell rung ahead of news that did not follow soon enough.
    missed_wakeups: found by the shard's own looks while it slept; 0 unless something is wrong.
    """

    calls_local: int
    calls_sent: int
    calls_received: int
    calls_in_flight: int
    calls_timed_out: int
    one_ways_sent: int
    one_ways_received: int
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    credit_waits: int
    calls_waiting: int
    longest_wait_ns: int
    wakeups: int
    wakeups_in_vain: int
    missed_wakeups: int


class LinkStats(msgspec.Struct, frozen=True):
    """The traffic with one peer, over all its incarnations. A shard's link with itself is used while there are two of it.

    peer: the other shard. connected: whether there is a ring to it now.
    frames_sent, frames_received, bytes_sent, bytes_received, credit_waits: see `MeshStats`.
    calls_in_flight, calls_waiting: now. longest_wait_ns: of those that wait.
    wakeups: how often the peer was asleep and was rung.
    wakeups_ahead: among them, before what it was woken for was ready.
    ring_used_bytes: of the ring to it: what it has not read yet. ring_bytes: the ring's size.
    """

    peer: int
    connected: bool
    frames_sent: int
    frames_received: int
    bytes_sent: int
    bytes_received: int
    credit_waits: int
    calls_waiting: int
    longest_wait_ns: int
    calls_in_flight: int
    wakeups: int
    wakeups_ahead: int
    ring_used_bytes: int
    ring_bytes: int


def stats_of_peer(link: Link, other: Link, waiting: Waiting) -> LinkStats:
    """The counters of one peer, over its two links. link: to the incarnation that has its place."""
    here, there = link.connection, other.connection
    used, size, rings, ahead = _of_rings(here)
    _, _, other_rings, other_ahead = _of_rings(there)
    return LinkStats(
        peer=link.peer,
        connected=here.connected,
        frames_sent=here.frames_sent + there.frames_sent,
        frames_received=here.frames_received + there.frames_received,
        bytes_sent=here.bytes_sent + there.bytes_sent,
        bytes_received=here.bytes_received + there.bytes_received,
        credit_waits=link.credit_waits + other.credit_waits,
        calls_waiting=waiting.calls,
        longest_wait_ns=waiting.longest_ns,
        calls_in_flight=len(link.pending) + len(other.pending),
        wakeups=rings + other_rings,
        wakeups_ahead=ahead + other_ahead,
        ring_used_bytes=used,
        ring_bytes=size,
    )


def _of_rings(connection: Connection) -> tuple[int, int, int, int]:
    """Bytes used in the ring to the peer, its size, how often the peer was rung, and how often of that ahead."""
    if not isinstance(connection, RingConnection):
        return 0, 0, 0, 0
    rings, ahead = connection.rings_before, connection.rings_ahead_before
    if not connection.connected:
        return 0, 0, rings, ahead
    bell, producer = connection.doorbell, connection.producer
    return producer.used(), producer.capacity, rings + bell.rings, ahead + bell.rings_ahead
