"""Notices: what is published on one shard reaches everybody who listens, on all of them, by a topic.

Who listens (a WebSocket, an event stream) has a queue of its own, so that a slow one keeps nobody waiting; one that is
too slow for it is sent away.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import clockworker as cw

WAITING = 256  # notices for one who does not take them; one more, and the stream ends


@dataclass(frozen=True)
class Notice:
    """shard: where it was published."""

    text: str
    shard: int


class Notices:
    """On each shard: those who listen there."""

    def __init__(self, shard: cw.Shard) -> None:
        self._shard = shard
        self._topic = shard.topic("notices", Notice)
        self._listeners: set[cw.Subscription[Notice]] = set()
        self._stop: cw.JoinHandle[None] | None = None

    async def publish(self, text: str) -> None:
        await self._topic.publish(Notice(text, self._shard.id))

    @cw.remote
    async def listening(self) -> int:
        return self._topic.subscribers

    @contextlib.asynccontextmanager
    async def listener(self) -> AsyncIterator[AsyncIterator[Notice]]:
        """One who listens while the block lasts: iterate over it. When the shard stops all are sent away, since an event stream
        has no end of its own, and the stop would wait for it."""
        async with self._topic.subscribe(limit=WAITING) as listener:
            self._listeners.add(listener)
            if self._stop is None:
                # Not before: to wait for the stop is to say that this shard is ready.
                self._stop = self._shard.executor.queues()[0].spawn(self._send_away_at_stop(), name="send away")
            try:
                yield _until_too_slow(listener)
            finally:
                self._listeners.remove(listener)

    async def _send_away_at_stop(self) -> None:
        await self._shard.wait_stopped()
        for listener in self._listeners:
            listener.close()


async def _until_too_slow(listener: cw.Subscription[Notice]) -> AsyncIterator[Notice]:
    with contextlib.suppress(cw.Lagged):
        async for notice in listener:
            yield notice
