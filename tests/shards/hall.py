"""An application for the tests of topics: every shard publishes numbers without end, if it is told to, and listens."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

import msgspec

import clockworker as cw


class Mark(msgspec.Struct, frozen=True):
    """publisher: shard and process. number: from 0."""

    publisher: str
    number: int
    text: str = "x" * 40


@dataclass
class Heard:
    """Of one publisher, by one listener: first and last number, how many, and how many were not the one after the last."""

    first: int
    last: int
    count: int = 0
    gaps: int = 0
    backwards: int = 0


class Report(msgspec.Struct):
    pid: int
    heard: dict[str, Heard]
    dropped: int
    lagged: bool


@dataclass
class Listener:
    heard: dict[str, Heard] = field(default_factory=dict)
    subscription: cw.Subscription[Mark] | None = None
    lagged: bool = False
    order: list[str] = field(default_factory=list)  # publisher and number of each, if KEEP is in the environment


class Hall:
    """PUBLISH and LISTEN in the environment name the shards that do."""

    def __init__(self, shard: cw.Shard) -> None:
        self.shard = shard
        self.ordered = "ORDERED" in os.environ
        self.topic = shard.topic("marks", Mark, ordered=self.ordered)
        self.listener = Listener()
        self.published = 0
        self.name = f"{shard.id}:{os.getpid()}"
        self.stopped = False

    async def listen(self, entered: asyncio.Event) -> None:
        listener = self.listener
        try:
            async with self.topic.subscribe(limit=50_000) as marks:
                listener.subscription = marks
                entered.set()
                async for mark in marks:
                    if "KEEP" in os.environ:
                        listener.order.append(f"{mark.publisher} {mark.number}")
                    found = listener.heard.get(mark.publisher)
                    if found is None:
                        found = listener.heard[mark.publisher] = Heard(mark.number, mark.number - 1)
                    found.count += 1
                    found.gaps += mark.number > found.last + 1
                    found.backwards += mark.number <= found.last
                    found.last = mark.number
        except cw.Lagged:
            listener.lagged = True

    async def publish(self) -> None:
        while not self.stopped:
            for _ in range(20):
                number, self.published = self.published, self.published + 1
                await self.topic.publish(Mark(self.name, number))
            await asyncio.sleep(0.001)
        print(f"published {self.published} by {self.name}", flush=True)

    @cw.remote
    async def report(self) -> Report:
        listener = self.listener
        dropped = 0 if listener.subscription is None else listener.subscription.dropped
        return Report(os.getpid(), listener.heard, dropped, listener.lagged)

    @cw.remote
    async def counted(self) -> dict[str, int]:
        return msgspec.structs.asdict(self.topic.stats())

    @cw.remote
    async def order(self) -> list[str]:
        return self.listener.order

    @cw.remote
    async def is_copied(self) -> bool:
        """Whether a message arrives as it would on another shard."""
        sent = Mark("copied", 1)
        async with self.shard.topic("copies", Mark).subscribe() as marks:
            await self.shard.topic("copies", Mark).publish(sent)
            found = await anext(marks)
        assert found == sent
        return found is not sent

    @cw.remote
    async def stop_publishing(self) -> int:
        self.stopped = True
        return self.published


async def main(shard: cw.Shard) -> None:
    hall = (await shard.start(Hall)).local
    queue = shard.executor.queues()[0]
    if str(shard.id) in os.environ.get("LISTEN", ""):
        entered = asyncio.Event()
        queue.spawn(hall.listen(entered))
        await entered.wait()
    publishing = None
    if str(shard.id) in os.environ.get("PUBLISH", ""):
        publishing = queue.spawn(hall.publish())
    await shard.wait_stopped()
    hall.stopped = True
    if publishing is not None:
        await publishing
