"""A channel layer for Django Channels, over the shards' rings: nothing runs beside the server.

    CHANNEL_LAYERS = {"default": {"BACKEND": "clockworker.http.channels.ChannelLayer"}}

    pip install 'clockworker[channels]'
    clockworker-serve site.asgi:application --shards 4

It does what the layer of channels_redis does: capacity (`ChannelFull` from `send`, silence from `group_send`), expiry of
messages and of members, order of each sender, and the extensions `groups` and `flush`. What differs: it is within one server,
so `runworker` and other processes do not reach it; a message that waits dies with its shard; and a consumer's channel holds
`capacity` messages of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from clockworker._errors import CallError
from clockworker.http._mailboxes import Office, Rules, flush, join, leave, office, put, take
from clockworker.shards.worker._current import current_shard
from clockworker.shards.worker._shard import Shard

__all__ = ["ChannelLayer"]

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class ChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """The `BACKEND`; its `CONFIG` may have:

    expiry: seconds that a message waits to be received.
    group_expiry: seconds that a channel stays in a group.
    capacity: messages that a channel holds. channel_capacity: the same for names that match a pattern.
    prefix: keeps two layers of one server apart.
    """

    extensions = ("groups", "flush")

    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86_400,
        capacity: int = 100,
        channel_capacity: dict[Any, int] | None = None,
        prefix: str = "channels",
    ) -> None:
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.group_expiry = group_expiry
        self.prefix = prefix

    async def new_channel(self, prefix: str = "specific") -> str:
        """The name of a channel of this process, which only it receives from. prefix: what the name begins with."""

        async def make(shard: Shard, here: Office) -> str:
            return here.own_channel(prefix.rstrip("."))

        return await self._at_home(make)

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send `message` to one channel. Raises Channels' `ChannelFull` if that holds as many as it may, and TypeError for a
        name that is none. To a process that is gone: nothing happens."""
        self._check(message)
        self.require_valid_channel_name(channel)
        body = _encode(message)

        async def send(shard: Shard, here: Office) -> None:
            if here.has(channel):
                has_room: bool | None = here.boxes.put(channel, body, self._rules(channel))
            else:
                has_room = await self._send_to(shard, here, channel, body)
            if has_room is False:
                raise ChannelFull(channel)

        await self._at_home(send)

    async def receive(self, channel: str) -> dict[str, Any]:
        """The next message of the channel; who has waited longest gets it."""
        self.require_valid_channel_name(channel)

        async def receive(shard: Shard, here: Office) -> bytes:
            if here.has(channel):
                return await here.boxes.take(channel)
            if "!" in channel:
                raise AssertionError(f"{channel!r} is a channel of another process, and is received from there alone")
            return await shard.call(shard.owner(channel), take, self.prefix, channel)

        return _decode(await self._at_home(receive))

    async def group_add(self, group: str, channel: str) -> None:
        """What is sent to the group from now on, by whomever, the channel gets. Raises TypeError for a name that is none."""
        self._check_names(group, channel)

        async def add(shard: Shard, here: Office) -> None:
            if here.has(channel):
                await here.join(group, channel, self._rules(channel))
            elif (place := _shard_of(shard, channel)) is not None:
                await shard.call(place, join, self.prefix, group, channel, self._rules(channel))

        await self._at_home(add)

    async def group_discard(self, group: str, channel: str) -> None:
        """Take the channel out. Nothing happens if it is not in the group. Raises TypeError for a name that is none."""
        self._check_names(group, channel)

        async def discard(shard: Shard, here: Office) -> None:
            if here.has(channel):
                here.leave(group, channel)
            elif (place := _shard_of(shard, channel)) is not None:
                await shard.call(place, leave, self.prefix, group, channel)

        await self._at_home(discard)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send `message` to all channels of the group, on all shards. Those that are full do not get it. Raises TypeError as
        `send` does."""
        self._check(message)
        self.require_valid_group_name(group)
        body = _encode(message)

        async def send(shard: Shard, here: Office) -> None:
            await here.topic(group).publish(body)

        await self._at_home(send)

    async def flush(self) -> None:
        """Forget all messages and groups, on all shards."""

        async def forget(shard: Shard, here: Office) -> None:
            await asyncio.gather(*(shard.call(place, flush, self.prefix) for place in range(shard.count)))

        await self._at_home(forget)

    async def close(self) -> None:
        """There is nothing to close."""

    async def _send_to(self, shard: Shard, here: Office, channel: str, body: bytes) -> bool | None:
        place = _shard_of(shard, channel)
        if place is None:
            return None
        rules = self._rules(channel)
        found: bool | None = None
        try:
            found = await shard.call(place, put, self.prefix, channel, body, rules)
        except CallError:
            if "!" not in channel:
                raise
        if found is None and "!" in channel:
            # It may be of an incarnation that is being replaced: calls go to its successor, topics to both.
            mark = ".".join(channel.partition("!")[0].rsplit(".", 2)[1:])
            await here.topic_of(mark).publish((channel, body, rules))
        return found

    def _rules(self, channel: str) -> Rules:
        return Rules(self.get_capacity(channel), self.expiry, self.group_expiry)

    def _check(self, message: object) -> None:
        assert isinstance(message, dict), f"a message is a dict, and not {type(message).__name__}"

    def _check_names(self, group: str, channel: str) -> None:
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)

    async def _at_home(self, work: Callable[[Shard, Office], Coroutine[Any, Any, T]]) -> T:
        """Do it on the shard's loop. `async_to_sync` may have made another one, in a thread."""
        shard = current_shard()
        loop = shard._mesh.home.shared.loop

        async def at_home() -> T:
            return await work(shard, office(self.prefix))

        if asyncio.get_running_loop() is loop:
            return await at_home()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(at_home(), loop))


def _shard_of(shard: Shard, channel: str) -> int | None:
    """The shard that has its mailbox; None if the name is of no process of this server."""
    of_process, is_own, _ = channel.partition("!")
    if not is_own:
        return shard.owner(channel)
    match of_process.rsplit(".", 2):
        case [_, place, _] if place.isdecimal() and place.isascii() and int(place) < shard.count:
            return int(place)
    return None
