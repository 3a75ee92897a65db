"""An aiohttp server and its client do the same with an executor as without."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.ecosystem.conftest import Compare


async def _echo(request: web.Request) -> web.Response:
    return web.json_response({"path": request.path, "body": (await request.read()).decode()})


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(50):
        await response.write(b"%d," % number)
        await asyncio.sleep(0)
    await response.write_eof()
    return response


async def _fail(request: web.Request) -> web.Response:
    raise LookupError("as it should")


async def _hang(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def _socket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data[::-1])
    return socket


def test_client_and_server(compare: Compare, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiohttp")  # the traceback of _fail is meant

    async def body() -> list[Any]:
        app = web.Application()
        app.router.add_post("/echo/{name}", _echo)
        app.router.add_get("/stream", _stream)
        app.router.add_get("/fail", _fail)
        app.router.add_get("/hang", _hang)
        app.router.add_get("/socket", _socket)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        results: list[Any] = []
        try:
            async with aiohttp.ClientSession(f"http://{host}:{port}") as session:

                async def echo(number: int) -> Any:
                    async with session.post(f"/echo/{number}", data=str(number) * 10_000) as response:
                        return response.status, await response.json()

                results += await asyncio.gather(*(echo(number) for number in range(20)))
                async with session.get("/stream") as response:
                    results.append(await response.text())
                async with session.get("/fail") as response:
                    results.append(response.status)
                with pytest.raises(TimeoutError):
                    await session.get("/hang", timeout=aiohttp.ClientTimeout(total=0.05))
                async with session.ws_connect("/socket") as socket:
                    for word in ("one", "two"):
                        await socket.send_str(word)
                        results.append(await socket.receive_str())
        finally:
            await runner.cleanup()
        return results

    results = compare(body)
    assert results[:20] == [(200, {"path": f"/echo/{n}", "body": str(n) * 10_000}) for n in range(20)]
    assert results[20:] == ["".join(f"{n}," for n in range(50)), 500, "eno", "owt"]
