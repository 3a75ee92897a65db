"""The application of the tests of whole nodes: the same file on each. A line is asked, a line is answered.

count KEY      add one to the key's counter, wherever it is: its number, and who has counted
where KEY      the shard that owns it
view           epoch, and the nodes
echo PLACE X   from that shard
all            which shards answer
slow PLACE S   from that shard, after so many seconds
storm PLACE F  calls of it until there is that file, 16 at a time, and 16 more: how many were answered, by how many processes,
               and what others ended in
sub            answers with each message that is published from now on
pub X          publish
"""

from __future__ import annotations

import asyncio
import os

import msgspec

import clockworker as cw


class Counted(msgspec.Struct):
    number: int
    node: str
    shard: int
    epoch: int


class Counters:
    def __init__(self, shard: cw.Shard) -> None:
        self.shard = shard
        self.counters: dict[str, int] = {}
        self.moved: list[tuple[int, int, int]] = []

    @cw.remote
    async def add(self, key: str) -> Counted:
        cluster = self.shard.cluster
        self.counters[key] = self.counters.get(key, 0) + 1
        return Counted(
            self.counters[key], cluster.node if cluster else "", self.shard.id, cluster.epoch if cluster else 0
        )

    @cw.remote
    async def echo(self, text: str) -> str:
        return f"{text} from {self.shard.place}"

    @cw.remote
    async def slow(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return self.shard.incarnation

    async def partitions_moved(self, gained: frozenset[int], lost: frozenset[int], epoch: int) -> None:
        self.moved.append((len(gained), len(lost), epoch))


async def storm(counters: cw.Sharded[Counters], place: int, file: str) -> str:
    answers: list[int] = []
    errors: list[str] = []

    async def call() -> None:
        over = False
        while not over:
            over = os.path.exists(file)  # noqa: ASYNC240
            try:
                answers.append(await counters.on(place).slow(0.001))
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(call() for _ in range(16)))
    return f"{len(answers)} by {sorted(set(answers))} errors {errors[:3]}"


async def main(shard: cw.Shard) -> None:
    counters = await shard.start(Counters)
    topic = shard.topic("news", str)

    async def answer(line: str) -> str:
        word, _, rest = line.partition(" ")
        match word:
            case "count":
                with cw.deadline(30):
                    done = await counters.of(rest).add(rest)
                return f"{done.number} {done.node} {done.shard} {done.epoch}"
            case "where":
                return str(int(shard.owner(rest)))
            case "view":
                assert shard.cluster is not None
                return f"{shard.cluster.epoch} {' '.join(sorted(shard.cluster.nodes))}"
            case "echo":
                place, _, text = rest.partition(" ")
                return await counters.on(int(place)).echo(text)
            case "slow":
                place, _, seconds = rest.partition(" ")
                return str(await counters.on(int(place)).slow(float(seconds)))
            case "storm":
                place, _, file = rest.partition(" ")
                return await storm(counters, int(place), file)
            case "all":
                places = [shard.id, *counters.others]
                return " | ".join(sorted(await asyncio.gather(*(counters.on(place).echo("x") for place in places))))
            case "moved":
                return str(counters.local.moved)
            case "pub":
                await topic.publish(rest)
                return "published"
        return "?"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            if line == "sub":
                async with topic.subscribe() as messages:
                    writer.write(b"subscribed\n")
                    async for message in messages:
                        writer.write(f"{message}\n".encode())
                        await writer.drain()
            try:
                said = await answer(line)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            writer.write(f"{said}\n".encode())
            await writer.drain()

    await shard.start_server(serve)
    await shard.wait_stopped()
