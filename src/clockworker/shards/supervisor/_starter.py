"""Making a shard's process, and telling it who it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from clockworker.shards.config._config import ServeConfig
from clockworker.shards.machine._placement import Placement
from clockworker.shards.machine._sockets import Listeners
from clockworker.shards.protocol._health import HealthPolicy
from clockworker.shards.protocol._messages import Configure
from clockworker.shards.supervisor._clustering import Clustering
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._process import ShardProcess
from clockworker.shards.supervisor._spares import Spares
from clockworker.shards.supervisor._watch import Watch
from clockworker.shards.supervisor._wiring import Wiring


class Starter:
    """What it makes is watched and connected by `watch` and `wiring`; processes come from `spares`."""

    def __init__(
        self,
        config: ServeConfig,
        placement: Placement,
        listeners: Listeners,
        members: Members,
        health: HealthPolicy,
        watch: Watch,
        wiring: Wiring,
        spares: Spares,
        clustering: Clustering | None,
    ) -> None:
        self._config = config
        self._idle_poll_us = placement.idle_poll_us if config.idle_poll_us is None else config.idle_poll_us
        self._processes = config.processes or placement.processes
        self._listeners = listeners
        self._members = members
        self._health = health
        self._watch = watch
        self._wiring = wiring
        self._spares = spares
        self._clustering = clustering

    def make(self, member: Member, ended: Callable[[Member, ShardProcess], None]) -> ShardProcess:
        """A process, of whose end `ended` is told. Raises `OSError`; then there is none."""
        process = ShardProcess(
            len(self._members),
            self._health,
            self._wiring.place(member),
            lambda terminal: self._spares.process(member.id, member.cpu, terminal),
            self._config.lines,
        )
        try:
            asyncio.get_running_loop().add_reader(process.pidfd, ended, member, process)
        except OSError:
            process.discard()
            raise
        return process

    def configure(self, member: Member, process: ShardProcess, says: Callable[[Member, ShardProcess], None]) -> None:
        """`says` is called when it has said something. Raises `OSError`; then the process cannot become a shard."""
        asyncio.get_running_loop().add_reader(process.channel.fileno(), says, member, process)
        self._watch.add(member, process)
        allowed = set() if member.cpu is None else os.sched_getaffinity(0)
        configure = Configure(
            member.id,
            len(self._members),
            member.cpu,
            self._idle_poll_us,
            process.place,
            self._config.of_shard(member.id),
            served=self._listeners.served(),
            cpus=tuple(allowed),
            processes=self._processes,
            pool_cpus=tuple(allowed - {each.cpu for each in self._members} or allowed),
            incarnation=member.incarnation,
            came_by=member.came_by,
            inherits=self._members[member.id].keeps if member is self._members.beside else (),
        )
        process.configure(configure)
        if self._clustering is not None:
            self._clustering.add(process)
        self._wiring.add(member, process)
