"""How quickly is a light request answered beside heavy ones?

A FastAPI route of 0.5 ms of CPU time, 200 requests a second, which arrive whether or not those before them are answered.
Beside it nothing, 2 and 8 heavy requests of 200 ms all the time, in chunks of 1 ms between which others may run, and 2 and 8
that never await. Clockworker runs the heavy ones in another queue, with an eighth of the share; there is one more of it, whose
other queue is preemptive.

On the process's own CPU clock, in process and without sockets: what else the machine does is not in these figures, which are
the ones to believe. There Clockworker's and uvicorn's protocols can be compared. Over sockets all servers are, with one worker
and with two, Clockworker with both ways in which connections come to its shards; latencies and heavy throughput there are
those of this machine at that time, in turns. A heavy request's connection and a light one's may be of different workers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from bench._hogs import a_millisecond, take_core
from bench._http_servers import OURS, PEERS, Server, serving
from bench._processes import cores, together
from bench._report import Summary, columns, percentile, progress, ratios, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench._http_arrivals import Mix, Outcome

APP = "bench._http_mixed:app"
ROUTES = ("/heavy", "/solid")
FOREGROUND = ("--queue", "foreground:8", *(f"--route={path}=background" for path in ROUTES))
OPTIONS = (*FOREGROUND, "--queue", "background:1")
PREEMPTIVE = (*FOREGROUND, "--queue", "background:1:preemptive")
CPU, SOCKETS = "CPU clock", "sockets"
OURS_KERNEL, OURS_LEAST, OURS_PREEMPTIVE = f"{OURS}, kernel", f"{OURS}, least", f"{OURS}, preemptive"
ALONE, TWO, EIGHT, SOLID, EIGHT_SOLID = MIXES = (
    "alone",
    "2 heavy",
    "8 heavy",
    "2 that never await",
    "8 that never await",
)
SERVERS = (OURS_KERNEL, OURS_LEAST, OURS_PREEMPTIVE, *PEERS)
PERCENTS = (50, 99, 99.9)
CURVE = (*range(1, 100), 99.5, 99.9)
LIMITS = {
    "CPU clock: p99 beside 8 heavy / alone": 1.5,
    "CPU clock: p99 beside 8 heavy / uvicorn's": 1 / 4,
    "CPU clock: heavy requests a second / uvicorn's": 0.95,  # at least
    "sockets: p99 beside 8 heavy / the best peer's": 1 / 3,
    "sockets: heavy requests a second / uvicorn's": 0.95,  # at least
    "sockets: p99 beside 8 that never await / alone": 1.5,
    "sockets: heavy requests a second that never await / uvicorn's": 0.9,  # at least
}


class Result(msgspec.Struct, frozen=True):
    """Of one clock, number of workers, server and mix; a figure a round. latency_ms: by percentile. heavy: requests in a
    second of that clock. late_ms: 1 % of the light ones were sent later than planned by this, at the median. curve_ms:
    percentiles CURVE over all rounds."""

    clock: str
    workers: int
    server: str
    mix: str
    requests: int  # light ones, in a round
    latency_ms: dict[str, list[float]]
    heavy: list[float]
    late_ms: float
    curve_ms: list[float]


class Mixed(msgspec.Struct, frozen=True):
    percents: list[float]  # of curve_ms
    results: list[Result]
    verdicts: dict[str, Summary]
    limits: dict[str, float]

    def table(self) -> str:
        rows = [["ms: median (least-most) of the rounds", "mix", *(f"p{p:g}" for p in PERCENTS), "heavy/s", "late"]]
        for result in self.results:
            cells = [str(summary(values)) for values in result.latency_ms.values()]
            heavy = str(summary(result.heavy)) if max(result.heavy) else "-"
            name = f"{result.clock}, {result.workers} worker{'s' * (result.workers > 1)}: {result.server}"
            rows.append([name, result.mix, *cells, heavy, f"{result.late_ms:.2f}"])
        verdicts = [["", "median (least-most)", "goal"]]
        for name, verdict in self.verdicts.items():
            sign = ">=" if "heavy requests" in name else "<="
            verdicts.append([name, str(verdict), f"{sign} {self.limits[name.partition(';')[0]]:.2f}"])
        return f"{columns(rows)}\n\n{columns(verdicts)}"

    def plot(self, figure: Figure) -> None:
        """The percentiles beside 8 heavy requests, and alone as a dashed line."""
        places = list(dict.fromkeys((result.clock, result.workers) for result in self.results))
        for place, (clock, workers) in enumerate(places, 1):
            axes = figure.add_subplot(1, len(places), place, xlabel="percentile", yscale="log", xscale="logit")
            axes.set_title(f"{clock}, {workers} worker{'s' * (workers > 1)}")
            axes.set_ylabel("latency of light requests beside 8 heavy, ms; dashed: alone" if place == 1 else "")
            found = {(r.server, r.mix): r for r in self.results if (r.clock, r.workers) == (clock, workers)}
            for number, server in enumerate(dict.fromkeys(server for server, _ in found)):
                for mix, style in ((EIGHT, "-"), (ALONE, "--")):
                    if (result := found.get((server, mix))) is None:
                        continue
                    axes.plot(
                        [percent / 100 for percent in self.percents],
                        result.curve_ms,
                        style,
                        color=f"C{number}",
                        linewidth=1.5 if mix == EIGHT else 0.7,
                        label=server if mix == EIGHT else None,
                    )
            ticks = (0.01, 0.5, 0.9, 0.99, 0.999)
            axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each server and mix in each round")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds that are not counted")
    parser.add_argument("--rate", type=float, default=200, help="light requests a second")
    parser.add_argument("--clocks", nargs="+", choices=["cpu", "sockets"], default=["cpu", "sockets"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="over sockets")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=MIXES)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS, help="over sockets")


def run(options: argparse.Namespace) -> Mixed:
    results: list[Result] = []
    os.environ["BENCH_TURNS"] = str(a_millisecond())  # for all servers
    if "cpu" in options.clocks:
        results += on_cpu_clock(options)
    if "sockets" in options.clocks:
        for workers in options.workers:
            results += on_sockets(workers, options)
    return Mixed([*CURVE], results, verdicts(results), LIMITS)


def mix_of(name: str, number: int, options: argparse.Namespace) -> Mix:
    from bench._http_arrivals import Mix

    heavy = {ALONE: 0, TWO: 2, EIGHT: 8, SOLID: 2, EIGHT_SOLID: 8}[name]
    path = "/solid" if name in (SOLID, EIGHT_SOLID) else "/heavy"
    return Mix(name, heavy, path, options.rate, options.warm_up, options.seconds, number)


def on_cpu_clock(options: argparse.Namespace) -> list[Result]:
    import bench._http_mixed  # noqa: F401  # here, so that no child imports it
    from bench._http_in_process import PREEMPTIVE_SIDE

    found: dict[tuple[str, str], list[Outcome]] = {}
    for number in range(options.rounds):
        for name in options.mixes:
            for server in (OURS, PREEMPTIVE_SIDE, "uvicorn"):
                progress(f"CPU clock, round {number + 1} of {options.rounds}: {name}, {server}")
                [outcome] = together([partial(in_process, server, mix_of(name, number, options))], patience(options))
                found.setdefault((server, name), []).append(outcome)
    return [sum_up(CPU, 1, server, name, outcomes) for (server, name), outcomes in found.items()]


def patience(options: argparse.Namespace) -> float:
    """Seconds after which a run is taken to hang: on a busy machine it takes several times its time."""
    return 120 + 20 * float(options.warm_up + options.seconds)


def in_process(server: str, mix: Mix) -> Outcome:
    import uvloop

    from bench._http_arrivals import CpuClock
    from bench._http_in_process import PREEMPTIVE_SIDE, SIDES, SLICE_S, clockworker_in_process
    from bench._http_mixed import app

    preemptive = partial(clockworker_in_process, slice_s=SLICE_S)

    async def main() -> Outcome:
        side = preemptive if server == PREEMPTIVE_SIDE else SIDES[server]
        async with side(app, False) as connect:
            return await CpuClock(connect, mix).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def on_sockets(workers: int, options: argparse.Namespace) -> list[Result]:
    found: dict[tuple[str, str], list[Outcome]] = {}
    with contextlib.ExitStack() as stack:
        pinned = cores()[:1] if workers == 1 else ()

        def start(name: str) -> Server:
            own = {
                OURS_KERNEL: (*OPTIONS, "--distribution", "kernel"),
                OURS_LEAST: (*OPTIONS, "--distribution", "least-connections"),
                OURS_PREEMPTIVE: (*PREEMPTIVE, "--distribution", "kernel"),
            }
            command, more = (OURS, own[name]) if name in own else (name, ())
            return stack.enter_context(serving(command, APP, workers, ready="/light", options=more, cores=pinned))

        servers = {name: start(name) for name in options.servers if workers > 1 or name != OURS_LEAST}
        for number in range(options.rounds):
            for name in options.mixes:
                for server, running in servers.items():
                    progress(f"{workers} workers, round {number + 1} of {options.rounds}: {name}, {server}")
                    client = partial(
                        ask, running.port, mix_of(name, number, options), cores()[-1:] if pinned else cores()
                    )
                    found.setdefault((server, name), []).extend(together([client], patience(options)))
    return [sum_up(SOCKETS, workers, server, name, outcomes) for (server, name), outcomes in found.items()]


def ask(port: int, mix: Mix, core: list[int]) -> Outcome:
    from bench._http_arrivals import OverSockets

    os.sched_setaffinity(0, core)
    take_core()
    return OverSockets(port, mix).run()


def sum_up(clock: str, workers: int, server: str, mix: str, outcomes: list[Outcome]) -> Result:
    ordered = [sorted(outcome.latencies_ms) for outcome in outcomes]
    pooled = sorted(value for values in ordered for value in values)
    return Result(
        clock,
        workers,
        server,
        mix,
        len(ordered[0]),
        {f"p{percent:g}": [percentile(values, percent) for values in ordered] for percent in PERCENTS},
        [outcome.heavy for outcome in outcomes],
        summary([outcome.late_ms for outcome in outcomes]).median,
        [percentile(pooled, percent) for percent in CURVE],
    )


def verdicts(results: list[Result]) -> dict[str, Summary]:
    by_name = {(r.clock, r.workers, r.server, r.mix): r for r in results}
    found: dict[str, Summary] = {}
    ratio_alone, ratio_uvicorn, throughput, best_peer, throughput_sockets, solid_alone, throughput_solid = LIMITS
    for server in dict.fromkeys(r.server for r in results if r.clock == CPU and r.server != "uvicorn"):
        if (CPU, 1, server, EIGHT) not in by_name or (CPU, 1, server, ALONE) not in by_name:
            continue
        ours, alone = by_name[CPU, 1, server, EIGHT], by_name[CPU, 1, server, ALONE]
        peer = by_name[CPU, 1, "uvicorn", EIGHT]
        found[f"{ratio_alone}; {server}"] = ratios(ours.latency_ms["p99"], alone.latency_ms["p99"])
        found[f"{ratio_uvicorn}; {server}"] = ratios(ours.latency_ms["p99"], peer.latency_ms["p99"])
        found[f"{throughput}; {server}"] = ratios(ours.heavy, peer.heavy)
    for workers in dict.fromkeys(r.workers for r in results if r.clock == SOCKETS):
        key = (SOCKETS, workers, OURS_PREEMPTIVE)
        if (*key, EIGHT_SOLID) in by_name and (*key, ALONE) in by_name:
            ours, alone = by_name[*key, EIGHT_SOLID], by_name[*key, ALONE]
            found[f"{solid_alone}; {workers} workers"] = ratios(ours.latency_ms["p99"], alone.latency_ms["p99"])
            if (uvicorn := by_name.get((SOCKETS, workers, "uvicorn", EIGHT_SOLID))) is not None:
                found[f"{throughput_solid}; {workers} workers"] = ratios(ours.heavy, uvicorn.heavy)
        if any((SOCKETS, workers, name, EIGHT) not in by_name for name in PEERS):
            continue
        peers = [by_name[SOCKETS, workers, name, EIGHT] for name in PEERS]
        best = [min(values) for values in zip(*(peer.latency_ms["p99"] for peer in peers), strict=True)]
        for name in (OURS_KERNEL, OURS_LEAST):
            if (SOCKETS, workers, name, EIGHT) in by_name:
                ours = by_name[SOCKETS, workers, name, EIGHT]
                what = f"; {workers} workers, {name}"
                found[best_peer + what] = ratios(ours.latency_ms["p99"], best)
                found[throughput_sockets + what] = ratios(ours.heavy, peers[0].heavy)
    return found
