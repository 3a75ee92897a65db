"""A suite with every queue preemptive: `TESTS_PREEMPTIVE=100 python -m pytest tests/executor`, in microseconds a slice.

What a test leaves unsaid it leaves open: who gets a loop with queues by it gets preemptive ones, so that Python which the
tests run is cut wherever that is allowed. What fails then is a fault, or a test that says of two of its lines that nothing
comes between them; those are below, with what they say.

This is the tests' own, and no option of the product. `install` is called by tests/conftest.py, and in the processes that tests
start by themselves.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable
from typing import Any

import msgspec

import clockworker as cw

VARIABLE = "TESTS_PREEMPTIVE"

# Tests that cannot hold then, by a part of their names, and why.
ATOMIC: dict[str, str] = {}


def slice_us() -> float | None:
    """None: as the tests say."""
    text = os.environ.get(VARIABLE, "")
    return float(text) if text else None


def install() -> None:
    """If the environment says so."""
    us = slice_us()
    if us is None:
        return
    init = cw.Executor.__init__
    if getattr(init, "forced", False):
        return

    @functools.wraps(init)
    def forced(self: cw.Executor, queues: Iterable[cw.Queue], **options: Any) -> None:
        declared = list(queues)
        if threading.current_thread() is threading.main_thread():  # elsewhere they are refused
            declared = [_preemptive(queue, us / 1e6) for queue in declared]
        init(self, declared, **options)

    forced.forced = True  # type: ignore[attr-defined]
    cw.Executor.__init__ = forced  # type: ignore[method-assign]


def reason_for(name: str) -> str | None:
    """Why the test of this name is left out; None: it is not."""
    if slice_us() is None:
        return None
    return next((why for part, why in ATOMIC.items() if part in name), None)


def _preemptive(queue: Any, slice: float) -> Any:
    if not isinstance(queue, cw.Queue):  # a test of what is refused
        return queue
    return msgspec.structs.replace(queue, preemptive=True, slice=slice if queue.slice is None else queue.slice)  # type: ignore[call-arg]
