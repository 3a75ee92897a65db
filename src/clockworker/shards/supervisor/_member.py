"""The shards as the supervisor sees them. While one is replaced there are two members of the same number: the one that has
the place, and its successor or predecessor beside it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence

from clockworker.shards.logs._log_limit import Limiter
from clockworker.shards.protocol._messages import CameBy, ToShard
from clockworker.shards.supervisor._lifecycle import Lifecycle, RestartPolicy, Restarts, State
from clockworker.shards.supervisor._process import ShardProcess


class Member:
    """One that has the place of a shard, over all its incarnations, or for a while is beside one that has.

    `process` is None while there is none. There is one timer at a time, whose meaning goes with the state: the
    start-up limit while starting, the grace while draining, the delay while backing off.

    incarnation: its number among those of the shard. came_by: what the one that is there, or comes next, is started for.
    services: those that it has started, and whether their state moves to a successor.
    serves: the binds for which the incarnation that is ready has a server, and may get connections.
    drained: the incarnation that drains has finished its own work.
    refused: the system was too short of something for the last start.
    broken: the application cannot be started as it is, and under --reload it is not tried again before it changes.
    """

    def __init__(self, id: int, cpu: int | None) -> None:
        self.id = id
        self.cpu = cpu
        self.lifecycle = Lifecycle()
        self.restarts = Restarts(RestartPolicy())
        self.stalls = Limiter()
        self.process: ShardProcess | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.incarnation = 0
        self.came_by: CameBy = "start"
        self.services: dict[str, bool] = {}
        self.serves: set[str] = set()
        self.drained = False
        self.broken = False
        self.refused = False

    @property
    def state(self) -> State:
        return self.lifecycle.state

    def takes(self, bind: str) -> bool:
        """Whether it may get connections that come in there."""
        return self.state is State.READY and bind in self.serves

    @property
    def takes_connections(self) -> bool:
        """Whether it may get any."""
        return self.state is State.READY and bool(self.serves)

    @property
    def keeps(self) -> tuple[str, ...]:
        """The services whose state moves."""
        return tuple(name for name, keeps in self.services.items() if keeps)

    def successor(self) -> Member:
        """Another one for the same place."""
        successor = Member(self.id, self.cpu)
        successor.came_by = "roll"
        successor.restarts = self.restarts
        successor.stalls = self.stalls
        return successor

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def tell(self, message: ToShard, descriptors: Sequence[int] = ()) -> None:
        """Send it to the process, if there is one."""
        if self.process is not None:
            self.process.send(message, descriptors)

    def __str__(self) -> str:
        return f"shard {self.id}"


class Members(list[Member]):
    """Those that have the places, by number. beside: one that has none yet, or no longer."""

    beside: Member | None = None

    def __init__(self, members: Iterable[Member]) -> None:
        super().__init__(members)
        self._incarnations: Counter[int] = Counter()

    def next_incarnation(self, shard: int) -> int:
        """1 for the shard's first process, and so on."""
        self._incarnations[shard] += 1
        return self._incarnations[shard]

    def everyone(self) -> list[Member]:
        """With the one beside."""
        return [*self] if self.beside is None else [*self, self.beside]

    def processes(self, other_than: ShardProcess) -> list[tuple[Member, ShardProcess]]:
        """All others, among them perhaps another incarnation of the same shard."""
        return [
            (member, member.process)
            for member in self.everyone()
            if member.process is not None and member.process is not other_than
        ]
