"""A Django project with Channels in one file: a consumer of WebSockets, and views that send to it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import django
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

import clockworker as cw

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "clockworker.http.channels.ChannelLayer",
            "CONFIG": {"capacity": 3, "channel_capacity": {"one": 1}},
        },
        "short": {
            "BACKEND": "clockworker.http.channels.ChannelLayer",
            "CONFIG": {"expiry": 0.2, "group_expiry": 0.2, "prefix": "short"},
        },
    },
)
django.setup()


class Room(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send(json.dumps([cw.current_shard().id, self.channel_name]))

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(self.room, {"type": "room.said", "text": text_data})

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])


def say(request: HttpRequest, room: str) -> JsonResponse:
    """An ordinary view, in a thread."""
    async_to_sync(get_channel_layer().group_send)(room, {"type": "room.said", "text": request.GET["text"]})
    return JsonResponse(cw.current_shard().id, safe=False)


async def tell(request: HttpRequest, channel: str) -> JsonResponse:
    """To one consumer, on whatever shard it is."""
    await get_channel_layer().send(channel, {"type": "room.said", "text": request.GET["text"]})
    return JsonResponse(cw.current_shard().id, safe=False)


urlpatterns = [path("say/<room>", say), path("tell/<channel>", tell)]
http = get_asgi_application()
app = ProtocolTypeRouter({"http": http, "websocket": URLRouter([path("rooms/<room>", Room.as_asgi())])})


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


async def main(shard: cw.Shard) -> None:
    await shard.start(Layers)
    await shard.serve_asgi(app)
