"""An HTTP protocol without sockets: bytes in, bytes out, on a real loop. What is measured is the server, and not the kernel.

uvicorn's protocol runs as its `Server` would run it: its defaults, its `Date`, on uvloop. Clockworker's runs on uvloop with an
executor of three queues and a table of routes, since that is what one has it for.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import clockworker as cw
from bench._cachegrind import under_valgrind
from bench._http_raw import Application
from clockworker.executor._meter_cy import Meter
from clockworker.http._access import AccessLog
from clockworker.http._proxy import Proxies
from clockworker.http._routes import RouteTable
from clockworker.http._server import HttpServer
from clockworker.http._targets_cy import Target
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.config._http import HttpConfig, Route
from clockworker.shards.logs._logging import set_up_logging

Connect = Callable[[], asyncio.Protocol]
CLIENT = ("127.0.0.1", 50_000)
SERVER = ("127.0.0.1", 8_000)


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """With the headers that a client sends by itself."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    head += "Connection: keep-alive\r\nUser-Agent: bench/1.0\r\n"
    if body:
        head += f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"\r\n" + body


class Transport(asyncio.Transport):
    """Tells `written` what the protocol writes, and is never full."""

    def __init__(self, written: Callable[[bytes], None]) -> None:
        super().__init__({"peername": CLIENT, "sockname": SERVER})
        self._written = written
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._written(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 16_384, 65_536

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Asking:
    """One connection that asks the same again as soon as it has the answer, whose last bytes are known."""

    def __init__(self, connect: Connect, asked: bytes, end: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._asked = asked
        self._end = end
        self._left = 0
        self._first = b""
        self._done = self._loop.create_future()
        self._protocol = connect()
        self._protocol.connection_made(Transport(self._written))

    async def ask(self, times: int) -> None:
        """Raises SystemExit if the answers are not those of a success."""
        self._left = times
        self._done = self._loop.create_future()
        self._send()
        try:
            async with asyncio.timeout(600):  # under valgrind all is slow
                await self._done
        except TimeoutError:
            raise SystemExit(f"no answer to {self._asked!r}, but {self._first!r}") from None
        if not self._first.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{self._asked!r} was answered {self._first!r}")

    def close(self) -> None:
        self._protocol.connection_lost(None)

    def _send(self) -> None:
        self._protocol.data_received(self._asked)

    def _written(self, data: bytes) -> None:
        if len(self._first) < 4_096:
            self._first += data
        if not data.endswith(self._end):
            return
        self._left -= 1
        if self._left:
            # A reader's callback has the connection's context, not that of the task that wrote.
            self._loop.call_soon(self._send, context=self._context)
        elif not self._done.done():
            self._done.set_result(None)


@contextlib.asynccontextmanager
async def uvicorn_in_process(app: Application, access_log: bool) -> AsyncIterator[Connect]:
    config = uvicorn.Config(app, loop="none", lifespan="off", http="httptools", access_log=access_log)
    config.load()
    server = uvicorn.Server(config)
    await server.on_tick(0)  # sets the headers that each response has
    state: dict[str, Any] = {}
    yield lambda: HttpToolsProtocol(config, server.server_state, state)


ROUTES = (
    Route("/reports/*", queue="background"),
    Route("/users/{name}", queue="foreground", methods=("GET",)),
    Route("/heavy", queue="background"),
    Route("/solid", queue="background"),
    Route("/health", queue="internal"),
)  # none is about what `bench instructions` asks
QUEUES = {"foreground": 8, "background": 1, "internal": 1}


class NothingStolen(Meter):
    """After steps of more than 50 us an executor asks the kernel what others had of them. Most requests' are shorter, but not
    under valgrind, where all take fifty times as long: there this stands in for the kernel."""

    def cpu_ns(self) -> int:
        return time.monotonic_ns()

    def ask(self, lost_ns: int) -> int:
        return 0


@contextlib.asynccontextmanager
async def clockworker_in_process(
    app: Application, access_log: bool, slice_s: float | None = None
) -> AsyncIterator[Connect]:
    """slice_s: of the queue that is preemptive then, the background's."""
    queues = [cw.Queue(name, share) for name, share in QUEUES.items()]
    if slice_s is not None:
        queues[1] = cw.Queue("background", QUEUES["background"], preemptive=True, slice=slice_s)
    async with cw.Executor(queues) as executor:
        if under_valgrind():
            executor._core.steal.meter = NothingStolen()
        targets = [Target(route.path, executor.queue(route.queue)) for route in ROUTES]
        targets.append(Target("other", executor.queues()[0]))
        config = HttpConfig()
        proxies = Proxies(config.forwarded_allow_ips)
        if access_log:
            sys.stderr = sys.stdout  # where uvicorn's goes
            set_up_logging("shard 0", ServeConfig("app:app"))
        yield HttpServer(
            app,
            config,
            state={},
            table=RouteTable(ROUTES),
            targets=targets,
            proxies=proxies,
            access_log=AccessLog(0) if access_log else None,
        ).factory


SIDES: dict[str, Callable[[Application, bool], contextlib.AbstractAsyncContextManager[Connect]]] = {
    "uvicorn": uvicorn_in_process,
    "clockworker": clockworker_in_process,
}
SLICE_S = 0.0005
PREEMPTIVE_SIDE = f"clockworker, slices of {SLICE_S * 1e3:g} ms"
