"""Shards that have nothing to do use no CPU, and with polling they are asleep within `idle_poll`."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time

import psutil
import uvloop

import clockworker as cw
from clockworker.ipc.rings._memory_cy import SharedMemory
from tests.reliability._checks import Result, check
from tests.reliability._victim import Ledger
from tests.reliability._victims import end, start

_IDLE_POLL_US = 20_000
_SLEEPS_AT = 0  # of a doorbell: odd while its shard sleeps


@check("idle shards use no CPU", ci=5, release=60, pure=0, pace=1)
def idle_shards(trials: int) -> Result:
    """Trials are seconds. The looks for lost wake-ups, a second, 5 and 21 after falling asleep, are all that is allowed."""
    cpu_ms, waits = uvloop.run(_idle(trials))
    if waits > 2 + trials // 10 or cpu_ms > 5 + trials / 10:
        raise AssertionError(f"{waits} wake-ups and {cpu_ms:.1f} ms of CPU in {trials} s")
    return Result(trials, f"{waits} wake-ups and {cpu_ms:.2f} ms of CPU in {trials} s")


@check("a shard that polls is asleep within idle_poll", ci=20, release=1_000, pure=0, pace=40)
def asleep_within_idle_poll(trials: int) -> Result:
    """From the reply to its last call until it sleeps. A busy machine makes it later, or makes us note the reply too late."""
    took_ms = [each * 1e3 for each in uvloop.run(_fall_asleep(trials))]
    least, median = min(took_ms), sorted(took_ms)[trials // 2]
    if least > 1.2 * _IDLE_POLL_US / 1e3 or max(took_ms) < 0.9 * _IDLE_POLL_US / 1e3:
        raise AssertionError(f"asleep after {least:.2f} to {max(took_ms):.2f} ms; idle_poll is {_IDLE_POLL_US / 1e3:g}")
    return Result(trials, f"idle_poll {_IDLE_POLL_US / 1e3:g} ms: asleep after {least:.2f} ms, median {median:.2f} ms")


async def _idle(seconds: int) -> tuple[float, int]:
    """Milliseconds of CPU, and how often it was woken."""
    with tempfile.TemporaryFile() as ledger:
        async with cw.Executor([cw.Queue("foreground")]) as executor:
            bell = cw.create_doorbell(2)
            mesh = cw.Mesh(0, 2, executor, (os.dup(bell[0]), os.dup(bell[1])))
            service = mesh.start(Ledger, Ledger(-1))
            victim = start(mesh, 1, ledger.fileno(), bell)
            try:
                assert await service.on(1).enter(1, b"") == 1
                process = psutil.Process(victim.pid)
                await asyncio.sleep(0.1)
                cpu_before, waits_before = _cpu_ms(process), process.num_ctx_switches().voluntary
                await asyncio.sleep(seconds)
                return _cpu_ms(process) - cpu_before, process.num_ctx_switches().voluntary - waits_before
            finally:
                end(victim)
                mesh.close()
                for descriptor in bell:
                    os.close(descriptor)


def _cpu_ms(process: psutil.Process) -> float:
    # Nanoseconds that it ran; cpu_times() counts in ticks of 10 ms.
    with open(f"/proc/{process.pid}/schedstat") as stat:
        return int(stat.read().split()[0]) / 1e6


async def _fall_asleep(trials: int) -> list[float]:
    with tempfile.TemporaryFile() as ledger:
        async with cw.Executor([cw.Queue("foreground")]) as executor:
            bell = cw.create_doorbell(2)
            mesh = cw.Mesh(0, 2, executor, (os.dup(bell[0]), os.dup(bell[1])))
            service = mesh.start(Ledger, Ledger(-1))
            watched: list[SharedMemory] = []
            victim = start(mesh, 1, ledger.fileno(), bell, _IDLE_POLL_US, watch=watched)
            try:
                found = []
                for number in range(1, trials + 1):
                    assert await service.on(1).enter(3 * number + 1, b"") == 3 * number + 1
                    since = time.monotonic()
                    while watched[0].load(_SLEEPS_AT) % 2 == 0:  # not by the loop: its timers are coarse
                        if time.monotonic() > since + 5:
                            raise AssertionError("not asleep after 5 s")
                        time.sleep(0.0002)  # noqa: ASYNC251
                    found.append(time.monotonic() - since)
                return found
            finally:
                end(victim)
                mesh.close()
                watched[0].close()
                for descriptor in bell:
                    os.close(descriptor)
