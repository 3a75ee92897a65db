"""Open-loop load: tasks arrive by a Poisson process whether or not those before them are done.

One process on one core sends arrivals through a socket, at times that are planned and without waiting for anything; the server
under test, on another core, starts a task for each. Latencies run from the moment of sending, so a server that is late to read
has that counted against it. Both make the plan from the same seed, and a message is only its time.

A task burns CPU time in segments, and sleeps or yields between them. Burning is counted in the CPU time of the thread: a
server that the kernel has put aside does no work meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from bench._microsleep import Timer
from bench._report import percentile

STAMP = struct.Struct("<q")  # time of sending, nanoseconds of CLOCK_MONOTONIC
START_S = 30.0


class Kind(msgspec.Struct, frozen=True):
    """A kind of task: how many segments, how much CPU time in each, how long the sleeps between: uniform, ends included.
    A sleep of 0 is a yield. ends_asleep: there is a sleep after the last segment too, so there may be none; then comes a step
    that has nothing to do but to end."""

    segments: tuple[int, int]
    cpu_us: tuple[int, int]
    sleep_us: tuple[int, int]
    ends_asleep: bool = False

    def mean_cpu_us(self) -> float:
        return sum(self.segments) / 2 * sum(self.cpu_us) / 2


class Load(msgspec.Struct, frozen=True):
    """What arrives. Kinds are weighted; what arrives in the first `warm_up_s` is not counted."""

    kinds: dict[str, Kind]
    weights: dict[str, float]
    rate: float  # a second
    warm_up_s: float
    duration_s: float  # after that
    seed: int

    def utilisation(self) -> float:
        """Of one core."""
        weight = sum(self.weights.values())
        return self.rate * sum(kind.mean_cpu_us() * self.weights[n] for n, kind in self.kinds.items()) / weight / 1e6

    def arrivals(self) -> Iterator[Arrival]:
        chance = random.Random(self.seed)
        at_s = chance.expovariate(self.rate)
        while at_s < self.warm_up_s + self.duration_s:
            [name] = chance.choices(list(self.kinds), list(self.weights.values()))
            kind = self.kinds[name]
            count = chance.randint(*kind.segments)
            cpu_us = [chance.randint(*kind.cpu_us) for _ in range(count)]
            if kind.ends_asleep:
                cpu_us.append(0)
            sleeps_us = [chance.randint(*kind.sleep_us) for _ in range(len(cpu_us) - 1)]
            yield Arrival(at_s, name, at_s >= self.warm_up_s, cpu_us, sleeps_us)
            at_s += chance.expovariate(self.rate)


class Arrival(msgspec.Struct, frozen=True):
    at_s: float
    kind: str
    counted: bool
    cpu_us: list[int]
    sleeps_us: list[int]  # between them


class Latencies(msgspec.Struct):
    """In microseconds from the sending."""

    queue_delay_us: list[float]  # to the first step
    total_us: list[float]  # to the end


Spawn = Callable[[Coroutine[Any, Any, Any]], object]


class Server(asyncio.Protocol):
    """Starts a task for each arrival that the generator sends. `finished` is done when the last of them is."""

    def __init__(self, load: Load, spawn: Spawn, timer: Timer, by_kind: Mapping[str, Spawn] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.latencies = {kind: Latencies([], []) for kind in load.kinds}
        self.counting: asyncio.Future[None] = loop.create_future()  # done when the warm-up is over
        self.finished: asyncio.Future[None] = loop.create_future()
        self.all_arrived: asyncio.Future[None] = loop.create_future()
        self._arrivals = iter(list(load.arrivals()))  # all made now: chance costs more than a spawn
        self._spawn = dict.fromkeys(load.kinds, spawn) if by_kind is None else by_kind
        self._timer = timer
        self._started: list[object] = []  # asyncio itself only keeps weak references to tasks
        self._unfinished = 0
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        whole = len(data) - len(data) % STAMP.size
        self._buffer = data[whole:]
        for (sent_ns,) in STAMP.iter_unpack(data[:whole]):
            arrival = next(self._arrivals)
            if arrival.counted and not self.counting.done():
                self.counting.set_result(None)
            self._unfinished += 1
            self._started.append(self._spawn[arrival.kind](self._serve(arrival, sent_ns)))

    def connection_lost(self, error: Exception | None) -> None:
        self.all_arrived.set_result(None)
        if not self._unfinished:
            self.finished.set_result(None)

    async def _serve(self, arrival: Arrival, sent_ns: int) -> None:
        delay_ns = time.monotonic_ns() - sent_ns
        for number, cpu_us in enumerate(arrival.cpu_us):
            if number:
                sleep_us = arrival.sleeps_us[number - 1]
                await (self._timer.sleep(sleep_us) if sleep_us else asyncio.sleep(0))
            burn(cpu_us)
        total_ns = time.monotonic_ns() - sent_ns
        if arrival.counted:
            latencies = self.latencies[arrival.kind]
            latencies.queue_delay_us.append(delay_ns / 1e3)
            latencies.total_us.append(total_ns / 1e3)
        self._unfinished -= 1
        if not self._unfinished and self.all_arrived.done():
            self.finished.set_result(None)


def burn(cpu_us: float) -> None:
    """Use that much CPU time."""
    ends = time.thread_time_ns() + int(cpu_us * 1_000)
    # A look at the thread's clock is a system call, at the wall's it is not.
    while (left_ns := ends - time.thread_time_ns()) > 0:
        until = time.monotonic_ns() + left_ns
        while time.monotonic_ns() < until:
            pass


class Background:
    """Endless tasks of a kind beside the server: a segment of CPU time, a sleep, and so on. Possibly none."""

    def __init__(self, kind: Kind, tasks: int, spawn: Spawn, timer: Timer) -> None:
        self._kind = kind
        self._timer = timer
        self._work_us = 0
        self._counting_since = 0.0
        self._stopping = False
        self._left = tasks
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks = [spawn(self._run(seed)) for seed in range(tasks)]

    def count(self) -> None:
        """From now on."""
        self._counting_since = time.monotonic()
        self._work_us = 0

    async def stop(self) -> float:
        """Returns the work done since `count`, of one core."""
        share = self._work_us / 1e6 / (time.monotonic() - self._counting_since)
        self._stopping = True
        if self._tasks:
            await self._stopped
        return share

    async def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        segments = [(chance.randint(*self._kind.cpu_us), chance.randint(*self._kind.sleep_us)) for _ in range(1_000)]
        for cpu_us, sleep_us in itertools.cycle(segments):
            if self._stopping:
                break
            burn(cpu_us)
            self._work_us += cpu_us
            await self._timer.sleep(sleep_us)
        self._left -= 1
        if not self._left:
            self._stopped.set_result(None)


class Work(Protocol):
    """Background here, or a word to the process where it is."""

    def count(self) -> None: ...
    async def stop(self) -> float: ...


class Measured(msgspec.Struct, frozen=True):
    latencies: dict[str, Latencies]
    # From the warm-up's end to the last arrival, of one core:
    background: float  # work done
    cpu: float  # CPU time that the server's thread used, for work and all else


async def serve(
    path: str, load: Load, spawn: Spawn, timer: Timer, work: Work, by_kind: Mapping[str, Spawn] | None = None
) -> Measured:
    """Be the server for one generator, at the path of a Unix socket. by_kind: how to spawn each kind, where that differs."""
    server = Server(load, spawn, timer, by_kind)
    listener = await asyncio.get_running_loop().create_unix_server(lambda: server, path)
    async with asyncio.timeout(START_S + 20 * (load.warm_up_s + load.duration_s)):
        await server.counting
        work.count()
        since, cpu_since = time.monotonic(), time.thread_time()
        await server.all_arrived
        cpu = (time.thread_time() - cpu_since) / (time.monotonic() - since)
        background = await work.stop()
        await server.finished
    listener.close()
    return Measured(server.latencies, background, cpu)


def generate(path: str, load: Load, core: int) -> float:
    """Be the generator: send a stamp at the time of each arrival. Returns by how many microseconds 1 % were later than
    planned, which is no fault of the server's."""
    os.sched_setaffinity(0, [core])
    plan = [arrival.at_s for arrival in load.arrivals()]
    late_us = []
    with connect(path) as sock:
        start_ns = time.monotonic_ns()
        for at_s in plan:
            due_ns = start_ns + int(at_s * 1e9)
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                time.sleep(left_ns / 1e9)
            late_us.append(-left_ns / 1e3)
            sock.sendall(STAMP.pack(time.monotonic_ns()))
    return percentile(sorted(late_us), 99)


def connect(path: str) -> socket.socket:
    """A connection to the Unix socket, as soon as somebody listens there."""
    deadline = time.monotonic() + START_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def await_both(generator: Future[float], server: Future[Measured]) -> float:
    """What the generator returns; what fails first is raised."""
    late_us = generator.result()
    server.result()
    return late_us


def cores() -> tuple[int, int]:
    """The server's core and the generator's: the same if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]
