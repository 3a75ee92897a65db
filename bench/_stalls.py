"""How soon is a loop that stands still reported? A task of `background` sleeps 300 ms with `time.sleep`, on servers of its
own each time, since reports of one shard are rationed."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time

import clockworker as cw
from clockworker.shards.testing import Server, serving

STALL_S = 0.3
_OPTIONS = ["--queue", "foreground:8", "--queue", "background:1"]
_REPORT = re.compile(
    r"queue 'background', task 'napper'.*\n(?:.*\n)*?  File \".*_stalls\.py\", line \d+, in nap\n\s+time\.sleep"
)


async def nap() -> None:
    time.sleep(STALL_S)  # noqa: ASYNC251  # what is to be found


async def main(shard: cw.Shard) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            await shard.queue("background").spawn(nap(), name="napper")
            writer.write(b"done\n")

    await shard.start_server(handle, queue="foreground")
    await shard.wait_stopped()


def measure_stall(rng: random.Random) -> float:
    """Seconds from the start of the sleep to a report with queue, task, file, line and function; infinity if there was none
    before the sleep's end."""
    with serving(main, shards=1, options=_OPTIONS) as server, server.connect() as connection:
        # At any time between two beats and two looks, of a shard that works or that rests.
        time.sleep(rng.choice((0.3, 2.0)) + rng.random())
        return _report_s(server, connection)


def _report_s(server: Server, connection: socket.socket) -> float:
    started = time.monotonic()
    connection.sendall(b"sleep\n")
    connection.settimeout(0.001)
    while True:
        found, seen = _REPORT.search(server.log), time.monotonic() - started
        if found:
            return seen
        try:
            connection.recv(16)
        except TimeoutError:
            continue
        return float("inf")
