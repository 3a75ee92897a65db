"""Who accepts from whose listening sockets.

A shard accepts from its own once it is ready and has a server. Whoever cannot take connections has a neighbour who does:
a shard that is not there or is starting, one that is ready and serves nothing, and one whose loop stands still. What waits
in the kernel's queue of such a shard's sockets would else wait as long as it does, a start of seconds or a step of seconds,
which with SO_REUSEPORT is a part of all new connections. The supervisor has all sockets, so it lends them: the neighbour gets
copies, and accepts from them as from its own until it is told to cease. That both accept for a moment does no harm, since
a copy is the same queue, and ceasing loses nothing, since what waits there stays.

The neighbour is the one who has been lent the fewest, of equals the next in order, and keeps what it has while it can: so
where a client is to meet one shard only (`fixed`) it meets one other one meanwhile. With a limit on connections all of them
are neighbours, because one may be full. Rejected: lending to all in any case (each connection then wakes all of them).

Sockets that all shards accept from anyway, Unix ones and inherited ones, need not be lent.

All of this is for each bind by itself: a shard may serve one and not another.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence

from clockworker.shards.machine._sockets import Listeners
from clockworker.shards.protocol._messages import AcceptFrom, CeaseFrom
from clockworker.shards.supervisor._member import Member
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

# A loop that has stood still is helped for so much longer: one that stands still now and then would get sockets back and
# give them away all the time.
CALM_S = 1.0


def choose_neighbours(
    count: int, able: Iterable[int], needy: Iterable[int], before: Mapping[int, int]
) -> dict[int, int]:
    """Who of those that are able, of so many shards, accepts for each of the needy. before: who does so now."""
    able = set(able)
    if not able:
        return {}
    kept = {shard: before[shard] for shard in needy if before.get(shard) in able}
    lent = [0] * count
    for neighbour in kept.values():
        lent[neighbour] += 1
    for shard in sorted(set(needy) - kept.keys()):
        kept[shard] = min(able, key=lambda neighbour: (lent[neighbour], (neighbour - shard) % count))
        lent[kept[shard]] += 1
    return kept


class Lending:
    """members: those there are. to_all: lend to everybody who is able."""

    def __init__(self, members: Sequence[Member], listeners: Listeners, to_all: bool) -> None:
        self._members = members
        self._listeners = listeners
        self._to_all = to_all
        self._neighbours: dict[str, dict[int, int]] = {bind: {} for bind in listeners.binds}
        self._accepts: dict[ShardProcess, set[tuple[str, int]]] = {}  # from the sockets of which bind and shard
        self._late: dict[ShardProcess, asyncio.TimerHandle | None] = {}  # loops that stand still, or did lately

    def stands_still(self, process: ShardProcess, still: bool) -> None:
        """A loop stands still, or turns again."""
        timer = self._late.get(process)
        if timer is not None:
            timer.cancel()
        if still:
            self._late[process] = None
            self.update()
        else:
            self._late[process] = asyncio.get_running_loop().call_later(CALM_S, self._turns, process)

    def ended(self, process: ShardProcess) -> None:
        self._accepts.pop(process, None)
        timer = self._late.pop(process, None)
        if timer is not None:
            timer.cancel()

    def update(self) -> None:
        """Somebody can take connections, or can no longer."""
        wanted: dict[ShardProcess, set[tuple[str, int]]] = {}
        for bind in self._neighbours:
            for process, owners in self._choose(bind).items():
                wanted.setdefault(process, set()).update((bind, owner) for owner in owners)
        for member in self._members:
            if member.process in wanted:
                self._let_accept(member.id, member.process, wanted[member.process])

    def orphaned(self) -> dict[int, list[tuple[str, socket.socket]]]:
        """The sockets that none of those accepts from who could: for each shard that is to have some, their binds and they."""
        left: dict[int, list[tuple[str, socket.socket]]] = {}
        for bind in self._neighbours:
            able = [member for member in self._members if member.process and member.takes(bind)]
            accepted = {
                sock
                for member in able
                if member.process
                for of_bind, shard in self._accepts[member.process]
                if of_bind == bind
                for sock in self._listeners.of(shard, bind)
            }
            every = (sock for member in self._members for sock in self._listeners.of(member.id, bind))
            if able and (orphaned := [(bind, sock) for sock in every if sock not in accepted]):
                left.setdefault(able[0].id, []).extend(orphaned)
        return left

    def _choose(self, bind: str) -> dict[ShardProcess, set[int]]:
        """From the sockets of which shards each that serves this bind is to accept."""
        serving = {member.id: member.process for member in self._members if member.process and member.takes(bind)}
        able = {shard for shard, process in serving.items() if process not in self._late}
        needy = set(range(len(self._members))) - able
        neighbours = choose_neighbours(len(self._members), able or serving, needy, self._neighbours[bind])
        self._neighbours[bind] = neighbours
        wanted = {}
        for shard, process in serving.items():
            wanted[process] = {shard} | {owner for owner, neighbour in neighbours.items() if neighbour == shard}
            if self._to_all and shard in able:
                wanted[process] |= needy
        return wanted

    def _turns(self, process: ShardProcess) -> None:
        del self._late[process]
        self.update()

    def _let_accept(self, shard: int, process: ShardProcess, wanted: set[tuple[str, int]]) -> None:
        accepts = self._accepts.setdefault(process, set())
        for bind, owner in sorted(wanted - accepts):
            own = [] if owner == shard else self._listeners.of(shard, bind)
            if listening := [sock.fileno() for sock in self._listeners.of(owner, bind) if sock not in own]:
                try:
                    process.send(AcceptFrom(owner, bind), listening)
                except OSError as error:  # the next change tries again
                    log.error("shard %d cannot be lent the sockets of shard %d: %s", shard, owner, error.strerror)
                    wanted.discard((bind, owner))
        for bind, owner in accepts - wanted:
            process.send(CeaseFrom(owner, bind))
        self._accepts[process] = wanted
