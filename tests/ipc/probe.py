"""The service that the tests of the mesh call, and what it takes and raises. Shared with the processes of `node.py`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from listening import Listening

import clockworker as cw
from clockworker.ipc.calls._chain_cy import inherited_deadline_ns
from clockworker.ipc.calls._frames import Kind


class Point(msgspec.Struct):
    x: int
    y: float = 0.5
    tags: list[str] = []


@dataclass
class Record:
    key: str
    at: datetime
    data: bytes | None = None


class ProbeError(Exception):
    """Declared by one method with `raises=`, and not by another."""


class TwoArguments(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Ends(BaseException):
    """No Exception: it ends the task that it escapes from."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


FAILURES: dict[str, Any] = {
    "ValueError": lambda: ValueError("wrong value", 3),
    "KeyError": lambda: KeyError("missing"),
    "FileNotFoundError": lambda: FileNotFoundError(2, "no such file", "/nowhere"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "ZeroDivisionError": lambda: ZeroDivisionError(),
    "TimeoutError": lambda: TimeoutError("of its own"),
    "ProbeError": lambda: ProbeError("undeclared"),
    "TwoArguments": lambda: TwoArguments("a", "b"),
    "CancelledError": lambda: asyncio.CancelledError("by itself"),
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one")]),
    "Ends": lambda: Ends("the task"),
    "huge number": lambda: ValueError(2**200),
    "surrogates": lambda: ValueError("\ud800 in a file name"),
    "Unprintable": lambda: Unprintable(),
    "enormous": lambda: ValueError("x" * 10_000_000),
    "many": lambda: ValueError(*range(10_000)),
}


@cw.remote
async def pid_and(x: int, *, y: int = 1) -> tuple[int, int, int]:
    return os.getpid(), x, y


@cw.remote(queue="background", raises=(ProbeError,))
async def function_in_background(fails: bool) -> str:
    if fails:
        raise ProbeError("of a function")
    return str(cw.current_executor().current_queue())


@cw.remote
async def count_up(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


class Probe(Listening):
    def __init__(self, shard_id: int, mesh: cw.Mesh) -> None:
        super().__init__()
        self.shard_id = shard_id
        self.mesh = mesh
        self.service: cw.Sharded[Probe]
        self.noted: list[int] = []
        self.hanging = 0
        self.cancelled = 0
        self.yielded = 0
        self.closed = 0
        self.gate = asyncio.Event()

    @cw.remote
    async def whoami(self) -> tuple[int, int]:
        return self.shard_id, os.getpid()

    @cw.remote
    async def add(self, a: int, b: int = 10, *, c: int = 100) -> int:
        return a + b + c

    @cw.remote
    async def echo(self, value: bytes) -> bytes:
        return value

    @cw.remote
    async def types(
        self, point: Point, record: Record, mixed: int | str | None, table: dict[str, set[int]]
    ) -> tuple[Point, Record, int | str | None, dict[str, set[int]]]:
        assert isinstance(point, Point)
        assert isinstance(record, Record)
        return point, record, mixed, table

    @cw.remote
    async def nothing(self) -> None: ...

    @cw.remote
    async def deep(self, value: Any) -> Any:
        return value

    @cw.remote
    async def text(self, value: str) -> int:
        return len(value)

    @cw.remote
    async def big(self, size: int) -> bytes:
        return b"b" * size

    @cw.remote
    async def lie(self) -> int:
        return "not a number"  # type: ignore[return-value]

    @cw.remote
    async def unsendable(self) -> Any:
        return object()

    @cw.remote
    async def fail(self, how: str) -> None:
        raise FAILURES[how]()

    @cw.remote(raises=(ProbeError, TwoArguments))
    async def fail_declared(self, how: str) -> None:
        raise FAILURES[how]()

    @cw.remote
    async def queue(self) -> str:
        return self._queue()

    @cw.remote(queue="background")
    async def background(self) -> str:
        return self._queue()

    @cw.remote(queue="background")
    async def fail_in_background(self) -> None:
        raise ValueError("in the background")

    @cw.remote
    async def note(self, number: int) -> int:
        self.noted.append(number)
        await asyncio.sleep(0)
        return number

    @cw.remote
    async def note_at_once(self, number: int) -> str:
        """Not an await in it."""
        self.noted.append(number)
        task = asyncio.current_task()
        assert task is not None
        return f"{task.get_name()} in {self._queue()}"

    @cw.remote
    async def note_replaced(self, number: int) -> int:
        self.noted.append(number)
        return number

    @cw.remote
    async def replace(self) -> None:
        """Give `note_replaced` other code, which waits."""
        Probe.note_replaced.__code__ = Probe.note.__code__

    @cw.remote
    async def notes(self) -> list[int]:
        noted, self.noted = self.noted, []
        return noted

    @cw.remote
    async def hang(self) -> None:
        self.hanging += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.hanging -= 1

    @cw.remote
    async def hangs(self) -> tuple[int, int]:
        return self.hanging, self.cancelled

    @cw.remote
    async def relay(self, shard: int, value: bytes) -> bytes:
        return await self.service.on(shard).echo(value)

    @cw.remote
    async def flood(self, shard: int, calls: int, size: int) -> int:
        """Call another shard many times at once."""
        answers = await asyncio.gather(*(self.service.on(shard).big(size) for _ in range(calls)))
        return sum(len(answer) for answer in answers)

    @cw.remote
    async def left(self) -> float | None:
        """Seconds until the deadline of this call."""
        ends_ns = inherited_deadline_ns()
        return (ends_ns - time.monotonic_ns()) / 1e9 if ends_ns else None

    @cw.remote
    async def relay_left(self, shard: int) -> float | None:
        return await self.service.on(shard).left()

    @cw.remote
    async def relay_hang(self, shard: int) -> None:
        await self.service.on(shard).hang()

    @cw.remote
    async def spin(self, seconds: float) -> None:
        """Not an await in it: nothing else runs meanwhile."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            pass

    @cw.remote
    async def group(self) -> Any:
        core = cw.current_executor()._core
        assert core.current is not None
        return core.current.group

    @cw.remote
    async def relay_group(self, shard: int) -> Any:
        return await self.service.on(shard).group()

    @cw.remote
    async def note_or_fail(self, number: int, fails: bool) -> int:
        self.noted.append(number)
        if fails:
            raise ProbeError("nobody waits for this")
        return number

    @cw.remote
    async def open_gate(self) -> None:
        self.gate.set()

    @cw.remote
    async def wait_gate(self, number: int) -> int:
        self.noted.append(number)
        self.hanging += 1
        await self.gate.wait()
        self.hanging -= 1
        return number

    @cw.remote
    async def rows(self, count: int, size: int = 0, fail_at: int = -1) -> AsyncIterator[Point]:
        self.yielded = 0
        try:
            for number in range(count):
                if number == fail_at:
                    raise ValueError("in the middle")
                self.yielded += 1
                yield Point(number, tags=["x" * size])
        finally:
            self.closed += 1

    @cw.remote(queue="background")
    async def queues(self, count: int) -> AsyncIterator[str]:
        for _ in range(count):
            yield self._queue()

    @cw.remote
    async def rows_then_hang(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
            await self.hang()
        finally:
            self.closed += 1

    @cw.remote
    async def bad_rows(self) -> AsyncIterator[Any]:
        yield 1
        yield object()

    @cw.remote
    async def lying_rows(self) -> AsyncIterator[int]:
        yield 1
        yield "two"  # type: ignore[misc]

    @cw.remote
    async def streamed(self) -> tuple[int, int]:
        """Items that `rows` has yielded, and streams that have been closed."""
        return self.yielded, self.closed

    @cw.remote
    async def scribble(self, how: str) -> None:
        """Break the rules of the ring to shard 0."""
        link = self.mesh.links[0]
        for kind, call, body in {
            "kind": [(99, 0, b"no such kind of frame")],
            "chunks": [(Kind.REQUEST, 0, bytes(60_000))],
            "credit": [(Kind.CREDIT, 1_000_000, b"")],
            "schema": [(Kind.SCHEMA, 0, b"\xc1")],
        }[how]:
            link.connection.send(kind, 0, 0, call, body)

    @cw.remote
    async def stats(self) -> cw.MeshStats:
        return self.mesh.stats()

    def _queue(self) -> str:
        queue = cw.current_executor().current_queue()
        return "none" if queue is None else str(queue.key)
