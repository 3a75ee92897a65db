"""Light requests that arrive whether or not those before them are answered, beside heavy ones that are asked again and again.

On the process's own CPU clock: the protocol is driven in process, and the driver has a turn in each of the loop's. It gives the
protocol what has arrived by that clock, which goes on while anything runs, the driver's own looking included. So what else
the machine does is not seen at all: latencies are those of a core that the process has for itself.

Over sockets: one process that plans arrivals and sends each on a connection that is free, or a new one. Latencies run from
the planned time, so a client that is late counts against the server; how late it was is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable

import msgspec

from bench._http_in_process import Connect, Transport, request
from bench._http_mixed import DONE, HEAVY_CHUNKS, LIGHT, Work
from bench._report import percentile

HANGS_S = 60.0
_CONNECTIONS = 128  # for light requests


class Mix(msgspec.Struct, frozen=True):
    """heavy: how many heavy requests are under way all the time, to `path`. rate: light requests a second. What arrives in the
    first `warm_up_s` is not counted.
    """

    name: str
    heavy: int
    path: str
    rate: float
    warm_up_s: float
    duration_s: float
    seed: int

    def arrivals(self) -> list[float]:
        chance = random.Random(self.seed)
        times = []
        at_s = chance.expovariate(self.rate)
        while at_s < self.warm_up_s + self.duration_s:
            times.append(at_s)
            at_s += chance.expovariate(self.rate)
        return times


class Outcome(msgspec.Struct, frozen=True):
    """latencies_ms: of the light requests that were counted. heavy: heavy requests a second, by the work that was done.
    late_ms: by how much 1 % of the light ones were sent later than planned."""

    latencies_ms: list[float]
    heavy: float
    late_ms: float


class _Asking:
    """One connection in process, with one request at a time."""

    def __init__(self, connect: Connect, answered: Callable[[_Asking], None]) -> None:
        self.planned_ns = 0
        self.counted = False
        self._answered = answered
        self._protocol = connect()
        self._transport = Transport(self._written)
        self._protocol.connection_made(self._transport)

    @property
    def is_closed(self) -> bool:
        """By the server: on a busy machine a connection is idle for long by the wall's clock."""
        return self._transport.is_closing()

    def ask(self, what: bytes) -> None:
        self._protocol.data_received(what)

    def close(self) -> None:
        self._protocol.connection_lost(None)

    def _written(self, data: bytes) -> None:
        if data.endswith(DONE):
            self._answered(self)


class CpuClock:
    """Drives a mix on the process's CPU clock."""

    def __init__(self, connect: Connect, mix: Mix) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._connect = connect
        self._mix = mix
        self._light = request("GET", LIGHT)
        self._heavy = request("GET", mix.path)
        self._plan = deque(mix.arrivals())
        self._unanswered = len(self._plan)
        self._free: list[_Asking] = []
        self._all: list[_Asking] = []
        self._latencies_ms: list[float] = []
        self._late_ms: list[float] = []
        self._done = self._loop.create_future()
        self._all_answered = self._loop.create_future()
        self._heavy_asked = mix.heavy
        self._start_ns = 0

    async def run(self) -> Outcome:
        for _ in range(_CONNECTIONS):
            self._free.append(self._new(self._light_answered))
        self._start_ns = time.process_time_ns()
        chunks = Work.chunks
        for _ in range(self._mix.heavy):
            self._new(self._heavy_answered).ask(self._heavy)
        self._turn()
        async with asyncio.timeout(HANGS_S + 60 * (self._mix.warm_up_s + self._mix.duration_s)):
            await self._done
            elapsed_s = (time.process_time_ns() - self._start_ns) / 1e9
            heavy = (Work.chunks - chunks) / HEAVY_CHUNKS
            await self._all_answered
        for asking in self._all:
            asking.close()
        return Outcome(self._latencies_ms, heavy / elapsed_s, percentile(sorted(self._late_ms), 99))

    def _new(self, answered: Callable[[_Asking], None]) -> _Asking:
        asking = _Asking(self._connect, answered)
        self._all.append(asking)
        return asking

    def _free_one(self) -> _Asking:
        while self._free:
            asking = self._free.pop()
            if not asking.is_closed:
                return asking
        return self._new(self._light_answered)

    def _turn(self) -> None:
        """Once in each turn of the loop."""
        plan = self._plan
        elapsed_ns = time.process_time_ns() - self._start_ns
        while plan and plan[0] * 1e9 <= elapsed_ns:
            at_s = plan.popleft()
            asking = self._free_one()
            asking.planned_ns = self._start_ns + int(at_s * 1e9)
            asking.counted = at_s >= self._mix.warm_up_s
            self._late_ms.append((elapsed_ns / 1e9 - at_s) * 1e3)
            asking.ask(self._light)
        if not self._done.done():
            self._loop.call_soon(self._turn, context=self._context)

    def _light_answered(self, asking: _Asking) -> None:
        if asking.counted:
            self._latencies_ms.append((time.process_time_ns() - asking.planned_ns) / 1e6)
        self._free.append(asking)
        self._unanswered -= 1
        if not self._unanswered and not self._done.done():
            self._done.set_result(None)
            if not self._mix.heavy:
                self._all_answered.set_result(None)

    def _heavy_answered(self, asking: _Asking) -> None:
        if not self._done.done():
            self._loop.call_soon(asking.ask, self._heavy, context=self._context)
        else:
            self._heavy_left()

    def _heavy_left(self) -> None:
        self._heavy_asked -= 1
        if self._heavy_asked <= 0 and not self._all_answered.done():
            self._all_answered.set_result(None)


class OverSockets:
    """Drives a mix as a client of a server, with so many connections for light requests as a proxy may keep. When all have a
    request, further ones wait here, and their time counts. A connection that the server closes is replaced, and what was
    asked on it is asked again."""

    def __init__(self, port: int, mix: Mix) -> None:
        self._port = port
        self._mix = mix
        self._light = request("GET", LIGHT)
        self._heavy = request("GET", mix.path)
        self._length = len(_answer(port, self._light))
        self._poll = select.epoll()
        self._open: dict[int, socket.socket] = {}
        self._received: dict[int, int] = {}  # bytes of the answer, by descriptors of connections that wait for one
        self._planned: dict[int, float] = {}  # the light ones among them
        self._waiting: deque[float] = deque()  # light requests, by their planned times, for a connection
        self._free = deque(self._connect() for _ in range(_CONNECTIONS))
        self._start = 0.0
        self._latencies_ms: list[float] = []
        self._late_ms: list[float] = []
        self._is_over = False  # no heavy ones are asked again
        self._heavy_done = 0
        self._last = 0.0  # when the last heavy one was

    def run(self) -> Outcome:
        plan = deque(self._mix.arrivals())
        self._start = self._last = time.monotonic()
        for _ in range(self._mix.heavy):
            self._ask(self._connect(), self._heavy)
        while plan or self._received:  # those that are under way at the end are work, too
            self._is_over = not (plan or self._planned or self._waiting)
            wait = self._start + plan[0] - time.monotonic() if plan else HANGS_S
            # By `select`, since `epoll` itself waits whole milliseconds.
            ready = select.select([self._poll], [], [], max(wait, 0))[0]
            if not ready and not plan:
                raise SystemExit(f"no answer for {HANGS_S:g} s")
            now = time.monotonic()
            for descriptor, _ in self._poll.poll(0) if ready else ():
                self._read(descriptor, now)
            while plan and self._start + plan[0] <= time.monotonic():
                at_s = plan.popleft()
                self._late_ms.append((time.monotonic() - self._start - at_s) * 1e3)
                self._ask_light(at_s)
        for sock in self._open.values():
            sock.close()
        self._poll.close()
        heavy = self._heavy_done / (self._last - self._start) if self._heavy_done else 0.0
        return Outcome(self._latencies_ms, heavy, percentile(sorted(self._late_ms), 99))

    def _connect(self) -> int:
        sock = _connection(self._port)
        self._open[sock.fileno()] = sock
        self._poll.register(sock, select.EPOLLIN)
        return sock.fileno()

    def _ask_light(self, at_s: float) -> None:
        if not self._free:
            self._waiting.append(at_s)
            return
        descriptor = self._free.popleft()
        self._planned[descriptor] = at_s
        self._ask(descriptor, self._light)

    def _ask(self, descriptor: int, what: bytes) -> None:
        self._received[descriptor] = 0
        self._open[descriptor].sendall(what)

    def _read(self, descriptor: int, now: float) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            data = self._open[descriptor].recv(65_536)
        if not data:
            self._closed(descriptor)
            return
        self._received[descriptor] += len(data)
        if self._received[descriptor] < self._length or not data.endswith(DONE):
            return
        at_s = self._planned.pop(descriptor, None)
        if at_s is None:
            self._heavy_done, self._last = self._heavy_done + 1, now
            del self._received[descriptor]
            if not self._is_over:
                self._ask(descriptor, self._heavy)
            return
        if at_s >= self._mix.warm_up_s:
            self._latencies_ms.append((now - self._start - at_s) * 1e3)
        del self._received[descriptor]
        self._set_free(descriptor)

    def _set_free(self, descriptor: int) -> None:
        self._free.append(descriptor)
        if self._waiting:
            self._ask_light(self._waiting.popleft())

    def _closed(self, descriptor: int) -> None:
        self._open.pop(descriptor).close()
        at_s = self._planned.pop(descriptor, None)
        if self._received.pop(descriptor, None) is None:
            self._free.remove(descriptor)
            self._set_free(self._connect())
        elif at_s is not None:
            self._waiting.appendleft(at_s)
            self._set_free(self._connect())
        else:
            self._ask(self._connect(), self._heavy)


def _connection(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), HANGS_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _answer(port: int, asked: bytes) -> bytes:
    data = b""
    with _connection(port) as sock:
        sock.sendall(asked)
        while not data.endswith(DONE):
            part = sock.recv(65_536)
            if not part:
                raise SystemExit(f"a light request was answered {data!r}")
            data += part
    return data
