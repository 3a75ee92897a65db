"""Compiled types under hostile hands, in processes of their own: a crash is a status, and not the end of the test."""

from __future__ import annotations

import contextlib
import copy
import pickle
from typing import Any

import pytest

import clockworker as cw
from clockworker.executor._heap_cy import HeapNode
from clockworker.executor._meter_cy import Meter
from clockworker.executor._orders_cy import _ServiceScheduler
from clockworker.executor._running_queue_cy import RunningQueue
from clockworker.executor._seal_cy import compiled_types
from clockworker.executor._steps_cy import WorkSource
from clockworker.ipc.calls._call_cy import Method
from clockworker.ipc.rings._connection_cy import Connection
from tests.conftest import needs
from tests.reliability._mutated_calls import run_process

OPEN = {
    HeapNode,
    cw.ScheduledTask,
    cw.Scheduler,
    cw.RunnableFifo,
    cw.ArrivalFifo,
    _ServiceScheduler,
    cw.LAS,
    cw.QLAS,
    cw.FairGroups,
    cw.FairFifo,
    cw.EDF,
    cw.FairSRPT,
    RunningQueue,
    WorkSource,
    Meter,
    Method,
    Connection,
}
TYPES = [*compiled_types("clockworker.executor"), *compiled_types("clockworker.ipc")]


@pytest.mark.skipif(not cw.compiled, reason="pure Python cannot crash")
@needs("seal")
@pytest.mark.parametrize("each", TYPES, ids=lambda each: each.__name__)
def test_a_compiled_type_is_sealed_or_bears_to_be_half_made(each: Any) -> None:
    if isinstance(each, type) and not hasattr(each, "__pyx_vtable__") and issubclass(each, Exception):
        pytest.skip("an exception of Python's own")
    if each in OPEN:
        half = type("Subclass", (each,), {"__init__": lambda self: None})()
        for name in dir(half):
            if not name.startswith("__"):
                with contextlib.suppress(Exception):
                    getattr(half, name)()
        return
    if each.__flags__ & (1 << 9):  # made by a class statement
        pytest.skip("a class of Python's own")
    with pytest.raises(TypeError):
        each.__new__(each)
    with pytest.raises(TypeError):
        type("Subclass", (each,), {})


@pytest.mark.skipif(not cw.compiled, reason="pure Python cannot crash")
def test_what_is_handed_out_can_be_neither_copied_nor_pickled(run: Any) -> None:
    async def body() -> None:
        async with cw.Executor([cw.Queue("q")]) as executor:
            queue = executor.queue("q")
            handle = queue.spawn(cw.yield_maybe())
            for each in (queue, queue.group("g"), handle, handle.__await__(), executor._core):
                for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                    with pytest.raises(TypeError):
                        attempt(each)

    run(body)


@pytest.mark.skipif(not cw.compiled, reason="pure Python cannot crash")
@needs("seal")
@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_calls_never_crash(seed: int) -> None:
    """`python -m tests.reliability mutated-calls` makes more of them."""
    run_process(seed, 6_000)
