"""How does examples/kv on 1 and 2 shards compare with redis-server, by redis-benchmark?

The servers are started at once and measured in turn, round after round, so that what disturbs the machine disturbs
them all alike; an idle one takes no time. Shown are the median and the spread over the rounds, and the median of the
rounds' ratios to redis-server. The load generator runs on the same cores as the servers.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench._processes import stop
from bench._report import progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
TESTS = ("SET", "GET", "INCR", "MSET (10 keys)")
START_S = 30.0


class Result(msgspec.Struct, frozen=True):
    """Requests a second in each round."""

    server: str
    test: str
    pipeline: int
    rates: list[float]


class KvReport(msgspec.Struct, frozen=True):
    redis: str  # its version
    results: list[Result]

    def table(self) -> str:
        return f"redis: {self.redis}\n\n{table(self.results)}"

    def plot(self, figure: Figure) -> None:
        """Medians with their spread, of each server, test and pipeline."""
        servers = list(dict.fromkeys(result.server for result in self.results))
        for place, pipeline in enumerate((16, 1), 1):
            axes = figure.add_subplot(1, 2, place, title=f"-P {pipeline}", ylabel="thousands of requests a second")
            for number, name in enumerate(servers):
                found = {r.test: r.rates for r in self.results if r.server == name and r.pipeline == pipeline}
                medians = [statistics.median(found[test]) / 1e3 for test in TESTS]
                below = [median - min(found[test]) / 1e3 for test, median in zip(TESTS, medians, strict=True)]
                above = [max(found[test]) / 1e3 - median for test, median in zip(TESTS, medians, strict=True)]
                places = [test + number * 0.8 / len(servers) for test in range(len(TESTS))]
                axes.bar(places, medians, 0.8 / len(servers), yerr=[below, above], label=name)
            axes.set_xticks([test + 0.4 - 0.4 / len(servers) for test in range(len(TESTS))], TESTS)
            axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--requests", type=int, default=50_000, help="of each test and round, at 16 a pipeline; a quarter at 1"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--keys", type=int, default=100_000, help="how many different keys are used")


def run(options: argparse.Namespace) -> KvReport:
    for tool in ("redis-server", "redis-benchmark"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed (Debian: apt-get install redis-server redis-tools)")
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped on TERM as on Ctrl-C
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(server(command)) for name, command in commands().items()}
        return KvReport(version.split()[2].removeprefix("v="), measure(ports, options))


def commands() -> dict[str, list[str]]:
    """How each server is started; PORT stands for its port."""
    serve = str(Path(sys.executable).with_name("clockworker-serve"))
    example = [serve, "examples.kv:main", "--bind", "127.0.0.1:PORT"]
    return {
        "redis-server": ["redis-server", "--port", "PORT", "--save", "", "--appendonly", "no"],
        "kv, 1 shard": [*example, "--shards", "1"],
        "kv, 2 shards": [*example, "--shards", "2"],
    }


@contextlib.contextmanager
def server(command: list[str]) -> Iterator[int]:
    """A running server's port."""
    port = free_port()
    command = [word.replace("PORT", str(port)) for word in command]
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C is for the benchmark, which then stops the server.
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(port, process)
            yield port
        except SystemExit:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
        finally:
            stop(process)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), START_S) as sock:
            sock.sendall(b"DBSIZE\r\n")
            if sock.recv(1) == b":":  # and so all shards are up
                return
        time.sleep(0.02)
    raise SystemExit(f"the server on port {port} did not start")


def measure(ports: dict[str, int], options: argparse.Namespace) -> list[Result]:
    rates: dict[tuple[str, str, int], list[float]] = {}
    for number in range(options.rounds + 1):  # the first one warms up
        for pipeline in (16, 1):
            for name, port in ports.items():
                requests = options.requests if pipeline == 16 else options.requests // 4
                if number == 0:
                    requests //= 10
                for test, rate in redis_benchmark(port, requests, pipeline, options).items():
                    rates.setdefault((name, test, pipeline), [])
                    if number:
                        rates[name, test, pipeline].append(rate)
        progress(f"round {number} of {options.rounds}")
    return [Result(*key, measured) for key, measured in rates.items()]


def redis_benchmark(port: int, requests: int, pipeline: int, options: argparse.Namespace) -> dict[str, float]:
    """Requests a second for each test."""
    counts = ["-n", str(requests), "-c", str(options.clients), "-P", str(pipeline), "-r", str(options.keys)]
    command = ["redis-benchmark", "-p", str(port), *counts, "-t", "set,get,incr,mset", "--csv"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {row["test"]: float(row["rps"]) for row in csv.DictReader(output.splitlines())}


def table(results: list[Result]) -> str:
    """Thousands of requests a second: median, least and most of the rounds; and how that is to redis-server's rate."""
    by_key = {(result.server, result.test, result.pipeline): result.rates for result in results}
    servers = list(dict.fromkeys(result.server for result in results))
    lines = ["thousands of requests a second: median (least-most); x = of redis-server's"]
    for pipeline in (16, 1):
        lines.append(f"\n{f'-P {pipeline}':16}" + "".join(f"{name:>28}" for name in servers))
        for test in TESTS:
            redis = by_key[servers[0], test, pipeline]
            cells = []
            for name in servers:
                rates = by_key[name, test, pipeline]
                ratio = statistics.median([ours / theirs for ours, theirs in zip(rates, redis, strict=True)])
                spread = f"({min(rates) / 1e3:.0f}-{max(rates) / 1e3:.0f})"
                cells.append(f"{statistics.median(rates) / 1e3:.1f} {spread:>9}  {ratio:.2f}x")
            lines.append(f"{test:16}" + "".join(f"{cell:>28}" for cell in cells))
    return "\n".join(lines)
