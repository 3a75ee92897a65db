"""Applications for HTTP benchmarks as users write them: JSON by Starlette, a body checked by pydantic in FastAPI."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bench._http_raw import Receive, Scope, Send
from bench._http_raw import app as raw_app

ORDER = b'{"name":"clock","price":12.5,"tags":["brass","spring"]}'
ORDERED = b'{"name":"clock","price":12.5,"tags":["brass","spring"],"total":15.0}'


class Order(BaseModel):
    name: str
    price: float
    tags: list[str]


class Priced(Order):
    total: float


async def hello(request: Request) -> JSONResponse:
    return JSONResponse({"message": "Hello, World!"})


starlette_app = Starlette(routes=[Route("/starlette", hello)])
fastapi_app = FastAPI(openapi_url=None)


@fastapi_app.post("/fastapi")
async def order(order: Order) -> Priced:
    return Priced(name=order.name, price=order.price, tags=order.tags, total=order.price * 1.2)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """All of them, and those of no framework, by path."""
    path = scope.get("path")
    if path == "/starlette":
        await starlette_app(scope, receive, send)
    elif path == "/fastapi":
        await fastapi_app(scope, receive, send)
    else:
        await raw_app(scope, receive, send)
