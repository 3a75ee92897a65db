"""What the tests of the executor on trio share: each runs a body under `trio.run`, within a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

import clockworker as cw
from tests.conftest import DEADLINE

trio = pytest.importorskip("trio", reason="the executor on trio needs the extra `trio`")

T = TypeVar("T")


def run(body: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
    """`trio.run`, that ends after DEADLINE."""

    async def bounded() -> T:
        with trio.fail_after(DEADLINE):
            return await body(*args)
        raise AssertionError("fail_after raises")

    result: T = trio.run(bounded, **options)
    return result


def declarations(**options: Any) -> list[cw.Queue]:
    return [cw.Queue("foreground", 8, scheduler=cw.LAS(), **options), cw.Queue("background", **options)]
