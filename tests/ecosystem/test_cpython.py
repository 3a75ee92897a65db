"""CPython's own tests of asyncio have the same outcomes with an executor on the loop. How: see `cpython`."""

from __future__ import annotations

import pytest

import clockworker as cw
from clockworker.executor._preempt import why_not
from tests.ecosystem import cpython


@pytest.mark.slow
@pytest.mark.version
@pytest.mark.skipif(not cw.compiled, reason="takes minutes, and decides nothing that is not decided compiled as well")
@pytest.mark.parametrize("loop", sorted(cpython.LOOPS))
@pytest.mark.parametrize("module", cpython.MODULES)
def test_outcomes_are_the_same(module: str, loop: str) -> None:
    if module not in cpython.available():
        pytest.skip(f"this Python has no test.test_asyncio.{module}")
    assert cpython.differences(module, loop) == []


@pytest.mark.slow
@pytest.mark.version
@pytest.mark.skipif(why_not() is not None, reason=f"preemptive queues need {why_not()}")
@pytest.mark.parametrize("module", [name for name in cpython.MODULES if name not in cpython.NEVER_PREEMPTIVE])
def test_outcomes_are_the_same_where_every_queue_is_preemptive(module: str) -> None:
    if module not in cpython.available():
        pytest.skip(f"this Python has no test.test_asyncio.{module}")
    assert cpython.differences(module, "asyncio", slice_us=100) == []
