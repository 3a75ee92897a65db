"""Light requests that arrive whether or not those before them are answered, beside heavy ones that are asked again and again.

On the process's own CPU clock: the protocol is driven in process, and the driver has a turn in each of the loop's. It gives the
protocol what has arrived by that clock, which goes on while anything runs, the driver's own looking included. So what else
the machine does is not seen at all: latencies are those of a core that the process has for itself.

Over sockets: one process that plans arrivals and sends each on a connection that is free, or a new one. Latencies run from
the planned time, so a client that is late counts against the server; how late it was is reported.
"""

from __future__ import annotations

import asyncio
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
_CONNECTIONS = 64  # of the light requests, at first


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
        self._protocol.connection_made(Transport(self._written))

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

    def _turn(self) -> None:
        """Once in each turn of the loop."""
        plan = self._plan
        elapsed_ns = time.process_time_ns() - self._start_ns
        while plan and plan[0] * 1e9 <= elapsed_ns:
            at_s = plan.popleft()
            asking = self._free.pop() if self._free else self._new(self._light_answered)
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


def over_sockets(port: int, mix: Mix) -> Outcome:
    """Be the client."""
    light, heavy = request("GET", LIGHT), request("GET", mix.path)
    length = len(_answer(port, light))
    free = deque(_connection(port) for _ in range(_CONNECTIONS))
    planned: dict[socket.socket, float] = {}
    received: dict[socket.socket, int] = {}
    background = [_connection(port) for _ in range(mix.heavy)]
    heavy_done, latencies_ms, late_ms = 0, [], []
    plan = deque(mix.arrivals())
    start = time.monotonic()
    for sock in background:
        sock.sendall(heavy)
        received[sock] = 0
    last = start
    while plan or planned:
        wait = start + plan[0] - time.monotonic() if plan else HANGS_S
        ready = select.select([*background, *planned], [], [], max(wait, 0))[0]
        now = time.monotonic()
        if not ready and not plan:
            raise SystemExit(f"no answer for {HANGS_S:g} s")
        for sock in ready:
            data = sock.recv(65_536)
            if not data:
                raise SystemExit("a connection was closed")
            received[sock] += len(data)
            if received[sock] < length or not data.endswith(DONE):
                continue
            received[sock] = 0
            if sock in planned:
                at_s = planned.pop(sock)
                if at_s >= mix.warm_up_s:
                    latencies_ms.append((now - start - at_s) * 1e3)
                free.append(sock)
            else:
                heavy_done, last = heavy_done + 1, now
                sock.sendall(heavy)
        while plan and start + plan[0] <= time.monotonic():
            at_s = plan.popleft()
            sock = free.popleft() if free else _connection(port)
            planned[sock] = at_s
            received[sock] = 0
            late_ms.append((time.monotonic() - start - at_s) * 1e3)
            sock.sendall(light)
    for sock in (*background, *free):
        sock.close()
    # To the last one that was done: those that are under way then are no less work, but how much is not known.
    return Outcome(latencies_ms, heavy_done / (last - start) if heavy_done else 0.0, percentile(sorted(late_ms), 99))


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
