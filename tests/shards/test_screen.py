from __future__ import annotations

from typing import Any

import msgspec

from clockworker.shards.observe._ledger import Ledger
from clockworker.shards.observe._view import Presence, ServerStats, view_all, view_shard
from clockworker.shards.protocol._reading import LoopReading, Reading
from clockworker.shards.tools._screen import screen


def stats_of(*loops: LoopReading) -> ServerStats:
    """Of a server whose shards have been so for two seconds, after nothing."""
    ledger = Ledger(len(loops))
    ledger.remember(0.0, ledger.totals([Reading.nothing() for _ in loops]))
    totals = ledger.totals([msgspec.structs.replace(Reading.nothing(), written_ns=1, loop=loop) for loop in loops])
    window, lately = ledger.recently(2.0, totals)
    presences = [Presence(number, "ready", 1, None, 2.0) for number in range(len(loops))]
    queues, routes, total = view_all(presences, totals, lately, window)
    shards = [view_shard(*each, window, 1) for each in zip(presences, totals, lately, strict=True)]
    known: dict[str, Any] = {"version": "1", "compiled": True, "app": "a:b", "addresses": [], "serving": True, "pid": 1}
    return ServerStats(
        **known, uptime_s=2.0, window_s=window, shards=shards, queues=queues, routes=routes, topics=[], total=total
    )


def test_what_runs_in_processes_and_threads_is_one_line() -> None:
    busy = LoopReading(processes_running=2, processes_waiting=3, processes_done=9, blocking_running=1)
    idle = LoopReading(processes_done=2, blocking_waiting=4)
    lines = screen(stats_of(busy, idle), "shard", 80)
    assert lines[3] == " processes: 2 running, 3 waiting, 5.5/s done   threads: 1 running, 4 waiting"
    stats = stats_of(busy, idle)
    assert [shard.rates.processes_done_per_s for shard in stats.shards] == [4.5, 1.0]
    decoded = msgspec.json.decode(msgspec.json.encode(stats), type=ServerStats)
    assert decoded.total.rates.processes_done_per_s == 5.5


def test_what_is_not_there_takes_no_line() -> None:
    assert screen(stats_of(LoopReading()), "shard", 80)[3] == ""
    done = screen(stats_of(LoopReading(processes_done=1)), "shard", 80)
    assert done[3] == " processes: 0 running, 0 waiting, 0.5/s done"
