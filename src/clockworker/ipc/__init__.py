"""Calls between shards: a ring of shared memory for each ordered pair, a doorbell for each shard, msgspec on the wire.

A shard's `Mesh` sits beside its executor, which polls it. In reading order:

    calls/         what can be called, and the way of a call from end to end
    rings/         the connection of two shards on one machine
    topics/        what a shard publishes, and all hear that have subscribed
    _mesh          a shard's links to its peers, and all that is put together here
    _serving       the services that are started on it; calls that come before
    _versions      what its peers are told of them, and what is understood of theirs
    _keeping       those whose state moves when the shard is replaced
    _traffic_cy    what the executor polls: frames taken in, calls of peers started
    _expiry        the timer of deadlines
    _sleep         the bell that wakes it, and a look now and then for one that was lost
    _stats         what it has counted

The calls know of rings only that they are a connection, and rings know nothing of calls: rings <- calls <- topics <- mesh.
"""

from clockworker.executor._seal_cy import seal_package
from clockworker.ipc._mesh import Mesh
from clockworker.ipc._stats import LinkStats, MeshStats
from clockworker.ipc.calls._call_cy import Method
from clockworker.ipc.calls._limits import Limits
from clockworker.ipc.calls._remote import node_local, remote
from clockworker.ipc.calls._service import Sharded
from clockworker.ipc.calls._timeout import deadline
from clockworker.ipc.rings._connection_cy import Connection
from clockworker.ipc.rings._doorbell_cy import create_doorbell
from clockworker.ipc.rings._ring_cy import create_ring
from clockworker.ipc.topics._outlet import TopicStats
from clockworker.ipc.topics._subscription import Subscription
from clockworker.ipc.topics._topic import Topic

__all__: list[str] = [
    "Limits",
    "LinkStats",
    "Mesh",
    "MeshStats",
    "Sharded",
    "Subscription",
    "Topic",
    "TopicStats",
    "create_doorbell",
    "create_ring",
    "deadline",
    "node_local",
    "remote",
]

seal_package(__name__, but={Method, Connection})
