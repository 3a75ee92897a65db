"""trio's own tests have the same outcomes with every task gated. How: see `trio_suite`."""

from __future__ import annotations

import pytest

import clockworker as cw
from tests.ecosystem import trio_suite

pytest.importorskip("trio", reason="the executor on trio needs the extra `trio`")


@pytest.mark.slow
@pytest.mark.version
@pytest.mark.skipif(not cw.compiled, reason="decides nothing that is not decided compiled as well")
@pytest.mark.parametrize("module", trio_suite.MODULES)
def test_outcomes_are_the_same(module: str) -> None:
    if module not in trio_suite.available():
        pytest.skip(f"this trio came without {module}")
    assert trio_suite.differences(module) == []
