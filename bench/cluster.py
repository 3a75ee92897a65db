"""How fast are calls between two nodes over NATS, beside the request of nats-py itself, by the same server in the same run?

A process for each end, each on a core, and nats-server wherever it finds room; 64 bytes are echoed. Figures are of rounds that
take turns; ratios are taken within a round.

- p50: one call after the other. calls/s: with so many in flight, also of a method that suspends.
- 1 MiB: MB/s of one echo after the other, and by the bare wire: a message there and one back.
- CPU: microseconds of both ends for each call with 64 in flight, and of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import uvloop

import clockworker as cw
from bench._nats import Server, server
from bench._processes import together
from bench._report import Summary, columns, progress, ratios, summary
from clockworker.cluster._links import FarLinks
from clockworker.cluster._nats import NatsWire
from clockworker.ipc.calls._owners import PLACES, Owner
from clockworker.shards.config._cluster import ClusterConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BODY = bytes(64)
LARGE = bytes(1 << 20)
IN_FLIGHT = (64, 256, 1_024)
CALLER, CALLEE = 1, 2  # slots

Echo = Callable[[bytes], Awaitable[bytes]]


class Measured(msgspec.Struct, frozen=True):
    """Of one way to call. cpu_us: of both ends, for a call; server_us: of the broker."""

    p50_us: float
    rates: dict[int, float]
    large_mb: float
    cpu_us: float
    server_us: float


class Round(msgspec.Struct, frozen=True):
    peer: Measured
    ours: Measured
    suspending: Measured
    bare_large_mb: float


class ClusterReport(msgspec.Struct, frozen=True):
    server: str  # its version
    rounds: list[Round]

    def of(self, figure: Callable[[Round], float]) -> Summary:
        return summary([figure(each) for each in self.rounds])

    def to_peer(self, figure: Callable[[Measured], float], mine: str = "ours") -> Summary:
        return ratios(
            [figure(getattr(each, mine)) for each in self.rounds], [figure(each.peer) for each in self.rounds]
        )

    def table(self) -> str:
        rows = [["", "nats-py", "Clockworker", "ratio", "that suspends", "ratio"]]

        def row(label: str, figure: Callable[[Measured], float], form: str = ",.0f") -> None:
            medians = [
                format(self.of(lambda each, name=name: figure(getattr(each, name))).median, form)  # type: ignore[misc]
                for name in ("peer", "ours", "suspending")
            ]
            rows.append(
                [
                    label,
                    medians[0],
                    medians[1],
                    str(self.to_peer(figure)),
                    medians[2],
                    str(self.to_peer(figure, "suspending")),
                ]
            )

        row("p50, us", lambda each: each.p50_us)
        for count in IN_FLIGHT:
            row(f"calls/s, {count:,} in flight", lambda each, count=count: each.rates[count])  # type: ignore[misc]
        row("1 MiB echoed, MB/s", lambda each: each.large_mb)
        row("CPU of both ends, us a call", lambda each: each.cpu_us, ".1f")
        row("CPU of the server, us a call", lambda each: each.server_us, ".1f")
        bare = ratios([each.ours.large_mb for each in self.rounds], [each.bare_large_mb for each in self.rounds])
        wire = self.of(lambda each: each.bare_large_mb).median
        return (
            f"nats-server {self.server}, {len(self.rounds)} rounds; medians, ratios with least and most\n\n"
            f"{columns(rows)}\n\n"
            f"1 MiB by the bare wire: {wire:,.0f} MB/s; Clockworker's is {bare} of that"
        )

    def plot(self, figure: Figure) -> None:
        axes = figure.subplots()
        for name, label in (("peer", "nats-py"), ("ours", "Clockworker"), ("suspending", "a method that suspends")):
            rates = [statistics.median(getattr(each, name).rates[count] for each in self.rounds) for count in IN_FLIGHT]
            axes.plot(IN_FLIGHT, rates, marker="o", label=label)
        axes.set(xscale="log", xlabel="calls in flight", ylabel="calls/s")
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="of all in turns (3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (1)")


def run(options: argparse.Namespace) -> ClusterReport:
    rounds = []
    with server() as nats:
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}")
            rounds.append(
                Round(
                    peer=_measure(nats, _nats_caller, _nats_callee, options.seconds),
                    ours=_measure(nats, partial(_caller, method="echo"), _callee, options.seconds),
                    suspending=_measure(nats, partial(_caller, method="echo_later"), _callee, options.seconds),
                    bare_large_mb=_measure(nats, _bare_caller, _bare_callee, options.seconds).large_mb,
                )
            )
    return ClusterReport(nats.version, rounds)


class _Figures(NamedTuple):
    p50_us: float
    rates: dict[int, float]
    large_mb: float
    calls: int  # with 64 in flight
    cpu_s: float  # of these
    server_s: float


def _measure(nats: Server, caller: Any, callee: Any, seconds: float) -> Measured:
    """Both ends in processes of their own; who is called lives until who calls is done."""
    over, is_over = os.pipe()
    try:

        def call() -> Any:
            figures = uvloop.run(caller(nats, seconds))
            os.write(is_over, b"!")
            return figures

        def answer() -> Any:
            return uvloop.run(_until(callee, nats, over))

        figures, of_callee = together([call, answer])
    finally:
        os.close(over)
        os.close(is_over)
    share = of_callee[1] / max(1e-9, of_callee[0])  # processor time of who is called, for each call, over all
    calls = max(1, figures.calls)
    return Measured(
        figures.p50_us,
        figures.rates,
        figures.large_mb,
        (figures.cpu_s / calls + share) * 1e6,
        figures.server_s / calls * 1e6,
    )


async def _until(callee: Any, nats: Server, over: int) -> tuple[int, float]:
    """Its calls of 64 bytes with 64 in flight, as `callee` counts them, and the processor time of these."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(over, end)
    counted: tuple[int, float] = await callee(nats, ended)
    return counted


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _figures(nats: Server, echo: Echo, seconds: float, counts: tuple[int, ...] = IN_FLIGHT) -> _Figures:
    deadline = time.monotonic() + 10
    while True:  # until the other end is there
        try:
            async with asyncio.timeout(1):
                assert await echo(BODY) == BODY
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    times: list[int] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        before = time.perf_counter_ns()
        await echo(BODY)
        times.append(time.perf_counter_ns() - before)
    rates: dict[int, float] = {}
    calls, cpu_s, server_s = 0, 0.0, 0.0
    await echo(b"begin")  # so that the other end knows which calls these are
    for count in counts:
        cpu, of_server = _cpu_s(), nats.cpu_s()
        done, rate = await _flood(echo, count, seconds)
        rates[count] = rate
        if count == counts[0]:
            calls, cpu_s, server_s = done, _cpu_s() - cpu, nats.cpu_s() - of_server
            await echo(b"mark")
    large = await _large(echo, seconds)
    return _Figures(statistics.median(times) / 1e3, rates, large, calls, cpu_s, server_s)


async def _flood(echo: Echo, count: int, seconds: float) -> tuple[int, float]:
    done = 0
    began = time.monotonic()
    ends = began + seconds

    async def one() -> None:
        nonlocal done
        while time.monotonic() < ends:
            await echo(BODY)
            done += 1

    await asyncio.gather(*(one() for _ in range(count)))
    return done, done / (time.monotonic() - began)


async def _large(echo: Echo, seconds: float) -> float:
    size, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        assert len(await echo(LARGE)) == len(LARGE)
        size += len(LARGE)
    return size / (time.monotonic() - began) / 1e6


class _Count:
    """Of who is called: calls, and the processor time that they took, from the beginning to the mark."""

    def __init__(self) -> None:
        self.calls = 0
        self._began = 0.0
        self.marked: tuple[int, float] | None = None

    def take(self, body: bytes) -> None:
        if body == b"begin":
            self.calls, self._began = 0, _cpu_s()
        self.calls += 1
        if body == b"mark" and self.marked is None:
            self.marked = self.calls, _cpu_s() - self._began


# nats-py's own request


async def _nats_caller(nats: Server, seconds: float) -> _Figures:
    import nats as library

    client = await library.connect(nats.url, pending_size=64 << 20)
    try:

        async def echo(body: bytes) -> bytes:
            return (await client.request("echo", body, timeout=10)).data

        return await _figures(nats, echo, seconds)
    finally:
        await client.close()


async def _nats_callee(nats: Server, ended: asyncio.Future[None]) -> tuple[int, float]:
    import nats as library

    count = _Count()
    client = await library.connect(nats.url, pending_size=64 << 20)

    async def answer(message: Any) -> None:
        count.take(message.data)
        await message.respond(message.data)

    await client.subscribe("echo", cb=answer)
    await ended
    await client.close()
    return count.marked or (1, 0.0)


# Clockworker


class Echoes:
    def __init__(self, count: _Count) -> None:
        self._count = count

    @cw.remote
    async def echo(self, body: bytes) -> bytes:
        self._count.take(body)
        return body

    @cw.remote
    async def echo_later(self, body: bytes) -> bytes:
        self._count.take(body)
        await asyncio.sleep(0)
        return body


class _Node(NamedTuple):
    slot: int
    shards: int


class _NoKeys:
    def owner(self, checksum: int) -> Owner:
        raise NotImplementedError

    def refusal(self, partition: int, epoch: int) -> cw.CallError | None:
        return None


def _wire(nats: Server, node: str) -> NatsWire:
    return NatsWire(ClusterConfig((nats.url,), node=node, name="bench"), f"bench {node}", 5.0)


async def _on_node(nats: Server, slot: int, work: Callable[[cw.Sharded[Echoes]], Awaitable[Any]], count: _Count) -> Any:
    names = {"caller": _Node(CALLER, 1), "callee": _Node(CALLEE, 1)}
    name = "caller" if slot == CALLER else "callee"
    async with cw.Executor([cw.Queue("main")]) as executor:
        mesh = cw.Mesh(0, 1, executor, cw.create_doorbell(1))
        far = FarLinks(mesh, partial(_wire, nats, name), cluster="bench", node=name, keys=_NoKeys())
        far.see(slot, names)
        far.start()
        await far.connected()
        service = mesh.start(Echoes, Echoes(count))
        try:
            return await executor.queues()[0].spawn(_awaited(work(service)))
        finally:
            await far.close()
            mesh.close()


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


async def _caller(nats: Server, seconds: float, method: str) -> _Figures:
    async def work(service: cw.Sharded[Echoes]) -> _Figures:
        return await _figures(nats, getattr(service.on(CALLEE * PLACES), method), seconds)

    figures: _Figures = await _on_node(nats, CALLER, work, _Count())
    return figures


async def _callee(nats: Server, ended: asyncio.Future[None]) -> tuple[int, float]:
    count = _Count()

    async def work(service: cw.Sharded[Echoes]) -> None:
        await ended

    await _on_node(nats, CALLEE, work, count)
    return count.marked or (1, 0.0)


# The wire alone


async def _bare_caller(nats: Server, seconds: float) -> _Figures:
    wire = _wire(nats, "caller")
    await wire.connect()
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    await wire.subscribe("bench.caller", lambda subject, body: answers.put_nowait(body))

    async def echo(body: bytes) -> bytes:
        while not wire.publish("bench.callee", body):
            await wire.flush()
        return await answers.get()

    try:
        return await _figures(nats, echo, seconds, (1,))
    finally:
        await wire.close()


async def _bare_callee(nats: Server, ended: asyncio.Future[None]) -> tuple[int, float]:
    wire = _wire(nats, "callee")
    await wire.connect()

    def heard(subject: str, body: bytes) -> None:
        wire.publish("bench.caller", body)

    await wire.subscribe("bench.callee", heard)
    await ended
    await wire.close()
    return 1, 0.0
