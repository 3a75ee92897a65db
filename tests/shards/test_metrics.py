"""The page of metrics, and the dashboard that draws it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.samples import Sample

from clockworker import DurationStats
from clockworker.shards.observe._ledger import Totals
from clockworker.shards.observe._metrics import Metrics, Snapshot
from clockworker.shards.observe._page import make_template
from clockworker.shards.observe._view import ClusterStanding, NodeView, Presence
from clockworker.shards.protocol._reading import (
    SESSION_ENDS,
    CallReading,
    Counters,
    LoopReading,
    ProcessReading,
    QueueReading,
    Reading,
)
from clockworker.shards.protocol._request_readings import Requests, RouteReading
from clockworker.shards.protocol._topic_readings import TopicReading, TopicReadings

DOCS = Path(__file__).parents[2] / "docs"


TEXT, OPENMETRICS = "", "application/openmetrics-text; version=1.0.0"


def snapshot(
    shards: int = 2,
    *,
    by: int = 1,
    queues: Sequence[str] = ("fast", "slow"),
    counters: int = 2,
    routes: Sequence[str] = ("/", "other"),
    preemptive: Sequence[str] = (),
    topics: Sequence[str] = ("room:7",),
    cluster: bool = False,
) -> Snapshot:
    """Counters of shard i and queue or counter j are different numbers, all of them multiples of `by`."""
    durations = DurationStats((*[0] * 70, 3 * by, *[0] * 100, by), 2**21, by * 5 * 10**6)
    readings = []
    for shard in range(shards):
        reading = Reading(
            written_ns=10**9,
            process=ProcessReading(cpu_user_ns=by * (shard + 1) * 10**7, minor_faults=by * 1_234_567),
            loop=LoopReading(turns=by * (shard + 1), lag=durations),
            calls=CallReading(local=by * 3, sent=by * 2, received=by, ring_used_bytes=1, ring_bytes=3),
            queues={
                name: QueueReading(
                    share=1,
                    polls=by * (10 * shard + number),
                    wait=durations,
                    poll_time=durations,
                    **(_of_preemptive(by * (shard + 1), durations) if name in preemptive else {}),
                )
                for number, name in enumerate(queues)
            },
            counters=Counters({f"shop_orders_{number}": by * (shard + 1) for number in range(shard, counters)}),
            http=Requests(
                {
                    queue: {route: _route(by, shard + 10 * number, durations) for number, route in enumerate(routes)}
                    for queue in queues[min(shard, 1) :]  # others have none in the first
                }
                if routes
                else {}
            ),
            topics=TopicReadings({name: TopicReading(by, by * (shard + 2), by * 3, shard) for name in topics}),
        )
        readings.append(reading)
    return Snapshot(
        [Presence(shard, "ready", 1, None, 1.0) for shard in range(shards)],
        [Totals(3, 2, reading) for reading in readings],
        1.5,
        3 * 10**9,
        CLUSTER if cluster else None,
    )


CLUSTER = ClusterStanding("shop", "n1", 7, True, False, True, True, "", 2, [NodeView("n1", 1, 2, False, 0.0)])


def _of_preemptive(by: int, durations: DurationStats) -> dict[str, Any]:
    refusals = {
        "refusals_lock": 2 * by,
        "refusals_guarded": 3 * by,
        "refusals_no_preempt": 4 * by,
        "refusals_other": 5 * by,
    }
    return {"preemptive": 1, "cuts": by, "whole_step": durations, **refusals}


def _route(by: int, first: int, durations: DurationStats) -> RouteReading:
    """`first` is at status 0, and so on."""
    return RouteReading(*[by * number for number in range(first, first + 10)], durations)  # type: ignore[call-arg, arg-type]


def page(shards: int = 2, preemptive: Sequence[str] = (), cluster: bool = False) -> str:
    body, kind = Metrics(lambda: snapshot(shards, preemptive=preemptive, cluster=cluster)).page(TEXT)
    assert kind.startswith("text/plain")
    return body.decode()


def ours(families: Iterable[Metric]) -> dict[str, list[Sample]]:
    return {family.name: family.samples for family in families if family.name.startswith(("clockworker", "shop"))}


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS])
def test_a_page_says_what_prometheus_client_would_write(accept: str) -> None:
    """At the first scrape, at later ones, and when there are other series."""
    now = [snapshot()]
    metrics = Metrics(lambda: now[0])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    odd = ('50% "x"', "a\\b {}", "ü\u2028%s\n")
    for then in (
        snapshot(by=1),
        snapshot(by=10**9),
        snapshot(shards=3),
        snapshot(counters=1),
        snapshot(queues=odd),
        snapshot(by=7, queues=odd),
        snapshot(routes=odd),
        snapshot(routes=()),
        snapshot(preemptive=["slow"]),
        snapshot(preemptive=["fast", "slow"]),
        snapshot(queues=odd, preemptive=odd[1:]),
        snapshot(topics=odd),
        snapshot(topics=()),
        snapshot(cluster=True),
    ):
        now[0] = then
        body, content_type = metrics.page(accept)
        encoder, expected_type = choose_encoder(accept)
        read = parse_openmetrics if accept else parse
        assert content_type == expected_type
        assert ours(read(body.decode())) == ours(read(encoder(registry).decode()))


def test_each_client_s_own_format_is_not_kept_for_ever() -> None:
    metrics = Metrics(lambda: snapshot())
    for minor in range(50):
        body, kind = metrics.page(f"application/openmetrics-text; version=1.{minor}.0")
        assert f"version=1.{minor}.0" in kind
        assert body.endswith(b"# EOF\n")
    assert len(metrics._page._templates) <= 8


def test_a_page_with_another_number_of_samples_is_no_template() -> None:
    with pytest.raises(ValueError, match="the page has 2 samples, and there are 3 numbers"):
        make_template("# HELP a b.\na 1\nb 2\n", 3)


def test_each_shard_has_its_own_figures_in_the_units_of_prometheus() -> None:
    samples = [sample for family in parse(page()) for sample in family.samples]
    found = {
        (s.name, s.labels["shard"], s.labels.get("mode") or s.labels.get("direction")): s.value
        for s in samples
        if "shard" in s.labels
    }
    cpu, calls = "clockworker_process_cpu_seconds_total", "clockworker_calls_total"
    assert (found[cpu, "0", "user"], found[cpu, "1", "user"], found[cpu, "1", "system"]) == (0.01, 0.02, 0)
    assert [found[calls, "1", direction] for direction in ("local", "sent", "received")] == [3, 2, 1]
    assert found["clockworker_ring_fill_ratio", "0", None] == pytest.approx(1 / 3)


def test_the_application_s_counters_are_on_the_page_for_each_shard() -> None:
    families = {family.name: family for family in parse(page())}
    found = {(sample.name, sample.labels["shard"]): sample.value for sample in families["shop_orders_0"].samples}
    # Shard 1 has not come to it yet.
    assert found == {("shop_orders_0_total", "0"): 1, ("shop_orders_0_total", "1"): 0}
    assert families["shop_orders_1"].type == "counter"


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


def test_http_s_series_are_by_route_or_by_queue() -> None:
    found = {
        (s.name, *(s.labels.get(label) for label in ("shard", "queue", "route", "status"))): s.value
        for family in parse(page())
        for s in family.samples
        if "le" not in s.labels and ("http" in s.name or "websockets" in s.name)
    }
    total = "clockworker_http_requests_total"
    assert [found[total, "0", "fast", "/", str(digit)] for digit in range(6)] == [0, 1, 2, 3, 4, 5]
    assert [found[total, "1", "slow", "other", str(digit)] for digit in range(6)] == [11, 12, 13, 14, 15, 16]
    assert (total, "1", "fast", "/", "0") not in found
    # Over the queues of shard 0, in which each has 6 of `/`.
    assert found["clockworker_http_refused_total", "0", None, "/", None] == 12
    assert found["clockworker_http_refused_total", "1", None, "/", None] == 7
    assert found["clockworker_http_requests_waiting", "0", None, "other", None] == 2 * 18
    assert found["clockworker_websockets_open", "0", "fast", None, None] == 9 + 19
    assert found["clockworker_http_request_seconds_count", None, "fast", "/", None] == 4
    assert found["clockworker_http_request_seconds_count", None, "slow", "/", None] == 8


def test_where_nothing_serves_http_its_families_are_not_there() -> None:
    body, _ = Metrics(lambda: snapshot(routes=())).page(TEXT)
    assert b"http" not in body
    assert b"websockets" not in body


def test_what_is_shown_of_preemptive_queues_is_of_no_other() -> None:
    assert not re.search("queue_cut|whole_step", page())
    found = {
        (
            sample.name,
            *[sample.labels[name] for name in ("shard", "queue", "reason") if name in sample.labels],
        ): sample.value
        for family in parse(page(preemptive=["slow"]))
        for sample in family.samples
        if re.search("queue_cut|whole_step", sample.name) and "le" not in sample.labels
    }
    refusals = {"lock": 2, "guarded": 3, "no_preempt": 4, "other": 5}
    assert found == {
        **{("clockworker_queue_cuts_total", str(shard), "slow"): shard + 1 for shard in range(2)},
        **{
            ("clockworker_queue_cut_refusals_total", str(shard), "slow", reason): count * (shard + 1)
            for shard in range(2)
            for reason, count in refusals.items()
        },
        ("clockworker_queue_whole_step_seconds_count", "slow"): 8,
        ("clockworker_queue_whole_step_seconds_sum", "slow"): 0.01,
    }


def test_a_series_a_shard_and_never_one_a_pair() -> None:
    def series(shards: int) -> int:
        return sum(len(family.samples) for family in parse(page(shards)) if family.name.startswith("clockworker"))

    of_two_routes = 2 * 6 + 2 + 2 + 1  # by status; refused; waiting; WebSockets of their queue
    assert series(3) - series(2) == series(64) - series(63) < 80 + of_two_routes


def test_units_and_suffixes_are_prometheus_s() -> None:
    for family in parse(page()):
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
        assert not re.search(r"_(ns|us|ms)\b", family.name)
        assert family.documentation.endswith("."), family.name


def test_the_dashboard_and_the_documentation_name_metrics_that_exist() -> None:
    known = {sample.name for family in parse(page(preemptive=["slow"])) for sample in family.samples}
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    text = json.dumps([dashboard["panels"], dashboard["annotations"], dashboard["templating"]])
    used = set(re.findall(r"\bclockworker_\w+", text))
    assert used
    assert used <= known
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or (panel["description"] and panel["targets"])


def test_the_documentation_has_every_series_with_its_labels() -> None:
    """Which are the names that dashboards and alerts of users know: none of them changes by itself."""
    rows = re.findall(r"^\| `(clockworker_\w+)` \| ([\w, ]*)\|", (DOCS / "observing.md").read_text(), re.M)
    documented = {name: set(labels.replace(",", " ").split()) for name, labels in rows}
    found: dict[str, set[str]] = {}
    for family in parse(page(preemptive=["slow"], cluster=True)):
        for sample in family.samples:
            if sample.name.startswith("clockworker_"):
                # A histogram or summary goes by its name there.
                name = sample.name if family.type in ("counter", "gauge") else family.name
                found.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    assert documented == found
    assert len(rows) == len(documented)


def test_how_a_node_stands_in_its_cluster() -> None:
    assert "cluster" not in page()
    found = dict(line.split() for line in page(cluster=True).splitlines() if line.startswith("clockworker_cluster_"))
    assert float(found["clockworker_cluster_epoch"]) == 7
    assert float(found["clockworker_cluster_owns"]) == 0
    assert float(found["clockworker_cluster_reconnects_total"]) == 2
    assert sum(name.startswith("clockworker_cluster_sessions_ended_total{") for name in found) == 2 * len(SESSION_ENDS)
