"""A Django project with Channels in one file: a consumer of WebSockets, and views that send to it."""

from __future__ import annotations

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
from tests.ecosystem.channels_layers import Layers

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


async def main(shard: cw.Shard) -> None:
    await shard.start(Layers)
    await shard.serve_asgi(app)
