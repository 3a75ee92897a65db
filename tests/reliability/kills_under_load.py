"""`kill -9` of a shard under load, again and again: no acknowledged call is lost or done twice, and no call hangs."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

import clockworker as cw
from tests.reliability._checks import Result, check
from tests.reliability._victim import Ledger
from tests.reliability._victims import end, start

_ROOT = Path(__file__).parents[2]
_CALLERS = 50
_HANGS_S = 20.0
_RING = 1 << 14


class _Load:
    """Callers that go on over all incarnations of the shard that they call."""

    def __init__(self, mesh: cw.Mesh, enter: Any) -> None:
        self._mesh = mesh
        self._enter = enter
        self._number = 0
        self.acked: list[int] = []
        self.failed = self.wrong = 0
        self.ended_after_s: list[float] = []  # ShardDied: how long after the kill
        self.killed_at = 0.0
        self.over = False
        self.since: dict[int, float] = {}  # calls on the way

    async def call_on(self, rng: random.Random) -> None:
        while not self.over:
            self._number += 1
            number = self._number
            self.since[number] = time.monotonic()
            try:
                if await self._enter(number, bytes(rng.choice((0, 100, 1_000, 20_000)))) != number:
                    self.wrong += 1
                self.acked.append(number)
            except cw.ShardDied:
                self.failed += 1
                self.ended_after_s.append(time.monotonic() - self.killed_at)
            except cw.ShardDown:
                self.failed += 1
                await asyncio.sleep(0.005)
            del self.since[number]


@check(
    "kill -9 of shards under load: acked calls lost 0, done twice 0, hung 0",
    ci=100,
    release=1_000,
    pure=10,
    pace=12,
)
def kills_under_load(trials: int) -> Result:
    with tempfile.TemporaryFile() as ledger:
        return uvloop.run(_kill(trials, ledger.fileno()))


async def _kill(trials: int, ledger: int) -> Result:
    rng = random.Random(trials)
    os.set_inheritable(ledger, True)
    async with cw.Executor([cw.Queue("foreground")], on_panic="catch") as executor:
        bell = cw.create_doorbell(2)
        mesh = cw.Mesh(0, 2, executor, (os.dup(bell[0]), os.dup(bell[1])))
        service = mesh.start(Ledger, Ledger(ledger))
        load = _Load(mesh, service.on(1).enter)
        victim = start(mesh, 1, ledger, bell)
        callers = [
            executor.queue("foreground").spawn(load.call_on(random.Random(number))) for number in range(_CALLERS)
        ]
        try:
            for epoch in range(1, trials + 1):
                enough = len(load.acked) + rng.randrange(1, 400)
                until = time.monotonic() + _HANGS_S
                while len(load.acked) < enough:
                    await asyncio.sleep(0.002)
                    if time.monotonic() > until:
                        raise AssertionError(f"no call ends any more, {len(load.since)} are on the way")
                load.killed_at = time.monotonic()
                end(victim)  # and reap: only the reaped are replaced
                mesh.disconnect(1)
                victim = start(mesh, epoch + 1, ledger, bell)
            load.over = True
            until = time.monotonic() + _HANGS_S
            while load.since and time.monotonic() < until:
                await asyncio.sleep(0.005)
            hung = len(load.since)
            for caller in callers:
                caller.abort()
        finally:
            end(victim)
            mesh.close()
            for descriptor in bell:
                os.close(descriptor)
    done = Counter(number for (number,) in struct.iter_unpack("<Q", _contents(ledger)))
    lost = [number for number in load.acked if number not in done]
    twice = [number for number, times in done.items() if times > 1]
    if lost or twice or hung or load.wrong:
        raise AssertionError(f"{len(lost)} acked calls lost, {len(twice)} done twice, {hung} hung, {load.wrong} wrong")
    ended_ms = sorted(each * 1e3 for each in load.ended_after_s)
    p99 = ended_ms[len(ended_ms) * 99 // 100] if ended_ms else 0.0
    return Result(
        trials,
        f"{len(load.acked):,} acked, {load.failed:,} ended in ShardDied or ShardDown; lost 0, twice 0, hung 0; "
        f"ShardDied after p99 {p99:.1f} ms",
    )


def _contents(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)
