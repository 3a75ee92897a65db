"""What a scrape of the slots of so many shards costs the supervisor, and what writing them costs a shard; without shards."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from clockworker.executor import DurationStats
from clockworker.shards.observe._http import Answer, PageServer
from clockworker.shards.observe._ledger import Ledger
from clockworker.shards.observe._metrics import Metrics, Snapshot
from clockworker.shards.observe._view import Presence
from clockworker.shards.protocol._reading import Counters, QueueReading, Reading
from clockworker.shards.protocol._slots import SlotReader, SlotWriter, create_slots

QUEUES = ["foreground", "background"]
# As Prometheus asks.
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


class Scrape(msgspec.Struct, frozen=True):
    """page_ms: to make a page of metrics from the slots. http_ms: from the request on a connection to the last byte of the
    answer. write_us: of one shard's writing of its slots. The medians of several."""

    shards: int
    page_ms: float
    http_ms: float
    page_bytes: int
    write_us: float


def measure_scrape(shards: int) -> Scrape:
    """With slots as full as those of a busy server, all of them written anew before each scrape, and a restart of each shard
    in the books."""
    durations = DurationStats(tuple(range(160)), 10**8, 10**12)
    queue = QueueReading(share=8, polls=10**6, busy_ns=10**9, poll_time=durations, wait=durations)
    reading = msgspec.structs.replace(
        Reading.nothing(),
        written_ns=1,
        queues=dict.fromkeys(QUEUES, queue),
        counters=Counters({"kv_commands": 10**6}),
    )
    descriptors = [create_slots(len(QUEUES), shards) for _ in range(shards)]
    writers = [SlotWriter(descriptor, len(QUEUES)) for descriptor in descriptors]
    readers = [SlotReader(descriptor, QUEUES) for descriptor in descriptors]
    ledger = Ledger(shards)
    for shard in range(shards):
        ledger.died(shard, reading)
    presences = [Presence(shard, "ready", 1, shard, 1.0) for shard in range(shards)]
    metrics = Metrics(lambda: Snapshot(presences, ledger.totals([reader.read() for reader in readers]), 0.0, 1))

    def write() -> None:
        for writer in writers:
            writer.write(reading)

    write()
    page_ms = median_s(lambda: metrics.page(ACCEPT), 20, before=write) * 1e3
    with serving(metrics) as client:
        http_ms = median_s(lambda: get(client), 20, before=write) * 1e3
        size = len(get(client))
    write_us = median_s(lambda: writers[0].write(reading), 200) * 1e6
    for end in (*writers, *readers):
        end.close()
    for descriptor in descriptors:
        os.close(descriptor)
    return Scrape(shards, page_ms, http_ms, size, write_us)


@contextlib.contextmanager
def serving(metrics: Metrics) -> Iterator[http.client.HTTPConnection]:
    """A connection to the supervisor's page, served by a loop in a thread of its own."""

    def page(accept: str) -> Answer:
        body, content_type = metrics.page(accept)
        return Answer(200, content_type, body)

    async def serve() -> None:
        server = PageServer([sock], {"/metrics": page})
        await server.start()
        await loop.run_in_executor(None, ended.wait)
        await server.close()

    sock = socket.create_server(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    ended = threading.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        yield client
    finally:
        client.close()
        ended.set()
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def get(client: http.client.HTTPConnection) -> bytes:
    client.request("GET", "/metrics", headers={"Accept": ACCEPT})
    answer = client.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"/metrics answers {answer.status}")
    return body


def median_s(work: Callable[[], object], times: int, before: Callable[[], object] = lambda: None) -> float:
    """Seconds."""
    found = []
    for _ in range(times):
        before()
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return sorted(found)[times // 2]
