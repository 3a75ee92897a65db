"""The page's programs run as they stand there, and print what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("arguments", [[0], [1], [2], [2, "--trio"]], ids=str)
def test_programs(arguments: list[int | str]) -> None:
    number, *rest = arguments
    program = PROGRAMS[int(number)]
    command = [sys.executable, "-W", "error", "-c", program, *map(str, rest)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = [line.partition("  # ")[2].strip("[]").strip('"') for line in program.splitlines() if "print(" in line]
    assert [line.strip("[]").strip('"') for line in done.stdout.splitlines()] == said


def test_how_many_there_are() -> None:
    assert len(PROGRAMS) == 3
