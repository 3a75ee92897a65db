"""What the tests of the channel layer call on a shard. It is imported by the tests too, whose process has no Django project."""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

import clockworker as cw
from clockworker.http._mailboxes import office


class Layers:
    """For the tests: what the layers of one shard do, as Channels' users call them."""

    def __init__(self, shard: cw.Shard) -> None:
        self.shard = shard

    async def new_channel(self, prefix: str = "specific", layer: str = "default") -> str:
        return str(await get_channel_layer(layer).new_channel(prefix))

    async def send(self, channel: str, message: dict[str, Any], layer: str = "default") -> str:
        """Or the name of what is raised."""
        return await _name_of_error(get_channel_layer(layer).send(channel, message))

    async def receive(self, channel: str, within_s: float = 30.0, layer: str = "default") -> dict[str, Any] | str:
        try:
            async with asyncio.timeout(within_s):
                return dict(await get_channel_layer(layer).receive(channel))
        except Exception as error:
            return type(error).__name__

    async def waiting(self, channel: str) -> int:
        """How many wait here for a message of this channel."""
        box = office("channels").boxes._boxes.get(channel)
        return 0 if box is None else len(box.waiting)

    async def group_add(self, group: str, channel: str, layer: str = "default") -> str:
        return await _name_of_error(get_channel_layer(layer).group_add(group, channel))

    async def group_discard(self, group: str, channel: str, layer: str = "default") -> str:
        return await _name_of_error(get_channel_layer(layer).group_discard(group, channel))

    async def group_send(self, group: str, message: dict[str, Any], layer: str = "default") -> str:
        return await _name_of_error(get_channel_layer(layer).group_send(group, message))

    async def flush(self) -> str:
        return await _name_of_error(get_channel_layer().flush())

    async def send_from_a_thread(self, channel: str, message: dict[str, Any]) -> None:
        await asyncio.to_thread(async_to_sync(get_channel_layer().send), channel, message)

    async def receive_in_a_thread(self, channel: str) -> dict[str, Any]:
        return dict(await asyncio.to_thread(async_to_sync(get_channel_layer().receive), channel))

    @cw.remote
    async def nothing(self) -> None:
        """A service has one."""


async def _name_of_error(work: Any) -> str:
    try:
        await work
    except Exception as error:
        return type(error).__name__
    return ""
