"""The guide's code runs as it stands there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
GUIDE = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL)
(APP,) = [
    block
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "calls.md").read_text(), re.DOTALL)
    if "class Store" in block
]


@pytest.mark.slow
def test_the_guide(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    pytester.makepyfile(app=APP, **{f"test_{number}": block for number, block in enumerate(GUIDE)})
    result = pytester.runpytest_subprocess("-p", "_clockworker_pytest", "-p", "anyio", "-W", "error")
    result.assert_outcomes(passed=len(GUIDE))
    assert len(GUIDE) == 4
