"""The operations of `bench trio`, with and without queues; as a program, what runs under cachegrind.

`python -m bench._trio_run DIRECTORY OPERATIONS TASKS NAME...`: everything is imported once, and each measurement is a child
that does so many operations; cachegrind writes a file for each. A child of n operations and one of 2n differ by n. What each
child was is written to DIRECTORY/children.json, by process id.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import trio

import clockworker as cw
from clockworker.trio import Executor

PLAIN = "plain"
SETUPS = {PLAIN: 0, "one queue": 1, "two queues": 2, "two queues, LAS": 2}

# Starts a function with its arguments somewhere; a plain nursery's, or a queue's.
Start = Callable[..., None]


def queues(setup: str) -> list[cw.Queue]:
    return [cw.Queue(i, scheduler=cw.LAS() if "LAS" in setup else None) for i in range(SETUPS[setup])]


async def yields(starts: list[Start], tasks: int, operations: int) -> None:
    """A checkpoint in each of several tasks."""

    async def task() -> None:
        for _ in range(operations // tasks):
            await trio.lowlevel.checkpoint()

    await all_of(starts, task, tasks)


async def spawns(starts: list[Start], tasks: int, operations: int) -> None:
    """Each of several tasks starts one that returns at once, waits for its end, and so on."""

    async def parent(start: Start) -> None:
        for _ in range(operations // tasks):
            done = trio.Event()
            start(child, done)
            await done.wait()

    async def child(done: trio.Event) -> None:
        done.set()

    await all_of(starts, parent, tasks, with_start=True)


async def event_pings(starts: list[Start], tasks: int, operations: int) -> None:
    """Tasks in pairs wake each other, by a new event each time."""
    events = [[trio.Event(), trio.Event()] for _ in range(tasks // 2)]

    async def player(pair: list[trio.Event], own: int) -> None:
        for _ in range(operations // tasks):
            await pair[own].wait()
            pair[own] = trio.Event()
            pair[1 - own].set()

    for pair in events:
        pair[0].set()
    left = len(events) * 2
    ended = trio.Event()

    async def counted(pair: list[trio.Event], own: int) -> None:
        nonlocal left
        await player(pair, own)
        left -= 1
        if left == 0:
            ended.set()

    for start, (pair, own) in zip(itertools.cycle(starts), itertools.product(events, (0, 1)), strict=False):
        start(counted, pair, own)
    await ended.wait()


async def all_of(
    starts: list[Start], work: Callable[..., Awaitable[Any]], tasks: int, with_start: bool = False
) -> None:
    left = tasks
    ended = trio.Event()

    async def counted(*args: Any) -> None:
        nonlocal left
        await work(*args)
        left -= 1
        if left == 0:
            ended.set()

    for start in itertools.islice(itertools.cycle(starts), tasks):
        start(counted, *([start] if with_start else []))
    await ended.wait()


OPERATIONS: dict[str, Callable[[list[Start], int, int], Awaitable[None]]] = {
    "yield": yields,
    "spawn and wait": spawns,
    "event ping": event_pings,
}


def once(operation: str, setup: str, tasks: int, operations: int) -> int:
    """CPU time of the thread in ns, the run's beginning and end included."""

    async def main() -> int:
        started = time.thread_time_ns()
        if not SETUPS[setup]:
            async with trio.open_nursery() as nursery:
                await OPERATIONS[operation]([nursery.start_soon], tasks, operations)
        else:
            async with Executor(queues(setup)) as executor:
                starts: Iterable[Start] = [queue.start_soon for queue in executor.queues()]
                await OPERATIONS[operation](list(starts), tasks, operations)
        return time.thread_time_ns() - started

    return trio.run(main)


def main(directory: Path, operations: int, tasks: int, names: list[str]) -> None:
    for name, setup in itertools.product(names, SETUPS):
        once(name, setup, tasks, 10 * tasks)  # warm
    gc.collect()
    gc.freeze()
    children: dict[int, list[Any]] = {}
    for name, setup, count in itertools.product(names, SETUPS, (operations, 2 * operations)):
        pid = os.fork()
        if pid == 0:
            once(name, setup, tasks, count)
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            raise SystemExit(f"{name}, {setup} ended with status {status}")
        children[pid] = [name, setup, count]
    (directory / "children.json").write_text(json.dumps(children))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
