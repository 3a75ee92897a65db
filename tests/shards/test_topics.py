"""Topics on real shards, while these die and are replaced under publishing."""

from __future__ import annotations

import re
import signal
import time
import urllib.request
import zlib
from collections.abc import Callable
from functools import partial

import pytest

from clockworker.shards.observe._query_client import QueryClient
from clockworker.shards.testing import Server, serving
from clockworker.shards.tools._screen import screen
from tests.shards.hall import Hall, Heard
from tests.shards.servers import eventually

APP = "tests.shards.hall:main"


def heard(server: Server, shard: int) -> dict[str, Heard]:
    return server.call(shard, Hall.report).heard


def wait_heard(server: Server, shard: int, what: Callable[[dict[str, Heard]], bool]) -> dict[str, Heard]:
    found: dict[str, Heard] = {}

    def look() -> bool:
        nonlocal found
        found = heard(server, shard)
        return what(found)

    eventually(look, "heard", shown=lambda: f": {found}\n{server.log}")
    return found


def have_come_from(publishers: int, count: int, found: dict[str, Heard]) -> bool:
    """More than so many from each."""
    return len(found) == publishers and min(each.count for each in found.values()) > count


def are(ends: dict[str, int], found: dict[str, Heard]) -> bool:
    """Up to the last of so many from these."""
    return all(found[name].last == ends[name] - 1 for name in ends)


def publishers_of(found: dict[str, Heard], shard: int) -> list[str]:
    return [name for name in found if name.startswith(f"{shard}:")]


@pytest.mark.parametrize("ordered", [False, True])
def test_who_stays_hears_all_of_a_publisher_that_is_replaced_and_of_its_successor(ordered: bool) -> None:
    environment = {"PUBLISH": "1", "LISTEN": "0", **({"ORDERED": "1"} if ordered else {})}
    with serving(APP, environment=environment) as server:
        for round_ in range(1, 3):
            wait_heard(server, 0, partial(have_come_from, round_, 500))
            server.kill(1, signal.SIGTERM)  # it is replaced
            lines = server.wait_log(r"published (\d+) by (\S+)", round_)
            ends = {line[2]: int(line[1]) for line in lines}
            found = wait_heard(server, 0, partial(are, ends))
            for name, count in list(ends.items()):
                # The first may have published before anybody listened.
                first = found[name].first if name == next(iter(found)) else 0
                assert found[name] == Heard(first, count - 1, count - first), "each that was published, once, in order"
        assert not server.call(0, Hall.report).lagged


def test_who_stays_publishes_to_both_incarnations_of_a_subscriber_that_is_replaced() -> None:
    with serving(APP, environment={"PUBLISH": "0", "LISTEN": "1"}) as server:
        for _ in range(2):
            wait_heard(server, 1, lambda found: any(each.count > 500 for each in found.values()))
            before = server.pid(1)
            server.kill(1, signal.SIGTERM)
            found = wait_heard(server, 1, lambda found: any(each.count > 500 for each in found.values()))
            assert server.call(1, Hall.report).pid != before
            (name,) = publishers_of(found, 0)
            assert (found[name].gaps, found[name].backwards) == (0, 0), "from when it subscribed"
        count = server.call(0, Hall.stop_publishing)
        assert count == server.call(0, Hall.counted)["published"]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.slow
def test_hup_under_publishing_by_all(ordered: bool) -> None:
    environment = {"PUBLISH": "01", "LISTEN": "01", **({"ORDERED": "1"} if ordered else {})}
    with serving(APP, environment=environment) as server:
        wait_heard(server, 0, lambda found: len(found) == 2 and min(each.count for each in found.values()) > 200)
        server.replace()
        newest = [f"{shard}:{server.pid(shard)}" for shard in range(2)]
        for shard in range(2):
            found = wait_heard(
                server, shard, lambda found: all(name in found and found[name].count > 200 for name in newest)
            )
            for each in found.values():
                assert (each.gaps, each.backwards) == (0, 0)


def test_kill_9_of_a_publisher_keeps_its_order() -> None:
    with serving(APP, environment={"PUBLISH": "1", "LISTEN": "0"}) as server:
        for round_ in range(1, 4):
            wait_heard(server, 0, partial(have_come_from, round_, 200))
            server.kill(1)
        first, *others = wait_heard(server, 0, lambda found: len(found) == 4).values()
        assert (first.gaps, first.backwards) == (0, 0), "from when it was subscribed"
        for each in others:
            assert (each.first, each.gaps, each.backwards) == (0, 0, 0)


def test_kill_9_of_a_subscriber_is_counted_and_its_successor_misses_nothing() -> None:
    with serving(APP, environment={"PUBLISH": "0", "LISTEN": "1"}) as server:
        for _ in range(3):
            wait_heard(server, 1, lambda found: any(each.count > 200 for each in found.values()))
            dropped = server.call(0, Hall.counted)["dropped"]
            server.kill(1)
            found = wait_heard(server, 1, lambda found: any(each.count > 200 for each in found.values()))
            (name,) = publishers_of(found, 0)
            assert (found[name].gaps, found[name].backwards) == (0, 0)
            lost = server.call(0, Hall.counted)["dropped"] - dropped
            # What it had not said to have taken in: it says so of each 256.
            assert 0 <= lost <= 1_024
        assert "Traceback" not in server.log


def test_a_shard_that_stands_still_has_the_publisher_wait_and_then_nothing_is_missed() -> None:
    options = ["--timeout-shard-healthcheck", "60", "--credit", "64"]
    with serving(APP, environment={"PUBLISH": "0", "LISTEN": "1"}, options=options) as server:
        found = wait_heard(server, 1, lambda found: any(each.count > 200 for each in found.values()))
        pid = server.pid(1)
        server.kill(1, signal.SIGSTOP, wait=False)
        last = -1
        while (now := server.call(0, Hall.counted)["published"]) != last:
            last = now
            time.sleep(0.3)  # the publisher must stand still
        server.kill(1, signal.SIGCONT, wait=False)
        found = wait_heard(server, 1, lambda found: any(each.last > last for each in found.values()))
        (name,) = publishers_of(found, 0)
        assert (found[name].gaps, found[name].backwards) == (0, 0)
        assert server.pid(1) == pid
        assert server.call(0, Hall.counted)["dropped"] == 0


def test_counts_are_shown() -> None:
    pytest.importorskip("prometheus_client")
    options = ["--metrics", "127.0.0.1:0"]
    with serving(APP, environment={"PUBLISH": "0", "LISTEN": "01"}, options=options) as server:
        wait_heard(server, 1, lambda found: any(each.count > 500 for each in found.values()))
        count = server.call(0, Hall.stop_publishing)
        read = []
        for shard in range(2):
            (found,) = wait_heard(
                server, shard, lambda found: any(each.last == count - 1 for each in found.values())
            ).values()
            read.append(found.count)
        client = QueryClient(server._control)  # type: ignore[arg-type]

        def shown() -> bool:
            stats = client.stats()
            found = [(each.topic, each.published, each.delivered, each.subscribers) for each in stats.topics]
            return found == [("marks", count, sum(read), 2)]

        eventually(shown, "the counts", shown=lambda: f": {client.stats().topics}")
        stats = client.stats()
        lines = screen(stats, "shard", 80)
        (head,) = [number for number, line in enumerate(lines) if line.startswith(" TOPIC")]
        assert lines[head + 1].split()[:2] == ["marks", "2"]
        assert stats.shards[1].since_start.topics.values["marks"].delivered == read[1]
        client.close()
        (address,) = server.wait_log(r"metrics on (http://\S+)")
        with urllib.request.urlopen(address[1], timeout=60) as response:
            page = response.read().decode()
        for shard, what, value in (
            (0, "published", count),
            (0, "delivered", read[0]),
            (1, "delivered", read[1]),
            (1, "dropped", 0),
        ):
            line = rf'^clockworker_topic_messages_total{{shard="{shard}",topic="marks",what="{what}"}} (\S+)$'
            (shown_there,) = re.findall(line, page, re.MULTILINE)
            assert float(shown_there) == value
        assert re.search(r'^clockworker_topic_subscribers\{shard="1",topic="marks"\} 1(\.0)?$', page, re.MULTILINE)


@pytest.mark.parametrize("ordered", [False, True])
def test_what_an_incarnation_publishes_while_it_leaves_reaches_its_successor(ordered: bool) -> None:
    environment = {"PUBLISH": "0", "LISTEN": "0", **({"ORDERED": "1"} if ordered else {})}
    with serving(APP, shards=1, environment=environment) as server:
        for round_ in range(1, 3):
            wait_heard(server, 0, lambda found: any(each.count > 200 for each in found.values()))
            server.replace()
            *_, line = server.wait_log(r"published (\d+) by (\S+)", round_)
            old, count = line[2], int(line[1])
            found = wait_heard(
                server, 0, lambda found, last=count - 1, old=old: old in found and found[old].last == last
            )
            assert (found[old].gaps, found[old].backwards) == (0, 0), "from when it subscribed to the last"


@pytest.mark.parametrize("encode_local_calls", [False, True])
def test_one_shard_sees_what_two_would(encode_local_calls: bool) -> None:
    with serving(APP, shards=1, encode_local_calls=encode_local_calls) as server:
        assert server.call(0, Hall.is_copied) == encode_local_calls


def test_all_who_stay_see_one_order_while_the_owner_is_replaced() -> None:
    owner = zlib.crc32(b"marks") * 3 >> 32
    one, other = (shard for shard in range(3) if shard != owner)
    environment = {"PUBLISH": "012", "LISTEN": f"{one}{other}", "ORDERED": "1", "KEEP": "1"}
    with serving(APP, shards=3, environment=environment) as server:
        for publishers in (3, 4):
            for shard in (one, other):
                wait_heard(server, shard, partial(have_come_from, publishers, 100))
            server.kill(owner, signal.SIGTERM)
        ends = {line[2]: int(line[1]) for line in server.wait_log(r"published (\d+) by (\S+)", 2)}
        for shard in (one, other, owner):
            ends[f"{shard}:{server.pid(shard)}"] = server.call(shard, Hall.stop_publishing)
        for shard in (one, other):
            found = wait_heard(server, shard, lambda found: len(found) == 5 and are(ends, found))
            for each in found.values():
                assert (each.gaps, each.backwards) == (0, 0), found
        orders = [server.call(shard, Hall.order) for shard in (one, other)]
        # One of them may have subscribed later.
        first = max(
            (order[0] for order in orders), key=lambda mark: max(order.index(mark) for order in orders if mark in order)
        )
        seen = [order[order.index(first) :] for order in orders]
        assert seen[0] == seen[1]
        assert sum(server.call(shard, Hall.counted)["dropped"] for shard in (one, other)) == 0
