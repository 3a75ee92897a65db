"""How quickly is a light request answered beside clients that attack?

A FastAPI route of 0.5 ms of CPU time, 200 requests a second over sockets, which arrive whether or not those before them are
answered: one shard on a core, the clients and the attackers on another. Beside it nothing, and one attack after the other, by
as many connections as each needs: each begins again when the server has ended it. An attacker is nice; so what its processor
has left is what it attacks with.

The light route has a queue of its own, and what the attackers ask for another, which is worth a quarter.

`--floor` is for what no server has in its hands: the kernel's part, which is on the shard's core, and the attackers' beside
the clients. Quiet comes before and after each attack, which is compared with the mean of both. How much the shard's memory
grows is seen from outside.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from bench._attacks import Attack, Suffered, attack, attacks
from bench._floor import floor
from bench._hogs import take_core
from bench._http_servers import IDLE, OURS, free_port, serving
from bench._processes import cores, together
from bench._report import Summary, columns, percentile, progress, ratios, summary
from bench._turns import Watched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench._http_arrivals import Outcome

APP = "bench._http_hostile:main"
QUEUES = ("--queue", "foreground:4", "--queue", "attacked:1", "--route", "/light=foreground", "--route", "/*=attacked")
TARGET = 2.0
MIB = 1 << 20
_REST_S = 30.0


class Result(msgspec.Struct, frozen=True):
    """Of one attack; a figure a round. ms. ratio: of p99 to quiet. grown: bytes of the shard at most."""

    attack: str
    p50_ms: list[float]
    p99_ms: list[float]
    ratio: Summary
    attacks_per_second: list[float]
    ends: dict[str, int]
    grown: int
    late_ms: float
    turns: list[Watched]


class Hostile(msgspec.Struct, frozen=True):
    quiet_p50_ms: list[float]
    quiet_p99_ms: list[float]
    target: float
    results: list[Result]

    def table(self) -> str:
        rows = [
            ["ms: median (least-most) of the rounds", "p50", "p99", "p99 / quiet", "attacks/s", "ended by", "MiB more"]
        ]
        rows.append(["quiet", str(summary(self.quiet_p50_ms)), str(summary(self.quiet_p99_ms)), "", "", "", ""])
        for result in self.results:
            ends = ", ".join(f"{end} {count:,}" for end, count in sorted(result.ends.items()))
            rate = f"{statistics.median(result.attacks_per_second):,.0f}"
            cells = [str(summary(result.p50_ms)), str(summary(result.p99_ms)), str(result.ratio), rate, ends]
            rows.append([result.attack, *cells, f"{result.grown / MIB:.0f}"])
        turns = [f"{result.attack}: {each}" for result in self.results for each in result.turns]
        return "\n".join([columns(rows), "", *turns, f"goal: p99 / quiet <= {self.target:g}"])

    def failures(self) -> list[str]:
        return [
            f"{result.attack}: p99 is {result.ratio} of quiet"
            for result in self.results
            if result.ratio.median > self.target
        ]

    def plot(self, figure: Figure) -> None:
        """The 99th percentiles."""
        axes = figure.add_subplot(xlabel="p99, ms")
        names = ["quiet", *(result.attack for result in self.results)]
        axes.barh(names, [summary(values).median for values in (self.quiet_p99_ms, *(r.p99_ms for r in self.results))])
        axes.invert_yaxis()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack in each round")
    parser.add_argument(
        "--warm-up", type=float, default=3.0, help="seconds in which an attack's connections are opened"
    )
    parser.add_argument("--rate", type=float, default=200, help="light requests a second")
    parser.add_argument("--attacks", nargs="+", choices=list(attacks()), default=list(attacks()))
    parser.add_argument(
        "--turns", action="store_true", help="say what turns of the loop are made of, which then never sleeps"
    )
    parser.add_argument("--nice", type=int, default=19, help="of the attackers: 0 where others use the processors, too")
    parser.add_argument(
        "--floor",
        type=float,
        default=0,
        metavar="US",
        help="of a server in C that closes whatever attacks; its light requests take so many microseconds",
    )
    parser.add_argument("--check", action="store_true", help="fail if the goal is missed")


def run(options: argparse.Namespace) -> Hostile:
    known = attacks()
    if options.turns:
        if options.floor:
            raise SystemExit("--turns are those of our loop: leave out --floor")
        os.environ["BENCH_TURNS"] = "1"
    quiet: list[Outcome] = []
    found: dict[str, list[tuple[Outcome, Suffered, float]]] = {}
    watched: dict[str, list[Watched]] = {}
    with contextlib.ExitStack() as stack:
        port, secure, shard = served(options, stack)
        for number in range(options.rounds):
            for name in options.attacks:
                what = known[name]
                if what.secure and not secure:
                    continue
                progress(f"round {number + 1} of {options.rounds}: {name}")
                if not quiet:
                    quiet.append(beside(None, options, port, 0, shard)[0])
                look_at(port, options.turns)
                outcome, suffered = beside(what, options, port, secure if what.secure else port, shard)
                if (seen := look_at(port, options.turns)) is not None:
                    watched.setdefault(name, []).append(seen)
                rest(shard)
                quiet.append(beside(None, options, port, 0, shard)[0])
                p99 = statistics.mean(p99_of(each) for each in quiet[-2:])
                assert suffered is not None
                found.setdefault(name, []).append((outcome, suffered, p99))
    return Hostile(
        [p50_of(each) for each in quiet],
        [p99_of(each) for each in quiet],
        TARGET,
        [sum_up(name, rounds, watched.get(name, [])) for name, rounds in found.items()],
    )


def served(options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[int, int, int]:
    """Its port, that of TLS (0: none) and the process that serves."""
    if options.floor:
        port = free_port()
        return port, 0, stack.enter_context(floor(port, options.floor, cores()[:1]))
    secure = 0
    certificate = stack.enter_context(self_signed())
    more: tuple[str, ...] = QUEUES
    if certificate is None:
        progress("openssl is not installed: no attacks over TLS")
    else:
        secure = free_port()
        os.environ["BENCH_CERTIFICATE"] = certificate
        more += ("--bind", f"secure=127.0.0.1:{secure}")
    server = stack.enter_context(serving(OURS, APP, 1, ready="/light", options=more, cores=cores()[:1]))
    return server.port, secure, shard_of(server.pid)


def rest(shard: int) -> None:
    """Until what an attack leaves is ended, and what it has sent is taken."""
    process = psutil.Process(shard)
    deadline = time.monotonic() + _REST_S
    while time.monotonic() < deadline:
        before = sum(process.cpu_times()[:2])
        time.sleep(1)
        if sum(process.cpu_times()[:2]) - before < IDLE:
            return


def look_at(port: int, is_wanted: bool) -> Watched | None:
    """What turns of the shard's loop were made of since the last time."""
    if not is_wanted:
        return None
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/turns", timeout=60) as answer:
        return msgspec.json.decode(answer.read(), type=Watched)


def beside(
    what: Attack | None, options: argparse.Namespace, port: int, attacked: int, shard: int
) -> tuple[Outcome, Suffered | None]:
    seconds = options.warm_up + options.seconds
    works: list[Any] = [partial(ask, port, options.rate, options.warm_up if what else 0.5, options.seconds)]
    if what is not None:
        works.append(partial(assault, what, attacked, shard, seconds, options.nice))
    results = together(works, 60 + 10 * seconds)
    return results[0], results[1] if what else None


def ask(port: int, rate: float, warm_up: float, seconds: float) -> Outcome:
    from bench._http_arrivals import Mix, OverSockets

    os.sched_setaffinity(0, cores_of_clients())
    take_core()
    return OverSockets(port, Mix("hostile", 0, "", rate, warm_up, seconds, 0)).run()


def assault(what: Attack, port: int, shard: int, seconds: float, nice: int) -> Suffered:
    os.sched_setaffinity(0, cores_of_clients())
    return attack(what, port, shard, seconds, nice)


def cores_of_clients() -> list[int]:
    return list(range(os.cpu_count() or 1))[-1:]


def shard_of(supervisor: int) -> int:
    """The process that serves."""
    return max(psutil.Process(supervisor).children(), key=lambda child: child.memory_info().rss).pid


@contextlib.contextmanager
def self_signed() -> Any:
    """The path of a certificate with its key; None without openssl."""
    if shutil.which("openssl") is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "certificate.pem"
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        made += ["-days", "1", "-subj", "/CN=localhost"]
        subprocess.run([*made, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
        path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
        yield str(path)


def sum_up(name: str, rounds: list[tuple[Outcome, Suffered, float]], turns: list[Watched]) -> Result:
    ends: dict[str, int] = {}
    for _, suffered, _ in rounds:
        for end, count in suffered.ends.items():
            ends[end] = ends.get(end, 0) + count
    p99 = [p99_of(outcome) for outcome, _, _ in rounds]
    return Result(
        name,
        [p50_of(outcome) for outcome, _, _ in rounds],
        p99,
        ratios(p99, [quiet for _, _, quiet in rounds]),
        [suffered.attacks for _, suffered, _ in rounds],
        ends,
        max(suffered.grown for _, suffered, _ in rounds),
        summary([outcome.late_ms for outcome, _, _ in rounds]).median,
        turns,
    )


def p50_of(outcome: Outcome) -> float:
    return percentile(sorted(outcome.latencies_ms), 50)


def p99_of(outcome: Outcome) -> float:
    return percentile(sorted(outcome.latencies_ms), 99)
