"""Calls between shards: a ring of shared memory for each ordered pair, a doorbell for each shard, msgspec on the wire.

A shard's `Mesh` sits beside its executor, which polls it. In reading order:

    _remote        what can be called: @remote, what it refuses
    _annotations   what the annotations of a function mean
    _types         which types travel
    _schema        what a shard tells of its methods
    _understanding what two versions still understand of each other
    _method        what calls of a method are made with
    _definitions   where methods are found: in a service, in modules
    _service       Sharded, the proxies of a service's instances
    _places        what a proxy's call does, here and on another shard
    _as_sent       for tests: a call here as if it were to another shard
    _timeout       time-outs as users give them
    _mesh          a shard's links to its peers, and all that is put together here
    _home          the shard itself, as calls see it that are made on it
    _serving       the services that are started on it; calls that come before
    _versions      what its peers are told of them, and what is understood of theirs
    _expiry        the timer of deadlines
    _stats         what it has counted
    _waits         who waits, for how long, and why
    _threads       calls from other threads
    _sleep         the bell that wakes it, and a look now and then for one that was lost
    _chain_cy      what a call is part of: its depth, its deadline; the envelope in which they travel
    _call_cy       the way of a call from end to end: a call of ours, until it is answered
    _link_cy       one peer: calls in flight, calls that wait, its own calls
    _outbox_cy     one-way requests, from `send` to the link
    _credit_cy     how many calls may be in flight to it, at each depth, and who waits; why nothing stands still
    _connection_cy how frames get to a peer; its rings: frames out, back-pressure, news
    _shared_cy     what all links have in common
    _ends          the ends of a link, as the supervisor passes them
    _traffic_cy    what the executor polls: frames taken in, calls of peers started
    _request_cy    a call of a peer, until it is answered
    _stream        remote generators
    _limits        bounds
    _deadlines     policy: whose deadline is next
    _frames        kinds of frames
    _failure       exceptions on the wire
    _ring_cy       the ring; messages in chunks
    _doorbell_cy   sleep and wake-up
    _ahead_cy      policy: when a peer is rung before there is news for it
    _malloc        freed memory is kept for the next message
    _memory_cy     shared words and bytes; _atomics.pxd, their orderings
    _mapping       memory mapped without a descriptor
"""

from clockworker.executor._seal_cy import seal_package
from clockworker.ipc._mesh import Mesh
from clockworker.ipc._stats import LinkStats, MeshStats
from clockworker.ipc.calls._call_cy import Method
from clockworker.ipc.calls._limits import Limits
from clockworker.ipc.calls._remote import remote
from clockworker.ipc.calls._service import Sharded
from clockworker.ipc.calls._timeout import deadline
from clockworker.ipc.rings._connection_cy import Connection
from clockworker.ipc.rings._doorbell_cy import create_doorbell
from clockworker.ipc.rings._ring_cy import create_ring

__all__ = [
    "Limits",
    "LinkStats",
    "Mesh",
    "MeshStats",
    "Sharded",
    "create_doorbell",
    "create_ring",
    "deadline",
    "remote",
]

seal_package(__name__, but={Method, Connection})
