from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from clockworker import DurationStats
from clockworker.shards.observe._ledger import WINDOW_S, Ledger
from clockworker.shards.observe._view import Presence, view_all, view_shard
from clockworker.shards.protocol._reading import CallReading, Groups, LoopReading, ProcessReading, QueueReading, Reading
from clockworker.shards.protocol._request_readings import Requests, RouteReading


def reading(count: int, *, open: int = 0, queue: str = "q") -> Reading:
    """One in which every counter is `count`."""
    waits = DurationStats((0,) * 20 + (count,), 100, 100 * count)
    return Reading(
        written_ns=count,
        process=ProcessReading(cpu_user_ns=count, rss_bytes=open),
        loop=LoopReading(connections_accepted=count, connections_open=open),
        calls=CallReading(sent=count),
        queues={queue: QueueReading(share=8, polls=count, busy_ns=count, wait=waits, runnable=open)},
    )


def test_what_a_dead_incarnation_has_counted_stays() -> None:
    ledger = Ledger(1)
    ledger.started(0)
    [before] = ledger.totals([reading(10, open=3)])
    assert (before.restarts, before.reading) == (0, reading(10, open=3))
    ledger.died(0, reading(11, open=3))
    [dead] = ledger.totals([None])
    assert dead.reading.loop == LoopReading(connections_accepted=11, connections_open=0)
    assert (dead.reading.queues["q"].polls, dead.reading.queues["q"].runnable) == (11, 0)
    ledger.started(0)
    [after] = ledger.totals([reading(2, open=1)])
    assert after.restarts == 1
    assert after.reading.loop == LoopReading(connections_accepted=13, connections_open=1)
    assert after.reading.queues["q"].wait.buckets[-1] == 13
    assert after.reading.queues["q"].wait.total_ns == 1300


@given(st.lists(st.one_of(st.integers(0, 5), st.none()), max_size=30))
def test_counters_never_go_backwards(steps: list[int | None]) -> None:
    """A number is progress, None a death and a new start."""
    ledger = Ledger(1)
    present, most = 0, 0
    for step in steps:
        if step is None:
            ledger.died(0, reading(present))
            assert ledger.totals([None])[0].reading.calls.sent == most
            present = 0
            ledger.started(0)
        else:
            present += step
            most += step
        totals = ledger.totals([reading(present)])[0].reading
        assert totals.calls.sent == totals.queues["q"].polls == totals.queues["q"].wait.count == most


def test_recently_is_the_difference_to_the_oldest_that_is_kept() -> None:
    ledger = Ledger(2)
    none = ledger.totals([None, None])
    assert ledger.recently(0.0, none) == (0.0, [Reading.nothing()] * 2)
    for second in range(20):
        ledger.remember(float(second), ledger.totals([reading(100 * second), None]))
    window, [first, other] = ledger.recently(19.5, ledger.totals([reading(1950, open=2), None]))
    assert window == WINDOW_S + 0.5
    assert (first.calls.sent, first.loop.connections_open) == (550, 2)
    assert other == Reading.nothing()


def test_a_restart_within_the_window_counts_both_incarnations() -> None:
    ledger = Ledger(1)
    ledger.remember(0.0, ledger.totals([reading(100)]))
    ledger.died(0, reading(150))
    window, [lately] = ledger.recently(2.0, ledger.totals([reading(30)]))
    assert (window, lately.calls.sent, lately.queues["q"].wait.count) == (2.0, 80, 80)


def test_what_a_queue_has_counted_that_a_later_version_lacks_stays() -> None:
    ledger = Ledger(1)
    ledger.died(0, reading(10, open=3, queue="old"))
    now = reading(2, queue="new")
    totals = ledger.totals([now])
    queues = totals[0].reading.queues
    assert list(queues) == ["new", "old"]
    assert (queues["old"].polls, queues["old"].share, queues["old"].runnable) == (10, 0, 0)
    assert (queues["new"].polls, queues["new"].share) == (2, 8)
    # It is not shown where people look for what there is.
    presences = [Presence(0, "ready", 1, 0, 1.0)]
    assert [queue.name for queue in view_all(presences, totals, [now], 1.0)[0]] == ["new"]
    assert [queue.name for queue in view_shard(presences[0], totals[0], now, 1.0, now_ns=9).queues] == ["new"]
    # And goes on when it is there again.
    ledger.died(0, now)
    [again] = ledger.totals([reading(1, queue="old")])
    assert (again.reading.queues["old"].polls, again.reading.queues["new"].polls) == (11, 2)


def test_groups_over_shards_and_time() -> None:
    now, before = Groups({"a": 50, "b": 20, "new": 5}), Groups({"a": 10, "b": 30})
    assert list(now.since(before).service_ns.items()) == [("a", 40), ("b", 20), ("new", 5)]
    many = Groups({f"g{number}": number for number in range(1, 9)})
    total = Groups.sum([many, many, Groups({"x": 1})])
    assert list(total.service_ns.items())[:2] == [("g8", 16), ("g7", 14)]
    assert len(total.service_ns) == 8


def test_views_add_up() -> None:
    ledger = Ledger(2)

    def present(busy: int) -> list[Reading | None]:
        one = reading(busy, queue="fast")
        slow = {**one.queues, "slow": QueueReading(share=2, busy_ns=busy, polls=busy)}
        return [msgspec.structs.replace(one, queues=slow), reading(busy, queue="fast")]

    ledger.remember(0.0, ledger.totals(present(0)))
    second = 10**9
    totals = ledger.totals(present(second))
    window, lately = ledger.recently(2.0, totals)
    presences = [Presence(0, "ready", 1, 0, 1.0), Presence(1, "back-off", None, 1, 0.0)]
    queues, routes, total = view_all(presences, totals, lately, window)
    assert [(queue.name, queue.share, round(queue.got, 2), queue.busy) for queue in queues] == [
        ("fast", 8, 0.67, 1.0),
        ("slow", 2, 0.33, 0.5),
    ]
    assert [queue.wanted for queue in queues] == [0.8, 0.2]
    assert (total.rates.busy, total.rates.cpu, total.shards_ready) == (1.5, 1.0, 1)
    assert (routes, total.requests) == ([], None), "nothing serves HTTP"
    shard = view_shard(presences[0], totals[0], lately[0], window, now_ns=3 * second)
    assert (shard.rates.busy, shard.age_s, [queue.got for queue in shard.queues]) == (1.0, 2.0, [0.5, 0.5])


def test_views_of_http_are_of_the_last_seconds() -> None:
    ledger = Ledger(2)

    def present(by: int) -> list[Reading | None]:
        light = RouteReading(
            0, 0, 8 * by, 0, 2 * by, 0, 0, 3, 1, 2, DurationStats((0,) * 20 + (10 * by,), 99, 100 * by)
        )
        heavy = RouteReading(status_0=by, status_5=by, refused=by, running=1)
        first = Requests({"q": {"/": light}, "r": {"/reports": heavy}})
        return [
            msgspec.structs.replace(reading(1), http=first),
            msgspec.structs.replace(reading(1), http=Requests({"q": {"/": light}})),
        ]

    ledger.remember(0.0, ledger.totals(present(1)))
    totals = ledger.totals(present(5))
    window, lately = ledger.recently(2.0, totals)
    presences = [Presence(number, "ready", 1, None, 1.0) for number in range(2)]
    _, routes, total = view_all(presences, totals, lately, window)
    assert [(route.queue, route.route, route.requests.per_s) for route in routes] == [
        ("q", "/", 40.0),
        ("r", "/reports", 4.0),
    ]
    light, heavy = (route.requests for route in routes)
    assert light.statuses_per_s == (0, 0, 32.0, 0, 8.0, 0)
    assert (light.running, light.waiting, light.websockets) == (6, 2, 4)
    assert (light.time.count, light.time.p99_ns) == (80, 25)
    assert (heavy.statuses_per_s[0], heavy.refused_per_s) == (2.0, 2.0)
    assert total.requests is not None
    assert (total.requests.per_s, total.requests.running, total.rates.requests_per_s) == (44.0, 7, 44.0)
    assert total.since_start.http.get("q", "/").status_2 == 80
    one = view_shard(presences[1], totals[1], lately[1], window, now_ns=9)
    assert one.rates.requests_per_s == 20.0
