"""Claims about what a server says of itself while its shards are killed."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from clockworker.shards.testing import serving
from tests.reliability._checks import Result, check
from tests.reliability._server import main

SHARDS = 4
# More than 5 starts of a shard within 10 s would be a crash loop.
REST_S = 2.6

Series = tuple[str, tuple[tuple[str, str], ...]]


class Scraper:
    """Scrapes, and fails if an answer is not whole or a counter has gone backwards."""

    def __init__(self, address: str) -> None:
        self.scrapes = 0
        self._url = f"http://{address}/metrics"
        self._counters: dict[Series, float] = {}

    def scrape(self) -> dict[Series, float]:
        with urllib.request.urlopen(self._url, timeout=60) as answer:  # raises for any status but 200
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

    def scrape_until(self, series: Series, value: float) -> None:
        deadline = time.monotonic() + 60
        while self.scrape()[series] != value:
            assert time.monotonic() < deadline, f"{series} never became {value}"


def of_shard(name: str, shard: int) -> Series:
    return f"clockworker_shard_{name}", (("shard", str(shard)),)


@check("metrics scraped during kills: every answer 200 and valid, no counter goes backwards", ci=12, release=1_000)
def scraped_during_kills(trials: int) -> Result:
    with serving(main, shards=SHARDS, options=["--port", "0", "--metrics", "127.0.0.1:0"], timeout=60) as server:
        address = re.search(r"metrics on http://([\d.:]+)/", server.log)
        assert address is not None
        scraper = Scraper(address[1])
        struck = [0.0] * SHARDS
        for number in range(trials):
            shard = number % SHARDS
            while time.monotonic() - struck[shard] < REST_S:
                scraper.scrape()
            scraper.scrape_until(of_shard("ready", shard), 1)
            struck[shard] = time.monotonic()
            os.kill(server.pid(shard), signal.SIGKILL)
            scraper.scrape_until(of_shard("restarts_total", shard), number // SHARDS + 1)
    return Result(trials, f"{scraper.scrapes:,} scrapes, all of them 200, valid and monotonic")
