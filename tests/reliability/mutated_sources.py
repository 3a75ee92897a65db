"""Mutations of the package's own source, in a copy that runs uncompiled: each must change what a scenario prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import clockworker as cw
from tests.reliability._checks import Result, check

_ROOT = Path(__file__).parents[2]


def run_mutated(package: str, replacements: dict[str, str], scenario: str) -> str:
    """What the scenario prints with the one place in the package that matches each pattern replaced."""
    with tempfile.TemporaryDirectory() as directory:
        copied = Path(directory) / "clockworker"
        ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
        shutil.copytree(Path(cw.__file__).parent, copied, ignore=ignored)
        for pattern, replacement in replacements.items():
            places = 0
            for file in (copied / package).rglob("*.py"):
                text, count = re.subn(pattern, replacement, file.read_text())
                places += count
                file.write_text(text)
            if places != 1:
                raise AssertionError(f"{package} has {places} places that match {pattern!r}, not one")
        path = os.pathsep.join([directory, str(_ROOT)])
        command = [sys.executable, "-m", f"tests.reliability.{scenario}"]
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=60)
        if "clockworker from" in done.stdout and directory not in done.stdout:
            raise AssertionError(f"the scenario has not run the copy:\n{done.stdout}")
        return done.stdout + done.stderr


def run_unchanged(scenario: str) -> str:
    command = [sys.executable, "-m", f"tests.reliability.{scenario}"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@check(
    "no reply reaches the successor of its caller; without the epoch, and with requests that may be answered twice, one does",
    ci=2,
    release=2,
    pure=0,  # it is the pure version that is mutated
    pace=1.5,
)
def late_replies(trials: int) -> Result:
    if "got new" not in (output := run_unchanged("_late_reply")):
        raise AssertionError(f"the successor's call did not get its own reply:\n{output}")
    # Either would do: a request is answered when its caller dies, and never again; and its answer is for one incarnation.
    mutation = {
        r"epoch == self\.connection\.epoch and (?=.*serving)": "",
        r"if self\.ended:\n +return\n +(?=self\.ended = True\n +self\.task = None)": "",
    }
    if "got old" not in (output := run_mutated("ipc", mutation, "_late_reply")):
        raise AssertionError(f"nothing was found without the epoch:\n{output}")
    return Result(trials, "got its own; without the epoch the old one's")


@check(
    "a call to a shard that dies and stays dead ends; if its peers are not told it does not",
    ci=2,
    release=2,
    pure=0,  # it is the pure version that is mutated
    pace=0.4,
)
def peers_of_the_dead(trials: int) -> Result:
    if "got ShardDied" not in (output := run_unchanged("_unanswered")):
        raise AssertionError(f"the call did not end in ShardDied:\n{output}")
    if "got ShardDied" in (output := run_mutated("shards", {r"\S+\.send\(Disconnect\(.*\)\)": "pass"}, "_unanswered")):
        raise AssertionError(f"nothing was found though the peers were not told:\n{output}")
    return Result(trials, "ShardDied; hangs if the peers are not told")
