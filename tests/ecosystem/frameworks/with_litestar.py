from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, MediaType, Request, Response, WebSocket, get, head, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import Cookie
from litestar.exceptions import WebSocketDisconnect
from litestar.response import Redirect, ServerSentEvent, Stream
from litestar.static_files import create_static_files_router

done = asyncio.Event()


@contextlib.asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.started = "started"
    yield
    print("the application has shut down", flush=True)


@get("/hello", media_type=MediaType.TEXT)
async def hello() -> str:
    return "hello"


@head("/hello", media_type=MediaType.TEXT)
async def hello_head() -> None:
    return None


@get("/json")
async def json() -> dict[str, Any]:
    return {"number": 1, "text": "é"}


@post("/upload", request_max_body_size=None)
async def upload(request: Request[Any, Any, Any]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@get("/stream")
async def stream() -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d " % number * 1_000
            await asyncio.sleep(0)

    return Stream(pieces(), media_type="application/octet-stream")


@get("/events", sync_to_thread=False)
def events() -> ServerSentEvent:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield f"event {number}"
            await asyncio.sleep(0.01)

    return ServerSentEvent(pieces())


@get("/state", media_type=MediaType.TEXT)
async def state(request: Request[Any, Any, Any]) -> str:
    started: str = request.app.state.started
    return started


@get("/background", media_type=MediaType.TEXT)
async def background() -> Response[str]:
    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    return Response("begun", background=BackgroundTask(work))


@get("/background-done", media_type=MediaType.TEXT)
async def background_done() -> str:
    await done.wait()
    return "done"


@get("/fail")
async def fail() -> None:
    raise LookupError("as it should")


@get("/redirect", status_code=303)
async def redirect() -> Redirect:
    return Redirect("/hello?from=redirect", status_code=303)


@get("/cookies")
async def cookies(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
    set_ones = [Cookie("one", "1", httponly=True), Cookie("two", "2", max_age=60)]
    return Response(dict(request.cookies), cookies=set_ones)


@get("/headers")
async def headers(request: Request[Any, Any, Any]) -> dict[str, list[str]]:
    return {name: request.headers.getall(name, []) for name in ("accept", "x-twice", "user-agent", "content-type")}


@get("/address/{rest:path}")
async def address(request: Request[Any, Any, Any], rest: str) -> list[str]:
    url = request.url
    return [request.method, url.scheme, url.path, url.query, request.scope["http_version"]]


@get("/thread", sync_to_thread=True, media_type=MediaType.TEXT)
def thread() -> str:
    return "from a thread"


@websocket("/socket")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept(subprotocols="echo", headers={"x-socket": "yes"})
    try:
        while (text := await socket.receive_text()) != "close":
            await socket.send_text(text[::-1])
            await socket.send_bytes(text.encode())
        await socket.close(4000, "as asked")
    except WebSocketDisconnect:
        pass


@websocket("/no-socket")
async def no_socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.close()


app = Litestar(
    route_handlers=[
        *(hello, hello_head, json, upload, stream, events, state, background, background_done, fail, redirect),
        *(cookies, headers, address, thread, socket, no_socket),
        create_static_files_router(path="/static", directories=[os.environ["STATIC"]]),
    ],
    lifespan=[lifespan],
    openapi_config=None,
)
