"""A client manager for python-socketio, over the shards' rings: clients of all shards are in the same rooms, and nothing runs
beside the server.

    import socketio
    from clockworker.http.socketio import TopicManager

    sio = socketio.AsyncServer(async_mode="asgi", client_manager=TopicManager())
    app = socketio.ASGIApp(sio)

    pip install 'clockworker[socketio]'
    clockworker-serve app:app --shards 4

`emit` to a room, to one client on whatever shard and to all, with acknowledgements (`callback=`, `sio.call`), `enter_room`,
`leave_room`, `close_room` and `disconnect` work across shards. Sessions (`sio.session`) are those of one shard, as they are
with every manager. Long polling needs all requests of a client to reach one shard: let clients use `transports=["websocket"]`,
or put a proxy with affinity before the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from socketio.async_pubsub_manager import AsyncPubSubManager

from clockworker.ipc import Topic
from clockworker.shards.worker._current import current_shard

__all__ = ["TopicManager"]

LIMIT = 10_000  # events that wait for a shard's listener


class TopicManager(AsyncPubSubManager):  # type: ignore[misc]
    """channel: name of the topic; managers with the same one belong together. write_only: emits, and has no clients itself.
    logger: as of python-socketio's other managers."""

    name = "clockworker"

    def __init__(self, channel: str = "socketio", write_only: bool = False, logger: Any = None) -> None:
        super().__init__(channel=channel, write_only=write_only, logger=logger)
        self._listens = asyncio.Event()

    async def _publish(self, data: dict[str, Any]) -> None:
        if data.get("callback") and not self.write_only:
            await self._until_listening()  # the answer comes by the same topic
        await self._topic().publish(data)

    async def _listen(self) -> AsyncIterator[dict[str, Any]]:
        async with self._topic().subscribe(limit=LIMIT, when_full="drop-oldest") as events:
            self._listens.set()
            async for event in events:
                yield event

    async def _until_listening(self) -> None:
        """A server begins to listen with its first client, and may emit before."""
        if not self.server.manager_initialized:
            self.server.manager_initialized = True
            self.initialize()
        await self._listens.wait()

    def _topic(self) -> Topic[dict[str, Any]]:
        return current_shard().topic(self.channel, dict[str, Any])
