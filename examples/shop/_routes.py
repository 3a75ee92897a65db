"""What a browser asks for. Light routes run in the first queue; the report is marked for another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, HTTPException, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.requests import HTTPConnection

import clockworker as cw

from . import _report
from ._catalogue import CATALOGUE, Product
from ._notices import Notice
from ._served_by import ServedBy
from ._shop import Shop

PAGE = Path(__file__).with_name("page.html").read_text()
SESSION = "session"  # the cookie
LONGEST = 500  # characters of what is published

app = FastAPI(title="The clockmaker's shop")
app.add_middleware(ServedBy)


# What routes need. These are coroutines because FastAPI runs a plain function in a thread, which is in no queue.


async def find_shop(connection: HTTPConnection) -> Shop:
    shop: Shop = connection.state.shop  # what `main` gave to serve_asgi
    return shop


async def find_session(response: Response, session: Annotated[str | None, Cookie(max_length=64)] = None) -> str:
    if session is None:
        session = secrets.token_urlsafe(16)
        response.set_cookie(SESSION, session, httponly=True, samesite="lax")
    return session


OurShop = Annotated[Shop, Depends(find_shop)]
Session = Annotated[str, Depends(find_session)]


async def may_order(request: Request, shop: OurShop) -> None:
    client = request.client.host if request.client is not None else ""
    if wait_s := await shop.wait_s(client):
        raise HTTPException(429, "too many orders", {"Retry-After": str(math.ceil(wait_s))})


@app.exception_handler(cw.ShardDied)
@app.exception_handler(cw.ShardDown)
async def neighbour_is_away(request: Request, error: Exception) -> JSONResponse:
    """A shard that was asked has died, or is being started."""
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


# The shop.


@app.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.get("/products")
async def products() -> list[Product]:
    return [*CATALOGUE.values()]


@app.get("/cart")
async def cart(shop: OurShop, session: Session) -> dict[str, int]:
    return await shop.cart_of(session).cart(session)


@app.put("/cart/{product}")
async def put(
    product: str, count: Annotated[int, Query(ge=0, le=99)], shop: OurShop, session: Session
) -> dict[str, int]:
    if product not in CATALOGUE:
        raise HTTPException(404, f"there is no product {product!r}")
    return await shop.cart_of(session).put(session, product, count)


@app.post("/orders", status_code=201, dependencies=[Depends(may_order)])
async def order(shop: OurShop, session: Session) -> dict[str, int]:
    """Order what is in the cart."""
    ordered = await shop.cart_of(session).take(session)
    if not ordered:
        raise HTTPException(409, "the cart is empty")
    shop.orders.add()
    text = ", ".join(f"{count} x {CATALOGUE[product].name}" for product, count in ordered.items())
    await shop.publish(f"ordered: {text}")
    return ordered


@app.get("/reports/sales.csv")
@cw.queue("background", limit=2)
async def sales(days: Annotated[int, Query(ge=1, le=1_000_000)] = 365) -> StreamingResponse:
    return StreamingResponse(_report.sales(days), media_type="text/csv")


# Notices.


@app.get("/events")
async def events(shop: OurShop) -> StreamingResponse:
    """An event stream: what is published on any shard."""
    return StreamingResponse(_events(shop), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _events(shop: Shop) -> AsyncIterator[str]:
    async with shop.notices.local.listener() as listener:
        yield ": hello\n\n"
        async for notice in listener:
            yield f"data: {json.dumps(asdict(notice))}\n\n"


@app.websocket("/live")
async def live(socket: WebSocket, shop: OurShop) -> None:
    """The same, and what the browser says is published."""
    await socket.accept()
    async with shop.notices.local.listener() as listener, asyncio.TaskGroup() as tasks:
        passing_on = tasks.create_task(_pass_on(listener, socket))
        async for text in socket.iter_text():
            await shop.publish(text[:LONGEST])
        passing_on.cancel()


async def _pass_on(listener: AsyncIterator[Notice], socket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect):  # the browser has left
        async for notice in listener:
            await socket.send_json(asdict(notice))
        await socket.close(1013)  # "try again later"
