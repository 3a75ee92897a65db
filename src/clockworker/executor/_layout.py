"""Samples in Python, by which `_cpython_cy` tries what it assumes of CPython. Compiled they would be Cython's own."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import FrameType, FunctionType
from typing import Any

# Coroutines to learn from where CPython keeps what one waits for (`_look_ahead.pxd`).


class _Stop:
    def __await__(self) -> Generator[None, None, None]:
        yield


async def _few() -> None:
    await _Stop()


async def _many(one: object, two: object, three: object) -> None:
    await _Stop()


def suspended() -> list[tuple[object, int, object]]:
    """Two that wait, with different numbers of locals: each coroutine, its size in bytes, and what it waits for."""
    started = [_few(), _many(None, None, None)]
    for coroutine in started:
        coroutine.send(None)
    return [(coroutine, coroutine.__sizeof__(), coroutine.cr_await) for coroutine in started]  # type: ignore[attr-defined]


def a_frame() -> FrameType:
    return sys._getframe()


# What tasks run, and what they wait for.


async def wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def fail() -> None:
    raise LookupError


class Duck:
    """What a task waits for, with no more than `asyncio.isfuture` asks of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self.callback: Callable[[Any], object] | None = None

    def __await__(self) -> Generator[Duck, None, str]:
        self._asyncio_future_blocking = True
        yield self
        return "duck"

    def add_done_callback(self, callback: Callable[[Any], object], *, context: contextvars.Context) -> None:
        self.callback = callback

    def done(self) -> bool:
        return True

    def result(self) -> None:
        pass


# What awaits give.

# Some that an await, or a StopIteration, might take for something else.
RESULTS: list[object] = [1, None, (1, 2), KeyError("a value")]


def results_of(kind: Callable[[object], Any]) -> list[tuple[object, object]]:
    """What instances made of RESULTS give: to a coroutine that awaits them, and to an iteration."""
    return [
        (_result_of(wait_for(kind(value)).send, None), _result_of(next, kind(value).__await__())) for value in RESULTS
    ]


def _result_of(proceed: Callable[[Any], object], argument: object) -> object:
    try:
        proceed(argument)
    except StopIteration as ended:
        return ended.value
    return proceed  # has not ended


def make_half(kind: Any) -> object:
    return kind.__new__(kind)


_VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("clockworker.sample")


def in_two_contexts(ask: Callable[[], bool]) -> tuple[bool, bool]:
    """What `ask` says in an empty context, and in one with a variable."""
    full = contextvars.Context()
    full.run(_VARIABLE.set, 1)
    return contextvars.Context().run(ask), full.run(ask)


# Functions that may suspend, in each way that there is.


async def _awaits(sample: Any) -> None:
    await sample


async def _iterates(sample: Any) -> None:
    async for _ in sample:
        pass


async def _enters(sample: Any) -> None:
    async with sample:
        pass


async def _comprehends(sample: Any) -> list[object]:
    return [each async for each in sample]


async def _yields() -> AsyncIterator[None]:
    yield


SUSPENDING: list[FunctionType] = [_awaits, _iterates, _enters, _comprehends, _yields]  # type: ignore[list-item]
