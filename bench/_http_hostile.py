"""The application of `bench hostile`: the light route of `bench mixed`, and what attacks ask for. Plain, and with TLS at the
address that is named `secure`, by the certificate of BENCH_CERTIFICATE (key included). With BENCH_TURNS the loop's turns are
watched (`_turns`), and GET /turns says what was seen since the last time."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator

import msgspec
from fastapi import Request, WebSocket
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

import clockworker as cw
from bench._http_mixed import app
from bench._turns import Turns

LARGE, READ, SOCKET, TURNS = "/large", "/read", "/socket", "/turns"
_PIECE, _PIECES = bytes(65_536), 1_000


@app.get(LARGE)
async def large() -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(_PIECES):
            yield _PIECE

    return StreamingResponse(pieces())


@app.post(READ)
async def read(request: Request) -> PlainTextResponse:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return PlainTextResponse(str(size))


@app.websocket(SOCKET)
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    async for _ in websocket.iter_bytes():
        pass


def watch(turns: Turns) -> None:
    @app.get(TURNS)
    async def look() -> Response:
        return Response(msgspec.json.encode(turns.look()), media_type="application/json")


async def main(shard: cw.Shard) -> None:
    if os.environ.get("BENCH_TURNS"):
        watch(Turns())
    plain = shard.serve_asgi(app)
    if certificate := os.environ.get("BENCH_CERTIFICATE"):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        context.set_alpn_protocols(["h2", "http/1.1"])
        await asyncio.gather(plain, shard.serve_asgi(app, bind="secure", ssl=context))
    else:
        await plain
