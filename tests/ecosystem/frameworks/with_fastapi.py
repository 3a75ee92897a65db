from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Cookie, Depends, FastAPI, Header, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

done = asyncio.Event()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"started": "started"}
    print("the application has shut down", flush=True)


app = FastAPI(lifespan=lifespan)
app.mount("/static", StaticFiles(directory=os.environ["STATIC"]))


class Item(BaseModel):
    name: str
    price: float


@app.api_route("/hello", methods=["GET", "HEAD"], response_class=PlainTextResponse)
async def hello() -> str:
    return "hello"


@app.get("/json")
async def json() -> dict[str, Any]:
    return {"number": 1, "text": "é"}


@app.post("/upload")
async def upload(request: Request) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    async for piece in request.stream():
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.post("/model")
async def model(item: Item) -> Item:
    return Item(name=item.name.upper(), price=item.price * 2)


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d " % number * 1_000
            await asyncio.sleep(0)

    return StreamingResponse(pieces(), media_type="application/octet-stream")


@app.get("/events")
async def events() -> StreamingResponse:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield f"id: {number}\ndata: event\n\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@app.get("/state", response_class=PlainTextResponse)
async def state(request: Request) -> str:
    started: str = request.state.started
    return started


@app.get("/background", response_class=PlainTextResponse)
async def background(tasks: BackgroundTasks) -> str:
    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    tasks.add_task(work)
    return "begun"


@app.get("/background-done", response_class=PlainTextResponse)
async def background_done() -> str:
    await done.wait()
    return "done"


@app.get("/fail")
async def fail() -> None:
    raise LookupError("as it should")


@app.get("/redirect")
async def redirect() -> RedirectResponse:
    return RedirectResponse("/hello?from=redirect", 303)


@app.get("/cookies")
async def cookies(
    response: Response, a: Annotated[str | None, Cookie()] = None, b: Annotated[str | None, Cookie()] = None
) -> dict[str, str | None]:
    response.set_cookie("one", "1", httponly=True)
    response.set_cookie("two", "2", max_age=60)
    return {"a": a, "b": b}


@app.get("/headers")
async def headers(x_twice: Annotated[list[str], Header()], accept: Annotated[str | None, Header()] = None) -> list[Any]:
    return [x_twice, accept]


@app.get("/address/{rest:path}")
async def address(request: Request) -> list[str]:
    url = request.url
    return [request.method, url.scheme, url.path, url.query, request.scope["http_version"]]


def from_a_thread() -> str:
    return "from"


@app.get("/thread", response_class=PlainTextResponse)
def thread(word: Annotated[str, Depends(from_a_thread)]) -> str:
    return f"{word} a thread"


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="echo", headers=[(b"x-socket", b"yes")])
    try:
        while (text := await websocket.receive_text()) != "close":
            await websocket.send_text(text[::-1])
            await websocket.send_bytes(text.encode())
        await websocket.close(4000, "as asked")
    except WebSocketDisconnect:
        pass


@app.websocket("/no-socket")
async def no_socket(websocket: WebSocket) -> None:
    await websocket.close()
