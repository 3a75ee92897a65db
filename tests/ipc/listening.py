"""What the tests of topics call on a shard: subscribe there, publish there, tell what was heard. Part of `Probe`."""

from __future__ import annotations

import asyncio

import msgspec

import clockworker as cw


class Line(msgspec.Struct, frozen=True):
    """publisher: the shard, or a task there. number: greater with each."""

    publisher: int
    number: int
    text: str = ""


class Listener:
    """One subscriber, in a task of its own."""

    def __init__(self, topic: cw.Topic[Line], limit: int, when_full: str) -> None:
        self.topic = topic
        self.subscription = topic.subscribe(limit=limit, when_full=when_full)  # type: ignore[arg-type]
        self.heard: list[Line] = []
        self.lagged: int | None = None
        self.entered = asyncio.get_running_loop().create_future()
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async with self.subscription as lines:
                self.entered.set_result(None)
                async for line in lines:
                    self.heard.append(line)
                    await self.may_read.wait()
        except cw.Lagged as error:
            self.lagged = error.dropped
        except Exception as error:
            if self.entered.done():
                raise
            self.entered.set_exception(error)


class Listening:
    """Of one shard: its listeners, by a name that the test gives."""

    mesh: cw.Mesh
    shard_id: int

    def __init__(self) -> None:
        self.listeners: dict[str, Listener] = {}

    def topic(self, name: str, ordered: bool) -> cw.Topic[Line]:
        return self.mesh.topics.topic(name, Line, ordered)

    @cw.remote(raises=(cw.SchemaMismatch,))
    async def listen(
        self, name: str, ordered: bool = False, limit: int = 10_000, when_full: str = "disconnect", key: str = ""
    ) -> None:
        """Returns when it is subscribed."""
        listener = self.listeners[key or name] = Listener(self.topic(name, ordered), limit, when_full)
        await listener.entered

    @cw.remote
    async def cease(self, key: str) -> None:
        listener = self.listeners.pop(key)
        listener.task.cancel()
        await asyncio.wait([listener.task])

    @cw.remote
    async def heard(self, key: str) -> list[Line]:
        return self.listeners[key].heard

    @cw.remote
    async def heard_count(self, key: str) -> int:
        return len(self.listeners[key].heard)

    @cw.remote
    async def lost(self, key: str) -> tuple[int, int | None]:
        """What the subscription has dropped, and what `Lagged` said."""
        return self.listeners[key].subscription.dropped, self.listeners[key].lagged

    @cw.remote
    async def may_read(self, key: str, may: bool) -> None:
        event = self.listeners[key].may_read
        if may:
            event.set()
        else:
            event.clear()

    @cw.remote
    async def publish(
        self, name: str, count: int, first: int = 0, ordered: bool = False, size: int = 0, publisher: int = -1
    ) -> None:
        topic = self.topic(name, ordered)
        for number in range(first, first + count):
            await topic.publish(Line(self.shard_id if publisher < 0 else publisher, number, "x" * size))

    @cw.remote
    async def counted(self, name: str) -> tuple[int, int, int, int]:
        found = self.mesh.topics.stats().get(name, cw.TopicStats(0, 0, 0, 0))
        return found.published, found.delivered, found.dropped, found.subscribers
