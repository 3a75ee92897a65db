"""A counter with a journal outside, which refuses who is past: the application of the release's check. A line is asked, a line
is answered: `count KEY` adds one, wherever the key is, and says which number that was.

The journal stands for a store that all nodes write to: a file, appended to under a lock. Of each partition it knows the highest
epoch that has written, and refuses an older one; that is the part that only a store can do. Who gains a partition reads its
counters there, in `partitions_moved`, before it serves them.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import clockworker as cw

PATH = Path(os.environ.get("JOURNAL", "journal"))


class Fenced(Exception):
    """Another has written at a higher epoch."""


def lines(text: str) -> Iterator[tuple[int, int, str, int, str]]:
    """Partition, epoch, key, number, who; the number 0 is of one that has gained the partition."""
    for line in text.splitlines():
        partition, epoch, key, number, who = line.split()
        yield int(partition), int(epoch), key, int(number), who


class Journal:
    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, rows: list[tuple[int, int, str, int, str]]) -> dict[str, int]:
        """Append them. Returns the counters of their partitions. Raises `Fenced`, and has written nothing then."""
        # Opened each time: threads that share what was opened are not kept apart by its lock, and move each other's position.
        with self._path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            highest: dict[int, int] = {}
            counters: dict[str, int] = {}
            wanted = {row[0] for row in rows}
            for partition, epoch, key, number, _ in lines(file.read()):
                if partition in wanted:
                    highest[partition] = max(highest.get(partition, 0), epoch)
                    if number:
                        counters[key] = number
            for partition, epoch, *_ in rows:
                if epoch < highest.get(partition, 0):
                    raise Fenced(
                        f"partition {partition} was written at epoch {highest[partition]}, and this is {epoch}"
                    )
            file.write("".join(f"{' '.join(map(str, row))}\n" for row in rows))
            return counters


class Counters:
    def __init__(self, shard: cw.Shard) -> None:
        assert shard.cluster is not None
        self.shard = shard
        self.cluster = shard.cluster
        self.who = f"{shard.cluster.node}/{os.getpid()}"
        self.journal = Journal(PATH)
        self.counters: dict[str, int] = {}
        self.epochs: dict[int, int] = {}  # at which we have gained each partition

    @cw.remote
    async def add(self, key: str) -> int:
        partition = self.cluster.partition(key)
        number = self.counters.get(key, 0) + 1
        self.journal.write([(partition, self.epochs[partition], key, number, self.who)])
        self.counters[key] = number
        return number

    async def partitions_moved(self, gained: frozenset[int], lost: frozenset[int], epoch: int) -> None:
        for partition in lost:
            self.epochs.pop(partition, None)
        if gained:
            rows = [(partition, epoch, "-", 0, self.who) for partition in sorted(gained)]
            found = await self.shard.run_blocking(self.journal.write, rows)
            self.epochs |= dict.fromkeys(gained, epoch)
            self.counters |= found


async def main(shard: cw.Shard) -> None:
    counters = await shard.start(Counters)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            word, _, key = line.partition(" ")
            try:
                if word == "view":
                    assert shard.cluster is not None
                    said = f"{shard.cluster.epoch} {' '.join(sorted(shard.cluster.nodes))}"
                else:
                    with cw.deadline(5):
                        said = f"ok {await counters.of(key).add(key)}"
            except Exception as error:
                said = f"{type(error).__name__} {error}"
            writer.write(f"{said}\n".encode())
            await writer.drain()

    await shard.start_server(serve)
    await shard.wait_stopped()
