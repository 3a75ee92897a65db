"""Claims about what a server says of itself while its shards are killed."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections import deque

from prometheus_client.parser import text_string_to_metric_families

from clockworker.shards.testing import Server, serving
from tests.reliability._checks import Result, check
from tests.reliability._server import main

SHARDS = 16
# More than 5 starts of a shard within 10 s would be a crash loop: many shards can be killed more often than few.
STARTS, WINDOW_S = 5, 10.0
PAUSE_S = 0.01  # between two scrapes, so that the shards get on with their starts
HANGS_S = 60.0

Series = tuple[str, tuple[tuple[str, str], ...]]


class Scraper:
    """Scrapes, and fails if an answer is not whole or a counter has gone backwards."""

    def __init__(self, address: str) -> None:
        self.scrapes = 0
        self._url = f"http://{address}/metrics"
        self._counters: dict[Series, float] = {}

    def scrape(self) -> dict[Series, float]:
        with urllib.request.urlopen(self._url, timeout=HANGS_S) as answer:  # raises for any status but 200
            text = answer.read().decode()
        counters, gauges = {}, {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = sample.name, tuple(sorted(sample.labels.items()))
                (counters if family.type in ("counter", "histogram", "summary") else gauges)[series] = sample.value
        ours = {series: value for series, value in counters.items() if series[0].startswith("clockworker_")}
        for series, before in self._counters.items():
            assert series in ours, f"{series} is gone"
            assert ours[series] >= before, f"{series} went from {before} to {ours[series]}"
        self._counters = ours
        self.scrapes += 1
        return ours | gauges


class Victim:
    """A shard, to be killed as often as it may be started."""

    def __init__(self, server: Server, shard: int) -> None:
        self.kills = 0
        self.is_back = False  # since the last kill
        self._server = server
        self._shard = shard
        self._started: deque[float] = deque(maxlen=STARTS)  # when its starts were seen

    def see(self, scraped: dict[Series, float]) -> None:
        def of_shard(name: str) -> float:
            return scraped[f"clockworker_shard_{name}", (("shard", str(self._shard)),)]

        restarts = of_shard("restarts_total")
        assert restarts <= self.kills, f"shard {self._shard} has had {self.kills} kills, and {restarts:g} restarts"
        if not self.is_back and restarts == self.kills and of_shard("ready"):
            self.is_back = True
            self._started.append(time.monotonic())

    def may_be_killed(self) -> bool:
        return self.is_back and (len(self._started) < STARTS or time.monotonic() - self._started[0] > WINDOW_S)

    def kill(self) -> None:
        os.kill(self._server.pid(self._shard), signal.SIGKILL)
        self.kills += 1
        self.is_back = False


@check(
    "metrics scraped during kills: every answer 200 and valid, no counter goes backwards",
    ci=48,
    release=1_000,
    pure=0,
)
def scraped_during_kills(trials: int) -> Result:
    with serving(main, shards=SHARDS, options=["--port", "0", "--metrics", "127.0.0.1:0"], timeout=60) as server:
        address = re.search(r"metrics on http://([\d.:]+)/", server.log)
        assert address is not None
        scraper = Scraper(address[1])
        victims = [Victim(server, shard) for shard in range(SHARDS)]
        kills, latest = 0, time.monotonic()
        while kills < trials or not all(victim.is_back for victim in victims):
            scraped = scraper.scrape()
            for victim in victims:
                victim.see(scraped)
            ready = [victim for victim in victims if victim.may_be_killed()]
            for victim in ready[: trials - kills]:
                victim.kill()
                kills, latest = kills + 1, time.monotonic()
            assert time.monotonic() - latest < HANGS_S, f"not every shard is back after {kills} kills"
            time.sleep(PAUSE_S)
    return Result(kills, f"{scraper.scrapes:,} scrapes, all of them 200, valid and monotonic")
