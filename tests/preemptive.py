"""A suite with every queue preemptive: `TESTS_PREEMPTIVE=100 python -m pytest tests/executor`, in microseconds a slice.

Every executor that a test makes in the main thread has preemptive queues, so that Python which the tests run is cut wherever
that is allowed. What fails then is a fault, or a test that says what a cut changes; those are below, with what they say.

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
from clockworker.executor._queue import LONGEST_SLICE, SHORTEST_SLICE

VARIABLE = "TESTS_PREEMPTIVE"

# Tests that cannot hold then, by a part of their names, and why. None asserts atomicity between two lines; they count slices.
EXCEPTIONS: dict[str, str] = {
    "tests/executor/test_preempt_": "says itself which queues are preemptive, and which are not",
    "test_steps.py::test_a_reporter_of_slow_steps_that_fails": "counts reports; a step that was cut has one more, of the whole",
    "waits_for_the_books[asyncio-report": "waits for a report of a slow slice, and none is",
    "waits_for_the_books[uvloop-report": "waits for a report of a slow slice, and none is",
    "test_join.py::test_a_loop_may_run_in_another_thread": "which no loop with a preemptive queue may",
    "test_run_until.py::test_yield_maybe_gives_way_to_a_queue": "asks whether to give way; a slice that should has been cut",
    "test_singles.py::test_they_are_counted_and_charged": "has all of the thread's time charged; a cut is not the queue's",
    "test_singles.py::test_what_a_step_sees": "takes it that a slice of 10 s is not over",
    "test_steal.py::test_a_tracer_is_told_of_steps": "counts what a tracer is told; it is told of slices",
    "test_steal.py::test_an_executor_leaves_no_descriptor": "counts those of an executor; the alarm has a pipe beside them",
    "test_steps.py::test_while_a_queue_sleeps_the_loop_has_its_turn_after_a_quarter": "a turn ends before, after 256 slices",
}


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
    return next((why for part, why in EXCEPTIONS.items() if part in name), None)


def _preemptive(queue: Any, slice: float) -> Any:
    if isinstance(queue, cw.QueueGroup):
        return msgspec.structs.replace(queue, queues=[_preemptive(each, slice) for each in queue.queues])
    if not isinstance(queue, cw.Queue):  # a test of what is refused
        return queue
    own = slice if queue.slice is None else min(max(queue.slice, SHORTEST_SLICE), LONGEST_SLICE)
    return msgspec.structs.replace(queue, preemptive=True, slice=own)
