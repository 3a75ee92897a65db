"""The application of the tests of what nodes and their callers do to each other. A line is asked, a line is answered.

view            epoch, and the nodes
others          places of the other nodes' shards
call P NAME     this method of the shard there, with nothing
big P BYTES     send and get back so many
later P         what is answered there once it is told to (`call P answer`)
waits P         how many such calls there are
hold P          open a stream of large items there, take one, and no more
held P          how many items streams have produced there, and how many of those streams go on
storm P ROUNDS  calls there that are given up after some microseconds, 100 at a time: how many were given up, and how many of
                them go on there
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import clockworker as cw

ITEM = 64 * 1024


class Hostile:
    def __init__(self, shard: cw.Shard) -> None:
        self.produced = 0
        self.open = 0
        self.hanging = 0
        self.later = 0
        self.is_time = asyncio.Event()

    @cw.remote
    async def ping(self) -> str:
        return "pong"

    @cw.remote
    async def echo(self, data: bytes) -> bytes:
        return data

    @cw.remote
    async def items(self) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            while True:
                self.produced += 1
                yield bytes(ITEM)
        finally:
            self.open -= 1

    @cw.remote
    async def hang(self) -> None:
        self.hanging += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.hanging -= 1

    @cw.remote
    async def wait(self) -> str:
        self.later += 1
        await self.is_time.wait()
        return "answered"

    @cw.remote
    async def waiting(self) -> int:
        return self.later

    @cw.remote
    async def answer(self) -> str:
        self.is_time.set()
        return "answered"

    @cw.remote
    async def figures(self) -> tuple[int, int, int]:
        return self.produced, self.open, self.hanging

    if os.environ.get("RELEASE") == "2":

        @cw.remote
        async def changed(self, number: str = "2") -> str:
            return number

        @cw.remote
        async def added(self) -> str:
            return "added"

    else:

        @cw.remote
        async def changed(self, number: int = 1) -> int:
            return number


async def main(shard: cw.Shard) -> None:
    hostile = await shard.start(Hostile)
    held: list[AsyncIterator[bytes]] = []

    async def give_up(place: int) -> int:
        call = asyncio.ensure_future(hostile.on(place).hang())
        await asyncio.sleep(random.choice([0, 0, 0.0001, 0.001, 0.01]))
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            return 1
        return 0

    async def answer(word: str, rest: list[str]) -> str:
        assert shard.cluster is not None
        match word, rest:
            case "view", []:
                return f"{shard.cluster.epoch} {' '.join(sorted(shard.cluster.nodes))}"
            case "others", []:
                return " ".join(str(int(place)) for place in hostile.others)
            case "call", [place, name]:
                return str(await getattr(hostile.on(int(place)), name)())
            case "big", [place, size]:
                data = random.randbytes(int(size))
                return "same" if await hostile.on(int(place)).echo(data) == data else "another"
            case "later", [place]:
                return await hostile.on(int(place)).wait()
            case "waits", [place]:
                return str(await hostile.on(int(place)).waiting())
            case "hold", [place]:
                stream = aiter(hostile.on(int(place)).items())
                held.append(stream)
                return str(len(await anext(stream)))
            case "held", [place]:
                produced, streams, _ = await hostile.on(int(place)).figures()
                return f"{produced} {streams}"
            case "storm", [place, rounds]:
                given_up = 0
                for _ in range(int(rounds)):
                    given_up += sum(await asyncio.gather(*(give_up(int(place)) for _ in range(100))))
                while (hanging := (await hostile.on(int(place)).figures())[2]) and given_up:
                    await asyncio.sleep(0.01)
                return f"{given_up} {hanging}"
        return "?"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            word, *rest = line.split()
            try:
                said = await answer(word, rest)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            writer.write(f"{said}\n".encode())
            await writer.drain()

    await shard.start_server(serve)
    await shard.wait_stopped()
