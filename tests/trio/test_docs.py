"""The page's program of anyio's prints the same on trio. The others are run as they stand there (tests/docs)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_a_program_of_anyios_on_trio() -> None:
    (program,) = [each for each in PROGRAMS if '"--trio" in sys.argv' in each]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error", "-c", program, "--trio"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr, done.returncode) == ("['background']\n", "", 0)
