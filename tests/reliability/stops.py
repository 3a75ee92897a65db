"""Claims about what clients notice of a stop: of a server of streams, of one of protocols, and of aiohttp's."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import time
from contextlib import ExitStack
from typing import cast

import clockworker as cw
from clockworker.shards.testing import serving
from tests.reliability._checks import Result, Unavailable, check
from tests.reliability._load import HttpLoad, Load
from tests.reliability._server import main
from tests.reliability.processes import wait

AT_ONCE = 10  # slow clients of a server
PIECE = 100_000


def answer() -> bytes:
    """More than the buffers of a socket hold, and it tells whether it is whole."""
    body = os.urandom(6_000_000)
    return body + hashlib.sha256(body).digest()


def is_whole(answer: bytes) -> bool:
    return hashlib.sha256(answer[:-32]).digest() == answer[-32:]


async def streams(shard: cw.Shard) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(answer())
            if line == b"last\n":
                return

    await shard.start_server(handle)
    await shard.wait_stopped()


class Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(answer())
        if data == b"last\n":
            self._transport.close()


async def protocols(shard: cw.Shard) -> None:
    await shard.create_server(Answering)
    await shard.wait_stopped()


@check(
    "answers written before TERM or HUP: bytes lost 0, for slow clients within the grace", ci=20, release=1_000, pure=4
)
def answers_at_stop(trials: int) -> Result:
    """A trial is an answer. Every other one ends its connection; the others' clients could ask again."""
    size = 0
    for number in range(-(-trials // AT_ONCE)):
        application = (streams, protocols)[number % 2]
        how = (signal.SIGTERM, signal.SIGHUP)[number // 2 % 2]
        with serving(application, shards=2) as server, ExitStack() as opened:
            clients = [opened.enter_context(server.connect()) for _ in range(AT_ONCE)]
            for at, client in enumerate(clients):
                client.settimeout(60)
                client.sendall((b"last\n", b"more\n")[at % 2])
            for client in clients:
                client.recv(1, socket.MSG_PEEK)  # it is being written
            os.kill(server.supervisor_pid, how)
            wait(server, lambda: {signal.SIGTERM: "stopping", signal.SIGHUP: "HUP"}[how] in server.log, "it is told")  # noqa: B023
            for got in slowly(clients):
                assert is_whole(got), f"{application.__name__}, {how.name}: {len(got):,} bytes\n{server.log}"
                size += len(got)
            assert "killed" not in server.log, server.log
    return Result(trials, f"{size / 1e6:,.0f} MB to slow clients, whole")


def slowly(clients: list[socket.socket]) -> list[bytes]:
    """What each of them gets, a piece each now and then, until the ends of file."""
    got = {client: bytearray() for client in clients}
    left = list(clients)
    while left:
        time.sleep(0.005)
        for client in [*left]:
            piece = client.recv(PIECE)
            got[client] += piece
            if not piece:
                left.remove(client)
    return [bytes(each) for each in got.values()]


async def http(shard: cw.Shard) -> None:
    from aiohttp import web

    async def work(request: web.Request) -> web.Response:
        await asyncio.sleep(0.002)
        return web.Response(text=f"{os.getpid()} ok")

    application = web.Application()
    application.add_routes([web.get("/", work)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    assert runner.server is not None
    await shard.create_server(runner.server)
    await shard.wait_stopped()
    await runner.cleanup()


@check("HUP and TERM under load, of streams and of aiohttp: requests failed 0", ci=4, release=100, pure=2)
def requests_at_stop(trials: int) -> Result:
    """A trial is a HUP. Every other server accepts by itself, the others' shards do; each ends with a TERM."""
    try:
        import aiohttp  # noqa: F401
    except ModuleNotFoundError:
        raise Unavailable("aiohttp is not installed") from None
    each, answered = -(-trials // 4), 0
    for application, load_of in ((main, Load), (http, HttpLoad)):
        for distribution in ("kernel", "least-connections"):
            options = ["--distribution", distribution, "--timeout-graceful-shutdown", "30"]
            with (
                serving(application, shards=2, options=options) as server,
                load_of(server.address, 500, each=1) as load,
            ):
                wait(server, lambda: len(load.outcomes) > 100, "a steady load")
                for _ in range(each):
                    server.replace()
                status = server.stop()
                log = server.log  # which goes with it
                assert status == 0, f"exit status {status}\n{log}"
            assert not load.bad(), f"{application.__name__}, {distribution}: failed: {load.bad()}\n{log}"
            answered += len(load.outcomes)
    return Result(trials, f"{answered:,} requests, 0 failed")
