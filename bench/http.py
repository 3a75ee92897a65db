"""How many requests does a server answer in a second of CPU time with fair queues, beside the same server without?

Somebody's server of HTTP, as it is, and an application that only answers: aiohttp's, and uvicorn's protocol with bare ASGI. It
runs on plain uvloop, and on an executor with each scheduler: in a queue with a share of 8, beside an idle one. Nothing else is
to be scheduled, so this is the price of being ready for it.

In time, over real sockets: set-ups take turns in one process, round after round, and a client in another has so many
connections, on each of which a request is under way. CPU time is that of the server's thread. In instructions
(`--instructions`), in process: connections without sockets ask again as soon as they are answered, under valgrind's
cachegrind, which gives the same counts on any day and under any load. Ratios are of plain uvloop's requests: more is better.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

import clockworker as cw
from bench import _http_raw as raw
from bench._cachegrind import count_instructions
from bench._http_in_process import Asking, Connect, request, uvicorn_in_process
from bench._http_load import Exchange, HttpLoad
from bench._loops import Spawn, on_loop
from bench._overhead_schedulers import PLAIN, SCHEDULERS, SETUPS
from bench._processes import cores
from bench._report import Summary, columns, progress, ratios, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET = 0.98  # of plain's requests, at least
ASKED = request("GET", "/")
WARM_S = 0.2
WARM = 50


class Rates(msgspec.Struct, frozen=True):
    """Requests in a second of CPU time, or in a billion instructions; a figure a round."""

    server: str
    setup: str
    rates: list[float]
    ratio: Summary  # to plain, within each round


class Http(msgspec.Struct, frozen=True):
    unit: str
    target: float
    results: list[Rates]

    def table(self) -> str:
        rows = [[f"requests a {self.unit}; of plain's: median (least-most)", *SETUPS, "target"]]
        for server in SERVERS:
            cells = [
                f"{summary(result.rates).median:,.0f}" + (f"; {result.ratio}" if result.setup != PLAIN else "")
                for result in self.results
                if result.server == server
            ]
            rows.append([server, *cells, f"{self.target:.2f}"])
        return columns(rows)

    def failures(self) -> list[str]:
        return [
            f"{result.server}, {result.setup}: {result.ratio.median:.3f} of plain uvloop's requests a {self.unit}; "
            f"at least {self.target:.2f} were wanted"
            for result in self.results
            if result.ratio.median < self.target
        ]

    def plot(self, figure: Figure) -> None:
        """Ratios to plain with their spread."""
        axes = figure.add_subplot(ylabel=f"of plain uvloop's requests a {self.unit}")
        for number, setup in enumerate(SCHEDULERS):
            found = [result.ratio for result in self.results if result.setup == setup]
            medians = [ratio.median for ratio in found]
            spread = [[ratio.median - ratio.least for ratio in found], [ratio.most - ratio.median for ratio in found]]
            axes.bar([x + 0.2 * number for x in range(len(found))], medians, 0.2, yerr=spread, label=setup)
        axes.set_xticks([x + 0.3 for x in range(len(SERVERS))], list(SERVERS))
        axes.axhline(self.target, color="black", label="target")
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each server and set-up in each round")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--instructions", action="store_true", help="count them, without sockets; needs valgrind")
    parser.add_argument(
        "--requests", type=int, default=400, help="with --instructions: in the shorter run, of a connection"
    )
    parser.add_argument("--check", action="store_true", help="end with status 1 if the target is missed")


def run(options: argparse.Namespace) -> Http:
    if options.instructions:
        return Http("billion instructions", TARGET, counted(options.connections, options.requests))
    results = []
    core, client_core = cores()[0], cores()[-1]
    os.sched_setaffinity(0, [core])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as client:
        client.submit(os.sched_setaffinity, 0, [client_core]).result()
        for server in SERVERS:
            rates: dict[str, list[float]] = {setup: [] for setup in SETUPS}
            for number in range(options.rounds):
                # The set-up that goes first moves on, so that none always follows the same.
                for setup in SETUPS[number % len(SETUPS) :] + SETUPS[: number % len(SETUPS)]:
                    progress(f"{server}, {setup}, round {number + 1} of {options.rounds}")
                    measure = functools.partial(over_sockets, server, client, options.connections, options.seconds)
                    rates[setup].append(on_loop(queues(setup), measure))
            results += [Rates(server, setup, found, ratios(found, rates[PLAIN])) for setup, found in rates.items()]
    return Http("CPU second", TARGET, results)


def queues(setup: str) -> list[cw.Queue]:
    make = SCHEDULERS.get(setup)
    return [] if make is None else [cw.Queue("foreground", 8, scheduler=make()), cw.Queue("idle")]


@contextlib.asynccontextmanager
async def aiohttp_server() -> AsyncIterator[Connect]:
    async def answer(asked: web.BaseRequest) -> web.Response:
        return web.Response(body=raw.PLAIN)

    server = web.Server(answer, access_log=None)
    yield server
    await server.shutdown()


# Each gives a factory of protocols.
SERVERS: dict[str, Callable[[], contextlib.AbstractAsyncContextManager[Connect]]] = {
    "aiohttp": aiohttp_server,
    "bare ASGI, uvicorn's protocol": functools.partial(uvicorn_in_process, raw.plain, False),
}


async def over_sockets(
    server: str, client: ProcessPoolExecutor, connections: int, seconds: float, spawns: list[Spawn]
) -> float:
    """Requests a CPU second of this thread."""
    loop = asyncio.get_running_loop()

    async def serve() -> float:
        # In the queue, as are all tasks of the connections, whose callbacks have the context of who listens.
        async with SERVERS[server]() as connect:
            listener = await loop.create_server(connect, "127.0.0.1", 0)
            port = listener.sockets[0].getsockname()[1]
            await asyncio.wrap_future(client.submit(open_load, port, connections))
            started = time.thread_time()
            done = await asyncio.wrap_future(client.submit(run_load, seconds))
            used = time.thread_time() - started
            await asyncio.wrap_future(client.submit(close_load))
            listener.close()
            await listener.wait_closed()
            return done / used

    rate: float = await spawns[0](serve())
    return rate


# In the client's process


class _Client:
    load: HttpLoad


def open_load(port: int, connections: int) -> None:
    _Client.load = HttpLoad(port, Exchange(ASKED, raw.PLAIN), connections)
    _Client.load.run(WARM_S)


def run_load(seconds: float) -> int:
    return _Client.load.run(seconds)


def close_load() -> None:
    _Client.load.close()


# By instructions


def counted(connections: int, requests: int) -> list[Rates]:
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed (Debian: apt-get install valgrind)")
    keys = [(server, setup, connections, n * requests) for server in SERVERS for setup in SETUPS for n in (1, 2)]
    with tempfile.TemporaryDirectory() as directory:
        totals = count_instructions(Path(directory), "bench._http_run", [str(key) for key in keys])
    results = []
    for server in SERVERS:
        rates = {}
        for setup in SETUPS:
            once, twice = (totals[str((server, setup, connections, n * requests))] for n in (1, 2))
            rates[setup] = [1e9 * connections * requests / (twice - once)]
        results += [Rates(server, setup, found, ratios(found, rates[PLAIN])) for setup, found in rates.items()]
    return results


def in_process(server: str, setup: str, connections: int, requests: int) -> None:
    """Each connection has so many answered."""

    async def ask() -> None:
        async with SERVERS[server]() as connect:
            asking = [Asking(connect, ASKED, raw.PLAIN) for _ in range(connections)]
            await asyncio.gather(*(each.ask(WARM + requests) for each in asking))
            for each in asking:
                each.close()

    async def main(spawns: list[Spawn]) -> None:
        await spawns[0](ask())

    on_loop(queues(setup), main)
