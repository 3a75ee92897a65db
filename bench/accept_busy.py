"""How many connections a second does a shard accept beside background work, and does it cost any without?

One shard, whose process also has a server of the loop's own (`loop.create_server`) on another port: the same protocol, loop
and queues. libuv accepts one connection a turn. A client on another core opens `--at-once` connections, asks each, has their
answers and closes them, again and again, at one of the two and then at the other; the ratios are of neighbours. First nothing
else runs on the shard, then `--tasks` tasks of its queue `background`, in steps of half a millisecond.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import msgspec

from bench._report import Summary, columns, progress, ratios, summary
from clockworker.shards import Shard
from clockworker.shards.testing import Server, serving

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_S = 500e-6
TASKS_VARIABLE = "BENCH_BACKGROUND_TASKS"


class Answering(asyncio.Protocol):
    """Answers what it is asked with the port of the loop's own server."""

    plain_port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"%05d" % self.plain_port)


async def compute() -> None:
    while True:
        until = time.perf_counter() + STEP_S
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(0)


async def main(shard: Shard) -> None:
    plain = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", backlog=2048)
    Answering.plain_port = plain.sockets[0].getsockname()[1]
    await shard.create_server(Answering)
    tasks = [shard.queue("background").spawn(compute()) for _ in range(int(os.environ[TASKS_VARIABLE]))]
    await shard.wait_stopped()
    for task in tasks:
        task.abort()
    plain.close()


class Rates(msgspec.Struct, frozen=True):
    """Connections a second in each round."""

    tasks: int  # in the background
    shard: list[float]
    plain: list[float]

    def ratio(self) -> Summary:
        return ratios(self.shard, self.plain)


class AcceptBusy(msgspec.Struct, frozen=True):
    at_once: int
    rates: list[Rates]

    def table(self) -> str:
        rows = [["background tasks", "shard.create_server, a second", "loop.create_server", "ratio"]]
        rows += [
            [str(each.tasks), *(f"{summary(r).median:,.0f}" for r in (each.shard, each.plain)), str(each.ratio())]
            for each in self.rates
        ]
        return f"{columns(rows)}\n\n{self.at_once} connections at once"

    def plot(self, figure: Figure) -> None:
        axes = figure.subplots()
        axes.boxplot(
            [values for each in self.rates for values in (each.shard, each.plain)],
            tick_labels=[f"{who}\n{each.tasks} tasks" for each in self.rates for who in ("shard", "loop")],
        )
        axes.set(yscale="log", ylabel="connections a second")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", type=int, default=8, help="in the background")
    parser.add_argument("--at-once", type=int, default=64, help="connections")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")


def run(options: argparse.Namespace) -> AcceptBusy:
    found = []
    for tasks in (0, options.tasks):
        rates = Rates(tasks, [], [])
        found.append(rates)
        queues = ["--queue", "foreground:8", "--queue", "background:1"]
        with serving(main, shards=1, options=queues, environment={TASKS_VARIABLE: str(tasks)}) as server:
            ours = server.address
            plain = (ours[0], plain_port(server))
            for number in range(options.rounds):
                progress(f"{tasks} tasks, round {number + 1} of {options.rounds}")
                for address, into in ((ours, rates.shard), (plain, rates.plain)):
                    into.append(rate(address, options.at_once, options.seconds))
    return AcceptBusy(options.at_once, found)


def plain_port(server: Server) -> int:
    with server.connect() as connection:
        return ask(connection)


def rate(address: tuple[str, int], at_once: int, seconds: float) -> float:
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        with ExitStack() as opened:
            connections = [opened.enter_context(socket.create_connection(address, timeout=30)) for _ in range(at_once)]
            for connection in connections:
                connection.sendall(b"?")
            for connection in connections:
                connection.recv(5)
        count += at_once
    return count / (time.perf_counter() - started)


def ask(connection: socket.socket) -> int:
    connection.sendall(b"?")
    return int(connection.recv(5))
