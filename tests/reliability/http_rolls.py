"""Claims about HTTP while shards are replaced, stopped and killed."""

from __future__ import annotations

import time

from clockworker.shards.testing import serving
from tests.reliability._checks import Result, check
from tests.reliability._http import ENDED, LATE, Clients, main

RATE = 500


@check(
    "HTTP, HUP every 5 s, kill -9 every 7 s, TERM: failed only what the killed shard held; lifespans end behind all requests",
    ci=8,
    release=60,
    pure=0,
)
def http_rolls(seconds: int) -> Result:
    """A trial is a second. A run of a few makes haste."""
    hup_every, kill_every = (5.0, 7.0) if seconds >= 60 else (2.0, 3.0)
    hups = kills = 0
    killed: list[tuple[float, float]] = []  # when a shard was killed, and when its successor was ready
    with (
        serving(main, shards=2) as server,
        Clients(server.address, RATE // 2, each=1) as short,
        Clients(server.address, RATE // 2, each=20) as kept,
    ):
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds or not (hups and kills):
            if now >= kill_every * (kills + 1):  # first: a HUP takes its time
                kills += 1
                when = time.monotonic()
                server.kill(kills % 2)
                killed.append((when, time.monotonic()))
            elif now >= hup_every * (hups + 1):
                hups += 1
                server.replace()
            else:
                time.sleep(0.01)
        status = server.stop()
        log = server.log
    assert status == 0, f"exit status {status}\n{log}"
    assert LATE not in log, log
    assert log.count(ENDED) == 2 * hups + 2, f"{log.count(ENDED)} lifespans have ended\n{log}"
    bad = short.bad() + kept.bad()
    for outcome in bad:
        excused = any(outcome.started <= ready and outcome.ended >= when for when, ready in killed)
        assert excused, f"{outcome} at {outcome.ended - began:.2f} s; killed at {killed}\n{log}"
    # A client that finds its connection closed between two requests asks again.
    done, told = len(short.outcomes) + len(kept.outcomes), kept.told
    return Result(
        seconds,
        f"{hups} HUPs, {kills} kills; of {done:,} requests {len(bad)} failed, all of killed shards; {told} connections were "
        f"said to end, {len(kept.closed) - told} ended between two requests",
    )
