from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.shards.servers import eventually, is_alive
from tests.watchdog import VARIABLE

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

ROOT = Path(__file__).parents[1]

TEST = """
import subprocess, sys, time
from tests.shards.conftest import serve
from tests.shards.servers import ECHO

def test_that_never_ends(serve):
    server = serve(ECHO, "--shards", "2")
    server.wait_serving()
    subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(3600)"])
    time.sleep(3600)
"""


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.slow
def test_what_a_killed_run_has_started_dies_with_it(workers: str, tmp_path: Path) -> None:
    (tmp_path / "test_killed.py").write_text(TEST)
    said = tmp_path / "said"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-n",
        workers,
        "-p",
        "tests.conftest",
        "-c",
        ROOT / "pyproject.toml",
    ]
    with said.open("wb") as output:
        run = subprocess.Popen([*command, tmp_path / "test_killed.py"], cwd=ROOT, stdout=output, stderr=output)
    try:
        # By what marks them: of a worker of pytest-xdist nothing is heard before its test has ended.
        pids = eventually(lambda: started_by(run.pid, 4), "the server and the other process run", 180, said.read_text)
        run.kill()
        eventually(lambda: not any(map(is_alive, pids)), "they are gone")
    finally:
        run.kill()
        run.wait()


def started_by(run: int, count: int) -> list[int]:
    """The pids of what the tests of this run have started, when there is so much."""
    marks = {str(pid) for pid in [run, *(child.pid for child in psutil.Process(run).children())]}
    found = []
    for process in psutil.process_iter():
        try:
            started = process.environ().get(VARIABLE) in marks and process.pid not in marks
            if started and not any(word.endswith("watchdog.py") for word in process.cmdline()):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found if len(found) >= count else []
