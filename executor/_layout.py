"""Coroutines to learn from where CPython keeps what one waits for (`_look_ahead.pxd`). Compiled they would be Cython's own."""

from __future__ import annotations

from collections.abc import Generator


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
