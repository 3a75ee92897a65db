"""CPython's own tests of asyncio have the same outcomes with an executor on the loop. How: see `cpython`."""

from __future__ import annotations

import pytest

import clockworker as cw
from clockworker.executor._preempt import why_not
from tests.ecosystem import cpython

# Next to each other stand the two that are compared with the same plain run.
HOW = {"asyncio": None, "asyncio, every queue preemptive": 100.0, "uvloop": None}


@pytest.mark.slow
@pytest.mark.version
@pytest.mark.skipif(not cw.compiled, reason="takes minutes, and decides nothing that is not decided compiled as well")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("module", cpython.MODULES)
def test_outcomes_are_the_same(module: str, how: str) -> None:
    if module not in cpython.available():
        pytest.skip(f"this Python has no test.test_asyncio.{module}")
    slice_us = HOW[how]
    if slice_us is not None and (reason := cpython.NEVER_PREEMPTIVE.get(module) or why_not()) is not None:
        pytest.skip(f"preemptive queues: {reason}")
    assert cpython.differences(module, how.partition(",")[0], slice_us=slice_us) == []
