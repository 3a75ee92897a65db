from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

done = asyncio.Event()


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"started": "started"}
    print("the application has shut down", flush=True)


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def json(request: Request) -> Response:
    return JSONResponse({"number": 1, "text": "é"})


async def upload(request: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return JSONResponse({"size": size, "sha256": digest.hexdigest()})


async def stream(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d " % number * 1_000
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def events(request: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield f"id: {number}\ndata: event\n\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def state(request: Request) -> Response:
    return PlainTextResponse(request.state.started)


async def background(request: Request) -> Response:
    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    return PlainTextResponse("begun", background=BackgroundTask(work))


async def background_done(request: Request) -> Response:
    await done.wait()
    return PlainTextResponse("done")


async def fail(request: Request) -> Response:
    raise LookupError("as it should")


async def redirect(request: Request) -> Response:
    return RedirectResponse("/hello?from=redirect", 303)


async def cookies(request: Request) -> Response:
    response = JSONResponse(request.cookies)
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2", max_age=60)
    return response


async def headers(request: Request) -> Response:
    names = ("accept", "x-twice", "user-agent", "content-type")
    return JSONResponse({name: request.headers.getlist(name) for name in names})


async def address(request: Request) -> Response:
    url = request.url
    return JSONResponse([request.method, url.scheme, url.path, url.query, request.scope["http_version"]])


async def thread(request: Request) -> Response:
    return PlainTextResponse(await asyncio.to_thread(lambda: "from a thread"))


async def socket(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="echo", headers=[(b"x-socket", b"yes")])
    try:
        while (text := await websocket.receive_text()) != "close":
            await websocket.send_text(text[::-1])
            await websocket.send_bytes(text.encode())
        await websocket.close(4000, "as asked")
    except WebSocketDisconnect:
        pass


async def no_socket(websocket: WebSocket) -> None:
    await websocket.close()


app = Starlette(
    routes=[
        Route("/hello", hello),
        Route("/json", json),
        Route("/upload", upload, methods=["POST"]),
        Route("/stream", stream),
        Route("/events", events),
        Route("/state", state),
        Route("/background", background),
        Route("/background-done", background_done),
        Route("/fail", fail),
        Route("/redirect", redirect),
        Route("/cookies", cookies),
        Route("/headers", headers),
        Route("/address/{rest:path}", address),
        Route("/thread", thread),
        WebSocketRoute("/socket", socket),
        WebSocketRoute("/no-socket", no_socket),
        Mount("/static", StaticFiles(directory=os.environ["STATIC"])),
    ],
    lifespan=lifespan,
)
