"""Tests of others that a server must pass: uvicorn's own, and Autobahn's of WebSockets. How: see `uvicorn`, `websockets`."""

from __future__ import annotations

from pathlib import Path

import pytest

import clockworker as cw
from tests.ecosystem import uvicorn, websockets
from tests.ecosystem._sdists import NotFetched, fetch_sdist


@pytest.mark.slow
@pytest.mark.skipif(not cw.compiled, reason="takes a minute, and decides nothing that is not decided compiled as well")
def test_uvicorns(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("httpx2")
    try:
        folder = fetch_sdist("uvicorn", tmp_path)
    except NotFetched as error:
        pytest.skip(str(error))
    outcomes = uvicorn.run_tests(folder, "clockworker", uvicorn.MODULES, show=False)
    assert uvicorn.differences(outcomes, uvicorn.EXCEPTIONS) == []
    assert sum(outcome == "passed" for outcome in outcomes.values()) > 100


@pytest.mark.slow
@pytest.mark.skipif(not cw.compiled, reason="takes a minute, and decides nothing that is not decided compiled as well")
def test_autobahns(tmp_path: Path) -> None:
    if not websockets.is_installed():
        pytest.skip("kosoku is not installed")
    verdicts = websockets.run_cases(tmp_path, (), websockets.SIZES["quick"])
    assert websockets.differences(verdicts) == []
    assert len(verdicts) > 250
