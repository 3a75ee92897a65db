"""What supervisor and shard say to each other.

A message is a tagged msgspec struct; `_control_channel` carries it. A conversation:

    supervisor: Configure (first, once), Connect, Change and Disconnect as peers come and go, Begin, AcceptFrom and
                CeaseFrom, Stop, Leave; Hold, Shut, TakeState, Release, Moved; Fenced, ViewChanged, ViewSettled, NodesSilent
    shard:      Declared, Ready or Failed or NoRoom, Serves, Terminated, ListenersClosed, Drained; Quiet; Poisoned, Unconnected;
                Stirred; Held, IsShut, Running, Taken, NotTaken

`Begin` follows the first round of `Connect`: an application that starts must find its peers connected, or its first
calls would end in `ShardDown`.
`Stop` asks for an end of accepting and for open work to be finished; calls from peers are still served, because their
open work may need them. `Leave` comes once every shard that stops is `Drained`, and ends the process.
Where one shard alone is replaced, its peers are connected with its successor beside it. At the `Change` their calls go to the
successor, and each says `Quiet` once those that it had sent to the old one have been answered, which then may leave.
If it has services whose state moves, that is before the `Change`: `Hold` has everybody's calls to the shard wait, and when all
say that theirs are `Held` the shard is told `Shut`, and ends what is running. Then `IsShut`, and the successor is told
`TakeState`, and fetches it from the old one over rings of their own. `Moved` tells the old one that it has it, and `Release`
tells all that it could not, and everything goes on as before.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from clockworker.shards.config._config import ServeConfig

CameBy: TypeAlias = Literal["start", "roll", "crash"]


class Ahead(msgspec.Struct, frozen=True, tag="ahead"):
    """Descriptors: the first ones of the message that follows, which has more of them than go into one."""


class Enclosed(msgspec.Struct, frozen=True, tag="enclosed"):
    """Descriptors: a memfd with the message itself, then those of the message."""


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Descriptors: the doorbell's memory and its eventfd, the slots, the pulse, the dump, the witness's socket, and of the
    handover the line of each bind, in their order. place: the word of this incarnation in the doorbells of its peers.
    incarnation: its number among those of the shard. came_by: what it was started for. inherits: the services whose state its
    predecessor will hand over."""

    shard: int
    count: int
    cpu: int | None
    idle_poll_us: int
    place: int
    config: ServeConfig
    served: tuple[tuple[int, str, int], ...] = ()  # the sockets that connections come from (`_fork.Served`)
    cpus: tuple[int, ...] = ()  # of the server, where `cpu` is one of them
    processes: int = 1  # for run_process()
    pool_cpus: tuple[
        int, ...
    ] = ()  # theirs: those of the server that no shard has, if there are any. None: as they come
    incarnation: int = 1
    came_by: CameBy = "start"
    inherits: tuple[str, ...] = ()


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """A peer has started. Descriptors: incoming ring, outgoing ring, the peer's doorbell's memory and its eventfd. place: its
    word in our doorbell. beside: another incarnation of it has its place. incarnation: which this is. ready: it serves already.
    The peer may be the other incarnation of the shard itself."""

    peer: int
    epoch: int
    place: int
    beside: bool
    incarnation: int = 1
    ready: bool = False


class Disconnect(msgspec.Struct, frozen=True, tag="disconnect"):
    """A peer has died and been reaped, or the incarnation of it that does not have its place."""

    peer: int
    beside: bool


class Change(msgspec.Struct, frozen=True, tag="change"):
    """The two incarnations of a peer change places: new calls go to the successor. Say when those to the old are answered."""

    peer: int


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """This shard is to hand over its state: let new calls to it wait, and say when what was sent before has all gone; so the
    shard itself, with those of its own. again: of those that wait, the ones that are made within others go, since one of these
    may be what the shard waits for. Nothing more is to be said then."""

    shard: int
    again: bool = False


class Shut(msgspec.Struct, frozen=True, tag="shut"):
    """Everybody holds. As soon as what is running on services whose state moves has ended, nothing more is to begin. Say
    when."""


class TakeState(msgspec.Struct, frozen=True, tag="take-state"):
    """Fetch the state of these services from the incarnation that has the place, within so many seconds."""

    services: tuple[str, ...]
    seconds: float


class Release(msgspec.Struct, frozen=True, tag="release"):
    """The shard keeps its place and its state. What waits goes on."""

    shard: int


class Moved(msgspec.Struct, frozen=True, tag="moved"):
    """The successor has the state: what waits, and what still comes, goes there."""


class Reopen(msgspec.Struct, frozen=True, tag="reopen"):
    """Log files have been moved: open new ones."""


class TakeAll(msgspec.Struct, frozen=True, tag="take-all"):
    """Take the connections that are handed over, whatever the limit: the server is about to stop, and they wait."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    pass


class AcceptFrom(msgspec.Struct, frozen=True, tag="accept-from"):
    """Accept from the listening sockets of this shard: one's own, or those of one that cannot. Descriptors: the sockets, all
    of this bind."""

    shard: int
    bind: str


class CeaseFrom(msgspec.Struct, frozen=True, tag="cease-from"):
    """The other shard accepts from its sockets again."""

    shard: int
    bind: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """`for_good`: the listening sockets end with this shard; what waits there has nobody else. Descriptors: those of shards
    that are not there to accept, which leave it their queues; `binds` has the bind of each. `grace`: seconds until SIGKILL, if
    it is to come."""

    for_good: bool = False
    grace: float | None = None
    binds: tuple[str, ...] = ()


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """`serve_first`: peers stay, and what they have asked for without waiting for an answer is still to be done."""

    serve_first: bool = False


class Fenced(msgspec.Struct, frozen=True, tag="fenced"):
    """This node is one of a cluster. Descriptor: the memory that says until when it owns what its view gives it."""


class ViewChanged(msgspec.Struct, frozen=True, tag="view-changed"):
    """The cluster has another view, of this epoch. view: as it is in the broker's store. owners: the slot of each partition's
    node; moved: the partitions that it has moved to this node; arrays of 32-bit numbers. incarnation: of this node. settled:
    what was moved may be served."""

    epoch: int
    view: bytes
    owners: bytes
    moved: bytes
    incarnation: int
    settled: bool


class ViewSettled(msgspec.Struct, frozen=True, tag="view-settled"):
    """What the view of this epoch has moved to this node may be served."""

    epoch: int


class NodesSilent(msgspec.Struct, frozen=True, tag="nodes-silent"):
    """The nodes of the view that are not heard."""

    nodes: tuple[str, ...]


class StartTrace(msgspec.Struct, frozen=True, tag="start-trace"):
    """Record what the executor does, for so long."""

    seconds: float


class Traced(msgspec.Struct, frozen=True, tag="traced"):
    """Descriptor: the recording."""


class Declared(msgspec.Struct, frozen=True, tag="declared"):
    """The names of the shard's queues: the application, which has been imported, and the configuration say which they are."""

    queues: tuple[str, ...]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """`serves`: the binds for which the application has made a server, and how many connections that has room for if it has a
    limit of its own. Connections may come. services: those that are started, and whether their state moves."""

    serves: dict[str, int | None]
    services: dict[str, bool] = {}


class Serves(msgspec.Struct, frozen=True, tag="serves"):
    """A shard that was ready before has another server now."""

    bind: str
    limit: int | None


class NoRoom(msgspec.Struct, frozen=True, tag="no-room"):
    """The shard could not be made ready to run the application, for want of memory, descriptors or the like."""

    reason: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The application could not be started, or ended by itself. `traceback` is empty where `message` says it all. of_options:
    it is a mistake of the operator's, which only the application's import has shown."""

    message: str
    traceback: str = ""
    of_options: bool = False


class ListenersClosed(msgspec.Struct, frozen=True, tag="listeners-closed"):
    """The shard has accepted what waited, and its copies of the listening sockets are closed."""


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    pass


class Stirred(msgspec.Struct, frozen=True, tag="stirred"):
    """The shard had been at rest and works: look after its loop."""


class Terminated(msgspec.Struct, frozen=True, tag="terminated"):
    """The shard is to be replaced: somebody has sent it SIGTERM, or reason says what it is past."""

    reason: str = ""


class Quiet(msgspec.Struct, frozen=True, tag="quiet"):
    """No call of ours to the old incarnation of this peer is in flight, and none will be."""

    peer: int


class Held(msgspec.Struct, frozen=True, tag="held"):
    """New calls of ours to this shard wait, and all that we had sent is in the ring."""

    shard: int


class IsShut(msgspec.Struct, frozen=True, tag="is-shut"):
    """The state of our services does not change any more, and can be fetched."""


class Running(msgspec.Struct, frozen=True, tag="running"):
    """What keeps this shard from being shut: methods, some of them."""

    methods: tuple[str, ...]


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """The state of all services is here. size: bytes, encoded."""

    size: int


class NotTaken(msgspec.Struct, frozen=True, tag="not-taken"):
    """It cannot be had. `traceback` is empty where `message` says it all."""

    message: str
    traceback: str = ""


class Unconnected(msgspec.Struct, frozen=True, tag="unconnected"):
    """The link of this epoch could not be made, for want of a descriptor or memory. Both ends need a new one."""

    peer: int
    epoch: int


class Poisoned(msgspec.Struct, frozen=True, tag="poisoned"):
    """The peer broke the rules of its ring of this epoch, which has been dropped. Both ends need a new one."""

    peer: int
    epoch: int


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """To the process that forks spares: fork one. Descriptors: its control channel."""


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """Its answer. Descriptors: the pidfd of the process. Or why there is none; for_good: and never will be one of it."""

    pid: int = 0
    problem: str = ""
    for_good: bool = False


ToShard: TypeAlias = (
    Configure
    | Connect
    | Disconnect
    | Change
    | Hold
    | Shut
    | TakeState
    | Release
    | Moved
    | Reopen
    | TakeAll
    | Begin
    | AcceptFrom
    | CeaseFrom
    | Stop
    | Leave
    | Fenced
    | ViewChanged
    | ViewSettled
    | NodesSilent
    | StartTrace
    | Fork
)
ToSupervisor: TypeAlias = (
    Declared
    | Ready
    | Serves
    | Failed
    | NoRoom
    | Terminated
    | ListenersClosed
    | Drained
    | Quiet
    | Held
    | IsShut
    | Running
    | Taken
    | NotTaken
    | Poisoned
    | Unconnected
    | Stirred
    | Traced
    | Forked
)
Message: TypeAlias = ToShard | ToSupervisor | Ahead | Enclosed
