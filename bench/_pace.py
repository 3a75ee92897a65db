"""How calls and one-way requests are timed, whatever carries them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from bench._loops import Spawn
from bench._messages import microseconds_of

Echo = Callable[[bytes], Awaitable[bytes]]
Send = Callable[[bytes, int], Awaitable[None]]  # so many with this value, at least on their way when it returns

IN_FLIGHT = 64
WARM = 200  # calls before any is counted


class CallPace(msgspec.Struct, frozen=True):
    sequential_us: dict[str, float]  # p50, p99
    per_second: float  # with 64 in flight; 0: not measured


def pace_of(call: Callable[[], object], seconds: float) -> CallPace:
    """Of calls one at a time that block."""
    for _ in range(WARM):
        call()
    clock = time.perf_counter_ns
    times: list[int] = []
    now = clock()
    until = now + int(seconds * 1e9)
    while now < until:
        before = clock()
        call()
        now = clock()
        times.append(now - before)
    return CallPace(microseconds_of(times), 0.0)


async def pace_of_calls(echo: Echo, spawn: Spawn, size: int, seconds: float) -> CallPace:
    """One at a time, then many at once."""
    value = bytes(size)
    for _ in range(WARM):
        await echo(value)
    clock = time.perf_counter_ns
    times: list[int] = []
    now = clock()
    until = now + int(seconds * 1e9)
    while now < until:
        before = clock()
        await echo(value)
        now = clock()
        times.append(now - before)
    count = 0

    async def worker(until: int) -> None:
        nonlocal count
        while clock() < until:
            for _ in range(8):
                await echo(value)
            count += 8

    started = clock()
    for task in [spawn(worker(started + int(seconds * 1e9))) for _ in range(IN_FLIGHT)]:
        await task
    return CallPace(microseconds_of(times), count / (clock() - started) * 1e9)


async def pace_of_sends(
    send: Send, taken: Callable[[], Awaitable[int]], sizes: Sequence[int], seconds: float
) -> list[float]:
    """One-way requests a second for each size of argument, until the last has been run; `taken` says how many were, since it
    was last asked."""
    clock = time.perf_counter_ns
    paces = []
    for size in sizes:
        value = bytes(size)
        await send(value, 10)
        await taken()
        started = clock()
        until = started + int(seconds * 1e9)
        count = 0
        chunk = max(1, min(64, (1 << 21) // size))  # as many as other messages between two looks at the clock
        while clock() < until:
            await send(value, chunk)
            count += chunk
        if await taken() != count:  # it comes after them
            raise SystemExit(f"of {count} one-way requests some were not run")
        paces.append(count / (clock() - started) * 1e9)
    return paces
