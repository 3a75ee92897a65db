"""An application whose services hand over their state, clients that keep a journal of what it has acknowledged, and what goes
wrong with a successor."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path

from tests.shards.servers import Server, ask
from tests.shards.threads import Threads

# A line `add KEY`, `slow KEY FILE` (which ends when the file is there), `get KEY` goes to the shard that owns the key; `came`
# says how this shard came by, and `who` which process it is. `@N COMMAND` goes to shard N whoever owns the key.
COUNTS = """
import asyncio, os, time
from collections.abc import AsyncIterator
import msgspec
import clockworker as cw

class Part(msgspec.Struct):
    key: str | None = None
    count: int = 0
    log: list[int] = []

class Counts:
    def __init__(self, shard):
        self.shard = shard
        self.counts = {}
        self.log = []

    @cw.remote
    async def add(self, key: str) -> int:
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.counts[key]

    @cw.remote
    async def slow(self, key: str, path: str) -> int:
        before = self.counts.get(key, 0)
        print(f"{key} is slow", flush=True)
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        self.counts[key] = before + 1
        return self.counts[key]

    @cw.remote
    async def get(self, key: str) -> int:
        return self.counts.get(key, 0)

    @cw.remote
    async def note(self, number: int) -> None:
        self.log.append(number)

    @cw.remote
    async def noted(self) -> list[int]:
        return self.log

    @cw.remote
    async def nested(self, key: str, seconds: float) -> int:
        "Calls itself, by way of another shard, when calls may have been asked to wait."
        await asyncio.sleep(seconds)
        other = (self.shard.id + 1) % self.shard.count
        return await self.all.on(other).back(key, self.shard.id)

    @cw.remote
    async def back(self, key: str, shard: int) -> int:
        await asyncio.sleep(0.05)
        return await self.all.on(shard).add(key)

    @cw.remote
    async def ticks(self) -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0.01)

    async def hand_over(self) -> tuple[dict[str, int], list[int]]:
        return self.counts, self.log

    async def take_over(self, state: tuple[dict[str, int], list[int]]) -> None:
        self.counts, self.log = state

async def main(shard):
    counts = await shard.start(Counts)
    counts.local.all = counts
    print(f"shard {shard.id} came by {shard.came_by}, incarnation {shard.incarnation}, "
          f"inherits {shard.inherits(Counts)}", flush=True)

    async def answer(words):
        to = shard.owner(words[1]) if len(words) > 1 else shard.id
        if words[0].startswith("@"):
            to, words = int(words[0][1:]), words[1:]
        match words:
            case ["hello"]:
                return f"{shard.id} hello"
            case ["who"]:
                return f"{shard.id} {os.getpid()} {shard.came_by}"
            case ["add", key]:
                return await counts.on(to).add(key)
            case ["slow", key, path]:
                return await counts.on(to).slow(key, path)
            case ["nested", key, seconds]:
                return await counts.on(to).nested(key, float(seconds))
            case ["get", key]:
                return await counts.on(to).get(key)
            case ["notes", path]:
                number = 0
                while not os.path.exists(path):
                    await counts.send(to, Counts.note, number)
                    number += 1
                    if number % 10 == 0:
                        await asyncio.sleep(0.002)
                return number
            case ["noted"]:
                return " ".join(map(str, await counts.on(to).noted()))
            case ["ticks", many]:
                got = []
                async for number in counts.on(to).ticks():
                    got.append(number)
                    if len(got) == int(many):
                        break
                return got[-1]

    async def handle(reader, writer):
        while line := await reader.readline():
            try:
                said = await answer(line.decode().split())
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            writer.write(f"{said}\\n".encode())
            await writer.drain()

    await shard.start_server(handle)
    await shard.wait_stopped()
"""

HAND_OVER = COUNTS[COUNTS.index("    async def hand_over") : COUNTS.index("async def main")]

# The same state, in parts.
PARTS = """
    async def hand_over(self) -> AsyncIterator[Part]:
        for key, count in self.counts.items():
            yield Part(key, count)
        yield Part(log=self.log)

    async def take_over(self, parts: AsyncIterator[Part]) -> None:
        async for part in parts:
            if part.key is None:
                self.log = part.log
            else:
                self.counts[part.key] = part.count

"""
IN_PARTS = COUNTS.replace(HAND_OVER, PARTS)


def write(directory: Path, source: str) -> None:
    """At once: a shard may be starting."""
    (directory / "app.new").write_text(source)
    os.replace(directory / "app.new", directory / "app.py")


class Journal(Threads):
    """Clients that each count up keys of their own, again and again while the block runs, and write down what they were told.
    A key's numbers follow each other, whatever is replaced meanwhile: one that is missing was acknowledged and lost, one that
    comes twice was done and lost."""

    def __init__(self, server: Server, clients: int = 3, keys: int = 8) -> None:
        super().__init__(*(partial(self._run, [f"{client}-{key}" for key in range(keys)]) for client in range(clients)))
        self.acknowledged: dict[str, int] = {}
        self.wrong: list[str] = []
        self._server = server

    def _run(self, keys: list[str]) -> None:
        for key in itertools.cycle(keys):
            if self.over.wait(0.003):
                return
            try:
                with self._server.connect() as client:
                    said = ask(client, f"add {key}".encode()).decode()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            expected = self.acknowledged.get(key, 0) + 1
            if said != str(expected):
                self.wrong.append(f"{key}: {said}, and not {expected}")
                if not said.isdecimal():
                    continue
            self.acknowledged[key] = int(said)

    def check(self) -> None:
        """Of a server that is there: it has all that it has acknowledged."""
        assert self.wrong == []
        assert self.acknowledged
        with self._server.connect() as client:
            for key, count in self.acknowledged.items():
                assert ask(client, f"get {key}".encode()) == b"%d" % count, key
