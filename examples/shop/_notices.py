"""Notices: what is published on one shard reaches everybody who listens, on all of them.

Who listens (a WebSocket, an event stream) has a queue of its own, so that a slow one keeps nobody waiting; one that is
too slow for it is sent away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import clockworker as cw

WAITING = 256  # notices for one who does not take them; one more, and the stream ends


@dataclass(frozen=True)
class Notice:
    """shard: where it was published."""

    text: str
    shard: int


class Listener:
    """Iterate over it for the notices that come. It ends when it is sent away."""

    def __init__(self) -> None:
        self._notices: asyncio.Queue[Notice | None] = asyncio.Queue()

    def put(self, notice: Notice) -> None:
        if self._notices.qsize() < WAITING:
            self._notices.put_nowait(notice)
        else:
            self.send_away()

    def send_away(self) -> None:
        self._notices.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Notice]:
        while (notice := await self._notices.get()) is not None:
            yield notice


class Notices:
    """On each shard: those who listen there."""

    def __init__(self, shard: cw.Shard) -> None:
        self._shard = shard
        self._listeners: set[Listener] = set()
        self._stop: cw.JoinHandle[None] | None = None

    async def publish(self, everywhere: cw.Sharded[Notices], text: str) -> None:
        # Whoever listens on a shard that is being replaced has to come back anyway.
        with contextlib.suppress(cw.ShardDied, cw.ShardDown):
            await everywhere.broadcast(Notices.deliver, Notice(text, self._shard.id))

    @cw.remote
    async def deliver(self, notice: Notice) -> None:
        for listener in self._listeners:
            listener.put(notice)

    @cw.remote
    async def listening(self) -> int:
        return len(self._listeners)

    @contextlib.contextmanager
    def listener(self) -> Iterator[Listener]:
        """One who listens while the block lasts. When the shard stops all are sent away, since an event stream has no end of
        its own, and the stop would wait for it."""
        listener = Listener()
        self._listeners.add(listener)
        if self._stop is None:
            # Not before: to wait for the stop is to say that this shard is ready.
            self._stop = self._shard.executor.queues()[0].spawn(self._send_away_at_stop(), name="send away")
        try:
            yield listener
        finally:
            self._listeners.remove(listener)

    async def _send_away_at_stop(self) -> None:
        await self._shard.wait_stopped()
        for listener in self._listeners:
            listener.send_away()
