"""What does seeing cost? The key-value example with everything on, scraped each second, against everything off.

Both servers run the whole time; redis-benchmark loads them in turn, round after round, and an idle one takes no time. On is:
/metrics and /stats scraped once a second, clockworker-top's question once a second, the slow-step log. Off is: no page of
metrics, nobody who asks. (The slots are written in both: a server without them cannot be had.) Then, with no server, what a
scrape of the slots of 1 to 64 shards costs, and what writing them does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench._report import Summary, columns, progress, ratios
from bench.kv import commands, redis_benchmark, server
from clockworker.executor import DurationStats
from clockworker.shards._ledger import Ledger
from clockworker.shards._metrics import Metrics, Snapshot
from clockworker.shards._query import QueryClient
from clockworker.shards._reading import QueueReading, Reading
from clockworker.shards._slots import SlotReader, SlotWriter, create_slots
from clockworker.shards._view import Presence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUEUES = ["foreground", "background"]


class Scrape(msgspec.Struct, frozen=True):
    """Milliseconds, the least of several: of one page of metrics; microseconds: of one shard's writing of its slots."""

    shards: int
    page_ms: float
    write_us: float


class ObserveReport(msgspec.Struct, frozen=True):
    """rates: requests a second of each round, by test, off and on."""

    rates: dict[str, tuple[list[float], list[float]]]
    scrapes: list[Scrape]

    def overall(self) -> Summary:
        """Of on to off: the mean of all tests within a round."""
        rounds = list(zip(*[zip(off, on, strict=True) for off, on in self.rates.values()], strict=True))
        means = [statistics.geometric_mean([on / off for off, on in tests]) for tests in rounds]
        return ratios(means, [1.0] * len(means))

    def table(self) -> str:
        rows = [["requests/s", "off", "on", "on/off"]]
        for test, (off, on) in self.rates.items():
            rows.append([test, f"{statistics.median(off):,.0f}", f"{statistics.median(on):,.0f}", str(ratios(on, off))])
        rows.append(["all", "", "", str(self.overall())])
        scrapes = [["shards", "a page of metrics, ms", "writing a shard's slots, us"]]
        scrapes += [[str(s.shards), f"{s.page_ms:.2f}", f"{s.write_us:.0f}"] for s in self.scrapes]
        return f"{columns(rows)}\n\n{columns(scrapes)}"

    def plot(self, figure: Figure) -> None:
        axes = figure.add_subplot(1, 2, 1, title="throughput, everything on to everything off", ylabel="ratio")
        axes.boxplot([[b / a for a, b in zip(off, on, strict=True)] for off, on in self.rates.values()])
        axes.set_xticks(range(1, len(self.rates) + 1), self.rates)
        axes.axhline(1, color="grey")
        axes = figure.add_subplot(1, 2, 2, title="a page of metrics", xlabel="shards", ylabel="ms")
        axes.plot([s.shards for s in self.scrapes], [s.page_ms for s in self.scrapes], "o-")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=100_000, help="of each test and round, at 16 a pipeline")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--keys", type=int, default=100_000, help="how many different keys are used")
    parser.add_argument("--shards", type=int, default=2)


def run(options: argparse.Namespace) -> ObserveReport:
    scrapes = [measure_scrape(shards) for shards in (1, 2, 4, 8, 16, 32, 64)]
    if shutil.which("redis-benchmark") is None:
        raise SystemExit("redis-benchmark is not installed (Debian: apt-get install redis-tools)")
    rates: dict[str, tuple[list[float], list[float]]] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain = [word.replace("2", str(options.shards)) if word == "2" else word for word in commands()["kv, 2 shards"]]
        metrics_port = free_port()
        observed = [*plain, "--metrics", f"127.0.0.1:{metrics_port}", "--control", str(directory / "control")]
        off = stack.enter_context(server([*plain, "--slow-poll", "0"]))
        on = stack.enter_context(server(observed))
        for number in range(options.rounds + 1):  # the first one warms up
            turn = [(0, off), (1, on)]
            for which, port in turn if number % 2 else reversed(turn):
                with watched(metrics_port, directory / "control") if which else contextlib.nullcontext():
                    measured = redis_benchmark(port, options.requests, 16, options)
                for test, rate in measured.items():
                    if number:
                        rates.setdefault(test, ([], []))[which].append(rate)
            progress(f"round {number} of {options.rounds}")
    return ObserveReport(rates, scrapes)


@contextlib.contextmanager
def watched(port: int, control: Path) -> Iterator[None]:
    """Everything is asked for, once a second."""
    ended = threading.Event()

    def watch() -> None:
        client = QueryClient(control)
        while True:
            for page in ("metrics", "stats"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:
                    answer.read()
            client.stats()
            if ended.wait(1):
                break
        client.close()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def measure_scrape(shards: int) -> Scrape:
    """With slots as full as those of a busy server, and a restart of each shard in the books."""
    durations = DurationStats(tuple(range(160)), 10**8, 10**12)
    queue = QueueReading(share=8, polls=10**6, busy_ns=10**9, poll_time=durations, wait=durations)
    reading = msgspec.structs.replace(Reading.nothing(), written_ns=1, queues=dict.fromkeys(QUEUES, queue))
    descriptors = [create_slots(len(QUEUES), shards) for _ in range(shards)]
    writers = [SlotWriter(descriptor) for descriptor in descriptors]
    readers = [SlotReader(descriptor, QUEUES) for descriptor in descriptors]
    ledger = Ledger([QUEUES] * shards)
    for shard, writer in enumerate(writers):
        writer.write(reading)
        ledger.died(shard, reading)
    presences = [Presence(shard, "ready", 1, shard, 1.0) for shard in range(shards)]
    metrics = Metrics(lambda: Snapshot(presences, ledger.totals([reader.read() for reader in readers]), 0.0, 1))
    page_ms = least(lambda: metrics.page(""), 20) * 1e3
    write_us = least(lambda: writers[0].write(reading), 200) * 1e6
    for end in (*writers, *readers):
        end.close()
    for descriptor in descriptors:
        os.close(descriptor)
    return Scrape(shards, page_ms, write_us)


def least(work: Callable[[], object], times: int) -> float:
    """Seconds."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)
