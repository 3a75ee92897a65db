"""How evenly do connections come to shards: by the kernel's hash, by client address, and to the shard with the fewest?

One server after the other, the same example on the same shards. The *skew* is the busiest shard's connections over an even
share: 1.00 is even. `few` and `many` are numbers of connections opened and kept; after `many`, those of every other shard
are closed and as many opened again (`churn`), which is where a hash that knows nothing of load shows. The clients' addresses
are as many as `--clients`. The rate is of connections opened, answered once and closed by one client after another.
"""

from __future__ import annotations

import argparse
import random
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from bench._report import columns, progress, summary
from clockworker.shards import Shard
from clockworker.shards.testing import Server, serving

if TYPE_CHECKING:
    import asyncio

    from matplotlib.figure import Figure

DISTRIBUTIONS = ("kernel", "fixed", "least-connections")
RATE_S = 2.0


async def main(shard: Shard) -> None:
    """The example: says which shard it is."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            writer.write(b"%03d" % shard.id)

    await shard.start_server(handle)
    await shard.wait_stopped()


class Row(msgspec.Struct, frozen=True):
    """Of one distribution: the skew in each round, and the rate of connections a second."""

    distribution: str
    few: list[float]
    many: list[float]
    churn: list[float]
    rate: list[float]


class Accept(msgspec.Struct, frozen=True):
    shards: int
    rows: list[Row]

    def table(self) -> str:
        head = ["distribution", "skew, few", "skew, many", "skew, churn", "connections/s"]
        cells = [
            [row.distribution, *(str(summary(skews)) for skews in (row.few, row.many, row.churn)), rates(row.rate)]
            for row in self.rows
        ]
        return columns([head, *cells])

    def plot(self, figure: Figure) -> None:
        axes = figure.subplots()
        axes.boxplot(
            [skews for row in self.rows for skews in (row.few, row.many, row.churn)],
            tick_labels=[f"{row.distribution}\n{what}" for row in self.rows for what in ("few", "many", "churn")],
        )
        axes.set_ylabel("busiest shard / even share")


def rates(values: Sequence[float]) -> str:
    return f"{summary(values).median:,.0f}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--few", type=int, default=16)
    parser.add_argument("--many", type=int, default=400)
    parser.add_argument("--clients", type=int, default=16, help="client addresses, of 127.0.0.0/8")
    parser.add_argument("--rounds", type=int, default=5)


def run(options: argparse.Namespace) -> Accept:
    rows = {name: Row(name, [], [], [], []) for name in DISTRIBUTIONS}
    choice = random.Random(1)
    for round in range(options.rounds):
        for name, row in rows.items():
            progress(f"round {round + 1} of {options.rounds}: {name}")
            with serving(main, shards=options.shards, options=["--no-pin", "--distribution", name]) as server:
                clients = [f"127.{choice.randrange(256)}.{choice.randrange(256)}.{choice.randrange(1, 255)}"]
                clients += [
                    f"127.0.{choice.randrange(256)}.{choice.randrange(1, 255)}" for _ in range(options.clients - 1)
                ]
                row.few.append(skew(shards_of(server, clients, options.few, options.shards), options.shards))
                row.many.append(skew(shards_of(server, clients, options.many, options.shards), options.shards))
                row.churn.append(churn(server, clients, options.many, options.shards))
                row.rate.append(rate(server))
    return Accept(options.shards, list(rows.values()))


def skew(of_shard: Counter[int], shards: int) -> float:
    return max(of_shard.values()) / (of_shard.total() / shards)


def shards_of(server: Server, clients: list[str], count: int, shards: int) -> Counter[int]:
    """Where `count` connections, all open at once, came to."""
    with ExitStack() as opened:
        return Counter(ask(opened.enter_context(connect(server, clients[at % len(clients)]))) for at in range(count))


def churn(server: Server, clients: list[str], count: int, shards: int) -> float:
    with ExitStack() as opened:
        at_shard: list[tuple[int, socket.socket]] = []
        for at in range(count):
            connection = opened.enter_context(connect(server, clients[at % len(clients)]))
            at_shard.append((ask(connection), connection))
        kept = Counter(shard for shard, _ in at_shard if shard % 2)
        for shard, connection in at_shard:
            if shard % 2 == 0:
                connection.close()
        time.sleep(0.2)  # until the server has seen it
        for at in range(count - kept.total()):
            kept[ask(opened.enter_context(connect(server, clients[at % len(clients)])))] += 1
        return skew(kept, shards)


def rate(server: Server) -> float:
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < RATE_S:
        with server.connect() as connection:
            ask(connection)
        count += 1
    return count / (time.perf_counter() - started)


def connect(server: Server, client: str) -> socket.socket:
    return socket.create_connection(server.address, timeout=30, source_address=(client, 0))


def ask(connection: socket.socket) -> int:
    connection.sendall(b"?")
    return int(connection.recv(3))
