"""A python-socketio server for the tests of its manager: what clients ask for is done on whatever shard they have come to."""

from __future__ import annotations

from typing import Any

import socketio

import clockworker as cw
from clockworker.http.socketio import TopicManager

sio = socketio.AsyncServer(async_mode="asgi", client_manager=TopicManager(), logger=False)
app = socketio.ASGIApp(sio)


@sio.event
async def where(sid: str) -> list[Any]:
    return [cw.current_shard().id, sid]


@sio.event
async def join(sid: str, room: str, whom: str | None = None) -> None:
    await sio.enter_room(whom or sid, room)


@sio.event
async def leave(sid: str, room: str, whom: str | None = None) -> None:
    await sio.leave_room(whom or sid, room)


@sio.event
async def close(sid: str, room: str) -> None:
    await sio.close_room(room)


@sio.event
async def say(sid: str, room: str | None, data: Any, but_me: bool = False) -> None:
    await sio.emit("said", data, room=room, skip_sid=sid if but_me else None)


@sio.event
async def say_two(sid: str, room: str, one: Any, two: Any) -> None:
    await sio.emit("said two", (one, two), room=room)


@sio.event
async def ask(sid: str, whom: str, question: str) -> Any:
    """The other client's answer."""
    return await sio.call("question", question, to=whom, timeout=30)


@sio.event
async def throw_out(sid: str, whom: str) -> None:
    await sio.disconnect(whom)
