from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, Response, make_response, redirect, request, websocket

app = Quart(__name__, static_folder=os.environ["STATIC"], static_url_path="/static")
app.config["MAX_CONTENT_LENGTH"] = None
started = ""
done = asyncio.Event()


@app.before_serving
async def start() -> None:
    global started
    started = "started"


@app.after_serving
async def stop() -> None:
    print("the application has shut down", flush=True)


@app.get("/hello")
async def hello() -> Response:
    return Response("hello", mimetype="text/plain")


@app.get("/json")
async def json() -> dict[str, Any]:
    return {"number": 1, "text": "é"}


@app.post("/upload")
async def upload() -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    async for piece in request.body:
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.get("/stream")
async def stream() -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d " % number * 1_000
            await asyncio.sleep(0)

    return Response(pieces(), mimetype="application/octet-stream")


@app.get("/events")
async def events() -> Any:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"id: %d\ndata: event\n\n" % number
            await asyncio.sleep(0.01)

    response: Any = await make_response(pieces(), {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    response.timeout = None
    return response


@app.get("/state")
async def state() -> Response:
    return Response(started, mimetype="text/plain")


@app.get("/background")
async def background() -> Response:
    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    app.add_background_task(work)
    return Response("begun", mimetype="text/plain")


@app.get("/background-done")
async def background_done() -> Response:
    await done.wait()
    return Response("done", mimetype="text/plain")


@app.get("/fail")
async def fail() -> Response:
    raise LookupError("as it should")


@app.get("/redirect")
async def redirected() -> Any:
    return redirect("/hello?from=redirect", 303)


@app.get("/cookies")
async def cookies() -> Any:
    response: Any = await make_response(dict(request.cookies))
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2", max_age=60, expires=2_000_000_000)
    return response


@app.get("/headers")
async def headers() -> dict[str, list[str]]:
    return {name: request.headers.getlist(name) for name in ("accept", "x-twice", "user-agent", "content-type")}


@app.get("/address/<path:rest>")
async def address(rest: str) -> list[str]:
    return [request.method, request.scheme, request.path, request.query_string.decode(), request.http_version]


@app.get("/thread")
def thread() -> Response:
    return Response("from a thread", mimetype="text/plain")


@app.websocket("/socket")
async def socket() -> None:
    await websocket.accept(subprotocol="echo", headers={"x-socket": "yes"})
    while (text := await websocket.receive()) != "close":
        await websocket.send(text[::-1])
        await websocket.send(text.encode())
    await websocket.close(4000, "as asked")


@app.websocket("/no-socket")
async def no_socket() -> Any:
    return "no", 403
