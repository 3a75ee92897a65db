"""What an application has made before it serves is out of the collector's way; what it makes then is not. But full passes that
take long are put off."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from clockworker.shards.worker._collector import Collector
from tests.shards.servers import Serve, ask

pytestmark = pytest.mark.once

SOURCE = """
import gc
import weakref

class Node:
    def __init__(self):
        self.me = self

made = [Node() for _ in range(10_000)]

async def main(shard):
    kept = Node()  # before it serves

    async def handle(reader, writer):
        later = weakref.ref(Node())
        gc.collect()
        looked_at = {id(each) for each in gc.get_objects()}
        here = sum(id(node) in looked_at for node in (*made, kept))
        writer.write(b"%d %d %d\\n" % (gc.get_freeze_count() > 10_000, here, later() is None))
        await writer.drain()
        writer.close()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


def test_what_was_there_before_it_served_is_not_gone_through(serve: Serve) -> None:
    server = serve(SOURCE, "--shards", "1")
    server.wait_serving()
    with server.connect() as client:
        assert ask(client, b"x") == b"1 0 1"
    assert server.stop() == 0


class Clocks:
    """Of both kinds, that the test sets on."""

    def __init__(self) -> None:
        self.ns = 0
        self.collector = Collector(lambda: self.ns, lambda: self.ns)

    def full_pass(self, took_ns: int) -> None:
        self.collector._passed("start", {"generation": 2})
        self.ns += took_ns
        self.collector._passed("stop", {"generation": 2})

    def later(self, ns: int) -> None:
        """A pass through younger objects, then."""
        self.ns += ns
        for generation in (0, 1):
            for phase in ("start", "stop"):
                self.collector._passed(phase, {"generation": generation})


@pytest.fixture
def clocks() -> Iterator[Clocks]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield Clocks()
    gc.set_threshold(*before)


def test_a_full_pass_that_takes_long_puts_off_the_next(clocks: Clocks) -> None:
    clocks.full_pass(100_000_000)
    assert gc.get_threshold() == (700, 10, 142)  # by which a million objects may have been made, as many as there are
    clocks.later(19_000_000_000)
    assert gc.get_threshold() == (700, 10, 142)
    clocks.later(1_000_000_000)
    assert gc.get_threshold() == (700, 10, 10)
    clocks.later(1_000_000_000)
    assert gc.get_threshold() == (700, 10, 10)


def test_a_short_one_puts_off_none(clocks: Clocks) -> None:
    clocks.full_pass(999_999)
    assert gc.get_threshold() == (700, 10, 10)
    clocks.full_pass(100_000_000)
    clocks.full_pass(999_999)
    assert gc.get_threshold() == (700, 10, 10)


@pytest.mark.parametrize("own", [(0, 10, 10), (700, 10, 0), (50_000, 20, 50)])
def test_an_application_has_thresholds_of_its_own(clocks: Clocks, own: Any) -> None:
    gc.set_threshold(*own)
    clocks.full_pass(100_000_000)
    clocks.later(20_000_000_000)
    assert gc.get_threshold() == own
    clocks.full_pass(100_000_000)
    gc.set_threshold(1_000, 5, 7)
    clocks.later(20_000_000_000)
    assert gc.get_threshold() == (1_000, 5, 7)


def test_a_crowd_is_gone_through_less_often() -> None:
    """The collector itself, with many objects that live."""

    def passes(collector: Collector | None) -> int:
        full = 0

        def count(phase: str, info: dict[str, Any]) -> None:
            nonlocal full
            full += phase == "stop" and info["generation"] == 2

        gc.collect()
        gc.freeze()
        gc.callbacks.append(count)
        if collector is not None:
            collector.start()
        try:
            crowd = [[number] for number in range(1_500_000)]
            assert len(crowd) == 1_500_000
        finally:
            if collector is not None:
                collector.stop()
            gc.callbacks.remove(count)
            gc.unfreeze()
        return full

    assert passes(None) > 1.5 * passes(Collector()) > 0
