"""What compiled modules have in C (`_native.pxd`, `_seam_cy.pxd`), for those that are not compiled."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

address_of = id


class Place(NamedTuple):
    """Of a KeyHeap's (_heap_cy)."""

    key: int
    tie: int
    slot: int


def task_of(callback: Any, argument: object) -> asyncio.Task[Any]:
    """Whose step (then there is no argument) or wake-up it is."""
    return callback.__self__  # type: ignore[no-any-return]


def is_of(callback: Any, argument: object, task: asyncio.Task[Any]) -> bool:
    """Whether it is this task's."""
    return callback.__self__ is task


def is_context(thing: object) -> TypeGuard[contextvars.Context]:
    return type(thing) is contextvars.Context


def call_or_error(function: Callable[[Any], Any], argument: object) -> Any:
    """What the function returns, or what it raises: compiled, a `try` takes some 50 instructions."""
    try:
        return function(argument)
    except BaseException as error:
        return error


def run_in_context(
    callback: Callable[..., object], argument: object, context: contextvars.Context
) -> BaseException | None:
    """The exception that escapes from a step or a wake-up of a task."""
    try:
        if argument is None:
            context.run(callback)
        else:
            context.run(callback, argument)
    except BaseException as error:
        return error
    return None
