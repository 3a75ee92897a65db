"""Preemptive queues with everything beside them that a cut could hurt, for long."""

from __future__ import annotations

import re
import time

from tests.reliability._checks import Result, check
from tests.reliability.processes import wait

_KILL_EVERY_S = 3.0
_LOOK_S = 0.25
_LOOKS = 8  # at least: on a busy machine a call may take seconds
_SETTLED = 0.3  # of the time: by then caches are full
_GROWTH_BYTES = 8 << 20  # that a shard's memory may have then: its allocator's
_GROWTH = 0.05


@check(
    "preemptive queues under collections, threads, signals, cancellations, kills: faults 0, crashes 0, memory flat",
    ci=10,
    release=600,
    pure=0,  # there are none
)
def preempt_soak(trials: int) -> Result:
    """Trials are seconds. Shard 0 is killed every 3 s; the memory of shard 1, which lives, is watched."""
    # Here: its queues cannot be declared where there is no preemption.
    from clockworker.shards.testing import serving
    from tests.reliability._preempt_soak import Found, Soak, main

    kills, memory, found = 0, list[tuple[float, int]](), dict[int, Found]()
    with serving(main, shards=2) as server:
        server.pid(1)
        lives = server.pid(1)
        began = time.monotonic()
        kill_at = _KILL_EVERY_S
        while (at := time.monotonic() - began) < trials or len(memory) < _LOOKS:
            seen = server.call(1, Soak.found)
            found[1] = seen
            memory.append((at, seen.rss_bytes))
            assert not seen.faults, f"shard 1: {seen.faults}"
            first = server.call(0, Soak.found)
            found[0] = first
            assert not first.faults, f"shard 0: {first.faults}"
            if at >= kill_at and at < trials - _KILL_EVERY_S:
                server.kill(0)
                kills += 1
                kill_at = time.monotonic() - began + _KILL_EVERY_S
            time.sleep(_LOOK_S)
        assert server.pid(1) == lives, f"shard 1 has died:\n{server.log[-4000:]}"
        wait(server, lambda: server.call(0, Soak.found).hogs > 0, "shard 0 goes on")
        status = server.stop()
        crashes = re.findall(r"SIG(?:SEGV|BUS|ABRT|ILL|FPE)", server.log)
        assert (crashes, status) == ([], 0), f"status {status}, {crashes}:\n{server.log[-4000:]}"
        assert "still had work" not in server.log, server.log[-4000:]
    settled = [rss for at, rss in memory if at >= _SETTLED * memory[-1][0]]
    early, late = min(settled[: max(1, len(settled) // 4)]), min(settled[-max(1, len(settled) // 4) :])
    assert late - early <= _GROWTH_BYTES + _GROWTH * early, f"memory grew from {early:,} to {late:,} bytes"
    one = found[1]
    assert min(one.hogs, one.signals, one.foreground, one.calls) > 0, one
    return Result(
        trials,
        f"{one.hogs:,} hogs, {one.aborted:,} aborted, {one.calls:,} calls, {one.signals:,} signals, {kills} kills; "
        f"foreground p99 {one.late_ms:.1f} ms late; memory {early >> 20} to {late >> 20} MiB",
    )
