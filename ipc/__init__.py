"""Calls between shards: a ring of shared memory for each ordered pair, a doorbell for each shard, msgspec on the wire.

A shard's `Mesh` sits beside its executor, which polls it. In reading order:

    _remote        what can be called: @remote, signatures, identifiers
    _service       Sharded, the proxies of a service's instances
    _mesh          calls, dispatch, replies: the way of a call from end to end
    _link          one peer: rings, credit, calls in flight, back-pressure
    _frames        kinds of frames; messages in chunks
    _failure       exceptions on the wire
    _ring_cy       the ring
    _doorbell_cy   sleep and wake-up
    _memory_cy     shared words and bytes; _atomics.pxd, their orderings
"""

from clockworker.ipc._doorbell_cy import create_doorbell
from clockworker.ipc._link import Limits
from clockworker.ipc._mesh import LinkStats, Mesh, MeshStats
from clockworker.ipc._remote import remote
from clockworker.ipc._ring_cy import create_ring
from clockworker.ipc._service import Sharded

__all__ = ["Limits", "LinkStats", "Mesh", "MeshStats", "Sharded", "create_doorbell", "create_ring", "remote"]
