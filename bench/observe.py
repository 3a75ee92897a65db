"""What does seeing cost? The key-value example with everything on, scraped each second, against everything off.

On is: /metrics and /stats scraped once a second, clockworker-top's question once a second, the slow-step log. Off is: no
page of metrics, nobody who asks. (The slots are written in both: a server without them cannot be had.) Two servers that are
off run as well, and how they differ is what this can't see.

A few percent drown in what else goes on. So all three run at once, an idle one taking next to no time, and a client turns
from one to the next each half second, in the order 1 2 3 3 2 1: what drifts slowly disturbs them all alike. Every few
rounds they are started anew, since two servers of the same kind differ for as long as they live (by hashes, addresses,
pages). Beside commands a second there is the CPU time of supervisor and shards for each command, in which the rest of the
machine has less of a say.

Then, with no load: how long a report of a stall takes to come, what a scrape of the slots of 1 to 64 shards costs the
supervisor, and what writing them does to a shard.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import math
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from bench._kv_load import KvLoad
from bench._report import columns, progress
from bench._scrapes import ACCEPT, Scrape, measure_scrape
from bench._stalls import STALL_S, measure_stall
from bench.kv import commands, free_port, server
from clockworker.shards.observe._query_client import QueryClient

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SERVERS = ("off", "on", "off again")
SCRAPE_EVERY_S = 1.0
SHARDS = (1, 2, 4, 8, 16, 32, 64)


class Estimate(msgspec.Struct, frozen=True):
    """Of a ratio: the geometric mean over the rounds, and twice its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"


def estimate(values: Sequence[float], to: Sequence[float]) -> Estimate:
    """From the ratios within each round. A machine that was busy elsewhere for one of them is not part of the question:
    the tenth that is largest and the tenth that is smallest are left out."""
    logarithms = sorted(math.log(value / peer) for value, peer in zip(values, to, strict=True))
    cut = len(logarithms) // 10
    kept = logarithms[cut : len(logarithms) - cut]
    error = statistics.stdev(kept) / math.sqrt(len(kept)) if len(kept) > 1 else 0.0
    mean = math.exp(statistics.fmean(kept))
    return Estimate(mean, 2 * error * mean)


class ObserveReport(msgspec.Struct, frozen=True):
    """By server, a figure for each round. rates: commands a second. cpu_us: of supervisor and shards, for a command.

    stalls_s: from the beginning of each to its report; infinite if it came later than the end.
    """

    rates: dict[str, list[float]]
    cpu_us: dict[str, list[float]]
    stalls_s: list[float]
    scrapes: list[Scrape]

    def throughput(self) -> Estimate:
        """Of on to the mean of the two that are off."""
        return estimate(self.rates["on"], _means(self.rates))

    def cpu(self) -> Estimate:
        return estimate(self.cpu_us["on"], _means(self.cpu_us))

    def table(self) -> str:
        rows = [["", *SERVERS, "on/off", "off again/off"]]
        for name, figures, ratio in (
            ("commands/s", self.rates, self.throughput()),
            ("CPU us/command", self.cpu_us, self.cpu()),
        ):
            control = estimate(figures["off again"], figures["off"])
            medians = [statistics.median(figures[server]) for server in SERVERS]
            form = ",.0f" if name == "commands/s" else ".3f"
            rows.append([name, *[format(median, form) for median in medians], str(ratio), str(control)])
        scrapes = [["shards", "a page of metrics, ms", "over HTTP, ms", "kB", "writing a shard's slots, us"]]
        scrapes += [
            [str(s.shards), f"{s.page_ms:.2f}", f"{s.http_ms:.2f}", f"{s.page_bytes / 1e3:.0f}", f"{s.write_us:.0f}"]
            for s in self.scrapes
        ]
        return f"{columns(rows)}\n\n{self._stalls()}\n\n{columns(scrapes)}"

    def _stalls(self) -> str:
        if not self.stalls_s:
            return "no stalls"
        in_time = [stall for stall in self.stalls_s if stall < STALL_S]
        ms = [f"{1e3 * value:.0f}" for value in sorted(self.stalls_s)]
        return (
            f"a stall of {1e3 * STALL_S:.0f} ms was reported before its end {len(in_time)} times of {len(ms)}: after "
            f"{ms[0]} to {ms[-1]} ms, the median {ms[len(ms) // 2]}"
        )

    def plot(self, figure: Figure) -> None:
        axes = figure.add_subplot(1, 2, 1, title="on to off", ylabel="ratio")
        pairs = [(figures[server], figures["off"]) for figures in (self.rates, self.cpu_us) for server in SERVERS[1:]]
        axes.boxplot([[value / off for value, off in zip(values, offs, strict=True)] for values, offs in pairs])
        axes.set_xticks(range(1, 5), [f"{what}\n{server}" for what in ("rate", "CPU") for server in SERVERS[1:]])
        axes.axhline(1, color="grey")
        axes = figure.add_subplot(1, 2, 2, title="a page of metrics", xlabel="shards", ylabel="ms")
        axes.plot([s.shards for s in self.scrapes], [s.page_ms for s in self.scrapes], "o-")


def _means(figures: dict[str, list[float]]) -> list[float]:
    return [math.sqrt(one * other) for one, other in zip(figures["off"], figures["off again"], strict=True)]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=0.5, help="of load on one server at a time")
    parser.add_argument("--rounds", type=int, default=6, help="with the same servers, each of them loaded twice")
    parser.add_argument("--starts", type=int, default=4, help="of the servers")
    parser.add_argument("--clients", type=int, default=8, help="connections to each shard")
    parser.add_argument("--keys", type=int, default=100_000, help="how many different keys are used")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--stalls", type=int, default=10, help="of 300 ms, on a server of its own each")


def run(options: argparse.Namespace) -> ObserveReport:
    scrapes = [measure_scrape(shards) for shards in SHARDS]
    rng = random.Random(1)
    stalls = []
    for number in range(options.stalls):
        progress(f"stall {number + 1} of {options.stalls}")
        stalls.append(measure_stall(rng))
    report = ObserveReport({name: [] for name in SERVERS}, {name: [] for name in SERVERS}, stalls, scrapes)
    for start in range(options.starts):
        with subjects(options) as servers:
            for number in range(-1, options.rounds):  # the first one warms up
                progress(f"round {number + 1} of {options.rounds}, start {start + 1} of {options.starts}")
                for name, (rate, cpu_us) in measure_round(servers, options.seconds).items():
                    if number >= 0:
                        report.rates[name].append(rate)
                        report.cpu_us[name].append(cpu_us)
    return report


class Subject:
    """A server under load. watcher: who asks it, while it is loaded."""

    def __init__(self, name: str, load: KvLoad, processes: list[psutil.Process], watcher: Watcher | None) -> None:
        self.name = name
        self.commands = 0
        self.seconds = 0.0
        self.cpu_ns = 0
        self._load = load
        self._pids = [process.pid for process in processes]
        self._watcher = watcher

    def measure(self, seconds: float) -> None:
        cpu_ns, started = self._used_ns(), time.perf_counter()
        with self._watcher or contextlib.nullcontext():
            self.commands += self._load.run(seconds)
        self.seconds += time.perf_counter() - started
        self.cpu_ns += self._used_ns() - cpu_ns

    def take(self) -> tuple[float, float]:
        """Commands a second and microseconds of CPU for each, since this was asked last."""
        found = self.commands / self.seconds, self.cpu_ns / 1e3 / self.commands
        self.commands = self.cpu_ns = 0
        self.seconds = 0.0
        return found

    def _used_ns(self) -> int:
        """Of all threads of each process, as clock_getcpuclockid(3) has it."""
        return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in self._pids)


def measure_round(servers: list[Subject], seconds: float) -> dict[str, tuple[float, float]]:
    for subject in (*servers, *reversed(servers)):
        subject.measure(seconds)
    return {subject.name: subject.take() for subject in servers}


@contextlib.contextmanager
def subjects(options: argparse.Namespace) -> Iterator[list[Subject]]:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plain = commands()["kv, 1 shard"]
        plain[plain.index("--shards") + 1] = str(options.shards)
        found = []
        for name in SERVERS:
            watcher = None
            arguments = [*plain, "--control", str(directory / name)]
            metrics_port = free_port()
            if name == "on":
                arguments += ["--metrics", f"127.0.0.1:{metrics_port}"]
            else:
                arguments += ["--slow-poll", "0"]
            before = set(psutil.Process().children())
            port = stack.enter_context(server(arguments))
            [supervisor] = set(psutil.Process().children()) - before
            if name == "on":
                watcher = stack.enter_context(contextlib.closing(Watcher(metrics_port, directory / name)))
            load = stack.enter_context(contextlib.closing(KvLoad(port, options.shards, options.clients, options.keys)))
            found.append(Subject(name, load, [supervisor, *supervisor.children(recursive=True)], watcher))
        yield found


class Watcher:
    """Asks for everything, from a thread, once in each second that it is entered: the time between does not count."""

    def __init__(self, port: int, control: Path) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._control = QueryClient(control)
        self._due_s = 0.0
        self._left = threading.Event()

    def __enter__(self) -> None:
        self._left.clear()
        self._entered = time.monotonic()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._due_s -= time.monotonic() - self._entered

    def close(self) -> None:
        self._http.close()
        self._control.close()

    def _watch(self) -> None:
        due = self._entered + self._due_s
        while not self._left.wait(max(0.0, due - time.monotonic())):
            for page in ("metrics", "stats"):
                self._http.request("GET", f"/{page}", headers={"Accept": ACCEPT})
                self._http.getresponse().read()
            self._control.stats()
            self._due_s += SCRAPE_EVERY_S
            due += SCRAPE_EVERY_S
