"""How many requests does a server of ASGI answer in a second of its CPU time, beside uvicorn and the others?

Each server is started as its users start it, once with one worker and once with two; the workloads are measured in turn, and in
each of them the servers in turn, round after round. What counts is the CPU time of all of a server's processes, supervisors
included, so that the client and whatever else the machine does matter little. With one worker the server has the first core
and the client the last one; with two they share all.

Ours has two queues, and routes for one of them. Ratios are to uvicorn, within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from bench._http_load import Exchange, HttpLoad, websocket_echo
from bench._http_raw import BODY, JSON, PLAIN, RECEIVED
from bench._http_servers import OURS, PEERS, Server, serving
from bench._processes import cores, together
from bench._report import Summary, columns, progress, ratios, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

APP = "bench._http_frameworks:app"
OPTIONS = ("--queue", "foreground:8", "--queue", "background:1", "--route", "/reports/*=background")
SERVERS = (OURS, *PEERS)
PEER = "uvicorn"
WARM_S = 0.2


def head(method: str, path: str, length: int = 0) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:8000", "User-Agent: bench/1.0", "Accept: */*"]
    lines += [f"Content-Length: {length}", "Content-Type: application/json"] if length else []
    return "\r\n".join([*lines, "", ""]).encode()


def workloads() -> dict[str, Exchange]:
    from bench._http_frameworks import ORDER, ORDERED

    return {
        "plain text": Exchange(head("GET", "/plain"), PLAIN),
        "JSON": Exchange(head("GET", "/json"), JSON),
        "POST, 1 KiB": Exchange(head("POST", "/post", len(BODY)) + BODY, RECEIVED),
        "WebSocket echo": websocket_echo("/echo", b"0123456789abcdef"),
        "Starlette": Exchange(head("GET", "/starlette"), JSON),
        "FastAPI": Exchange(head("POST", "/fastapi", len(ORDER)) + ORDER, ORDERED),
    }


class Rates(msgspec.Struct, frozen=True):
    """Of one server, workload and number of workers; a figure a round. rates: requests in a second of the server's CPU time.
    busy: of how many cores it had use."""

    server: str
    workload: str
    workers: int
    rates: list[float]
    busy: list[float]


class Asgi(msgspec.Struct, frozen=True):
    results: list[Rates]

    def ratio(self, result: Rates) -> Summary:
        peer = next(r for r in self.results if (r.server, r.workload, r.workers) == (PEER, *self._place(result)))
        return ratios(result.rates, peer.rates)

    @staticmethod
    def _place(result: Rates) -> tuple[str, int]:
        return result.workload, result.workers

    def table(self) -> str:
        rows = [["requests a CPU second, median; of uvicorn's (least-most)", "workers", *SERVERS]]
        for workload, workers in dict.fromkeys(map(self._place, self.results)):
            measured = [r for r in self.results if self._place(r) == (workload, workers)]
            cells = [f"{summary(r.rates).median:,.0f}  {self.ratio(r)}" for r in measured]
            rows.append([workload, str(workers), *cells])
        return columns(rows)

    def plot(self, figure: Figure) -> None:
        counts = list(dict.fromkeys(result.workers for result in self.results))
        for place, workers in enumerate(counts, 1):
            axes = figure.add_subplot(len(counts), 1, place, ylabel="of uvicorn's requests a CPU second")
            axes.set_title(f"{workers} worker{'s' * (workers > 1)}")
            for number, server in enumerate(SERVERS):
                found = [self.ratio(r) for r in self.results if r.server == server and r.workers == workers]
                medians = [ratio.median for ratio in found]
                spread = [[r.median - r.least for r in found], [r.most - r.median for r in found]]
                places = [x + 0.16 * number for x in range(len(found))]
                axes.bar(places, medians, 0.16, yerr=spread, label=server)
            names = list(dict.fromkeys(r.workload for r in self.results if r.workers == workers))
            axes.set_xticks([x + 0.32 for x in range(len(names))], names)
            axes.axhline(1, color="gray", linewidth=0.5)
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each server and workload in each round")
    parser.add_argument("--connections", type=int, default=32, help="of each client; there is one a worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])


def run(options: argparse.Namespace) -> Asgi:
    results: list[Rates] = []
    for workers in options.workers:
        with contextlib.ExitStack() as stack:
            servers = [
                stack.enter_context(
                    serving(
                        name, APP, workers, ready="/plain", options=OPTIONS, cores=cores()[:1] if workers == 1 else ()
                    )
                )
                for name in SERVERS
            ]
            results += measure(servers, workers, options)
    return Asgi(results)


def measure(servers: list[Server], workers: int, options: argparse.Namespace) -> list[Rates]:
    found = {
        (server.name, workload): Rates(server.name, workload, workers, [], [])
        for workload in workloads()
        for server in servers
    }
    for number in range(options.rounds):
        for workload, exchange in workloads().items():
            for server in servers:
                progress(f"{workers} workers, round {number + 1} of {options.rounds}: {workload}, {server.name}")
                rate, busy = rate_of(server, exchange, workers, options)
                found[server.name, workload].rates.append(rate)
                found[server.name, workload].busy.append(busy)
    return list(found.values())


def rate_of(server: Server, exchange: Exchange, workers: int, options: argparse.Namespace) -> tuple[float, float]:
    """Requests in a second of the server's CPU time, and how much of that it had in a second."""
    core = cores()[-1:] if workers == 1 else cores()
    client: Callable[[], int] = partial(ask, server.port, exchange, options.connections, options.seconds, core)
    before = server.cpu_s()
    done = sum(together([client] * workers))
    used = server.cpu_s() - before
    return done / max(used, 0.01), used / (options.seconds + WARM_S)


def ask(port: int, exchange: Exchange, connections: int, seconds: float, core: list[int]) -> int:
    """How many requests were answered, the first of each connection included."""
    os.sched_setaffinity(0, core)
    load = HttpLoad(port, exchange, connections)
    done = load.run(WARM_S) + load.run(seconds)
    load.close()
    return done + (0 if exchange.prologue else connections)
