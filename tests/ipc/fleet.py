"""A mesh of real processes. Shard 0 is the test itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from probe import Probe

import clockworker as cw


class Fleet:
    def __init__(self, executor: cw.Executor, count: int, **options: Any) -> None:
        self.executor = executor
        self.count = count
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ring = options.pop("ring", 1 << 16)
        self._limits = options.pop("limits", {})
        self._idle_poll_us = options.pop("idle_poll_us", 0)
        self._waits = options.pop("waits", False)
        self._cores = options.pop("cores", None)
        self._start_grace_s = options.pop("start_grace_s", 5.0)
        self._topics = options.pop("topics", False)
        encode_local = options.pop("encode_local", False)
        assert not options
        self._epoch = 0
        self._own_bell = cw.create_doorbell(count)
        bells = {shard: cw.create_doorbell(count) for shard in range(1, count)}
        rings = {
            (source, to): cw.create_ring(self._ring) for source in range(count) for to in range(count) if source != to
        }
        for shard in range(1, count):
            self._start(shard, bells, rings)
        self.mesh = cw.Mesh(
            0,
            count,
            executor,
            (os.dup(self._own_bell[0]), os.dup(self._own_bell[1])),
            idle_poll_us=self._idle_poll_us,
            limits=cw.Limits(**self._limits),
            encode_local=encode_local,
        )
        if self._topics:
            _ = self.mesh.topics  # before there are peers, as a shard does
        for shard in range(1, count):
            self._connect(shard, bells, rings)
        # What shard 0 took is its own now; the rest was for the children.
        taken = {rings[pair] for pair in rings if 0 in pair} | {each for bell in bells.values() for each in bell}
        for descriptor in set(rings.values()) - taken:
            os.close(descriptor)
        self.probe = Probe(0, self.mesh)
        self.service = self.probe.service = self.mesh.start(Probe, self.probe)

    def release(self, shard: int) -> None:
        """Let a shard that waits start its service."""
        stdin = self.processes[shard].stdin
        assert stdin is not None
        stdin.write(b"!")
        stdin.flush()

    def kill(self, shard: int) -> None:
        """kill -9, and reap."""
        self.processes[shard].kill()
        self.processes[shard].wait()

    def restart(self, shard: int) -> None:
        """A new incarnation, of a mesh of two, in place of one that was killed and disconnected."""
        assert self.count == 2
        bells = {shard: cw.create_doorbell(2)}
        rings = {(0, shard): cw.create_ring(self._ring), (shard, 0): cw.create_ring(self._ring)}
        self._reap(shard)
        self._start(shard, bells, rings)
        self._connect(shard, bells, rings)

    def close(self) -> None:
        self.mesh.close()
        for shard in self.processes:
            self._reap(shard)
        for descriptor in self._own_bell:
            os.close(descriptor)

    def _reap(self, shard: int) -> None:
        process = self.processes[shard]
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _start(self, shard: int, bells: dict[int, tuple[int, int]], rings: dict[tuple[int, int], int]) -> None:
        self._epoch += 1
        everybodys = {0: self._own_bell, **bells}
        peers = [
            {
                "peer": peer,
                "epoch": self._epoch,
                "incoming": rings[peer, shard],
                "outgoing": rings[shard, peer],
                "doorbell": bell,
            }
            for peer, bell in everybodys.items()
            if peer != shard
        ]
        config = {
            "shard": shard,
            "count": self.count,
            "doorbell": bells[shard],
            "peers": peers,
            "limits": self._limits,
            "idle_poll_us": self._idle_poll_us,
            "waits": self._waits,
            "start_grace_s": self._start_grace_s,
            "topics": self._topics,
        }
        self.processes[shard] = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("node.py"), json.dumps(config)],
            stdin=subprocess.PIPE,
            pass_fds=[*rings.values(), *(each for bell in everybodys.values() for each in bell)],
        )
        if self._cores is not None:
            os.sched_setaffinity(self.processes[shard].pid, self._cores)

    def _connect(self, shard: int, bells: dict[int, tuple[int, int]], rings: dict[tuple[int, int], int]) -> None:
        self.mesh.connect(shard, self._epoch, incoming=rings[shard, 0], outgoing=rings[0, shard], doorbell=bells[shard])


@asynccontextmanager
async def fleet(count: int = 2, **options: Any) -> AsyncIterator[Fleet]:
    """A fleet of `count` shards, gone at the end. Options: ring, limits, idle_poll_us, waits, cores, start_grace_s, topics, and
    of shard 0 encode_local."""
    queues = [cw.Queue("foreground", 8), cw.Queue("background")]
    async with cw.Executor(queues, on_panic="catch") as executor:
        fleet = Fleet(executor, count, **options)
        try:
            yield fleet
        finally:
            fleet.close()
