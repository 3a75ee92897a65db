"""The page of metrics, and the dashboard that draws it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families as parse

from clockworker import DurationStats
from clockworker.shards._ledger import Totals
from clockworker.shards._metrics import Metrics, Snapshot
from clockworker.shards._reading import QueueReading, Reading
from clockworker.shards._view import Presence

DOCS = Path(__file__).parents[2] / "docs"


def page(shards: int = 2) -> str:
    durations = DurationStats((*[0] * 70, 3, *[0] * 100, 1), 2**21, 5 * 10**6)
    queues = {name: QueueReading(share=1, wait=durations, poll_time=durations) for name in ("fast", "slow")}
    reading = msgspec.structs.replace(Reading.nothing(), written_ns=10**9, queues=queues)
    snapshot = Snapshot(
        [Presence(shard, "ready", 1, None, 1.0) for shard in range(shards)],
        [Totals(3, 2, reading) for _ in range(shards)],
        1.5,
        3 * 10**9,
    )
    body, kind = Metrics(lambda: snapshot).page("")
    assert kind.startswith("text/plain")
    return body.decode()


def test_histograms_are_by_queue_over_all_shards() -> None:
    families = {family.name: family for family in parse(page())}
    samples = families["clockworker_queue_wait_seconds"].samples
    fast = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket") and s.labels["queue"] == "fast"}
    counts = list(fast.values())
    assert counts == sorted(counts)
    assert fast["+Inf"] == 8
    # Bucket 70 is 1,792 to 1,919 ns, bucket 171 11.5 to 12.6 ms.
    assert (fast["1.024e-06"], fast["4.096e-06"], fast["0.004194304"], fast["0.016777216"]) == (0, 6, 6, 8)
    [total] = [s.value for s in samples if s.name.endswith("_sum") and s.labels["queue"] == "fast"]
    assert total == 0.01


def test_a_series_a_shard_and_never_one_a_pair() -> None:
    def series(shards: int) -> int:
        return sum(len(family.samples) for family in parse(page(shards)) if family.name.startswith("clockworker"))

    assert series(3) - series(2) == series(64) - series(63) < 80


def test_units_and_suffixes_are_prometheus_s() -> None:
    for family in parse(page()):
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
        assert not re.search(r"_(ns|us|ms)\b", family.name)
        assert family.documentation.endswith("."), family.name


def test_the_dashboard_and_the_documentation_name_metrics_that_exist() -> None:
    known = {sample.name for family in parse(page()) for sample in family.samples}
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    text = json.dumps([dashboard["panels"], dashboard["annotations"], dashboard["templating"]])
    used = set(re.findall(r"\bclockworker_\w+", text))
    assert used
    assert used <= known
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])
    documented = set(re.findall(r"`(clockworker_\w+)`", (DOCS / "observing.md").read_text()))
    # A histogram or summary goes by its name there.
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in known if name.startswith("clockworker_")}
    assert documented == families
