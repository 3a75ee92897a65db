"""Counting instructions: a program whose measurements are its children, under valgrind's cachegrind.

The program, `python -m MODULE DIRECTORY KEY...`, imports everything once, which is slow under valgrind, and forks a child for
each measurement (`in_children`). Cachegrind writes a file for each, which begins with what the parent had counted until then;
so of two children that differ in how often they do something, the counts differ by what that costs.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from clockworker.executor import _clock_cy as clock

ROOT = Path(__file__).parents[1]
CHILDREN = "children.json"  # process ids of the children, by key
SLOWER = 50  # than the processor is what valgrind makes of it, about
TICKS_A_NS = 2.5  # of a processor's counter, roughly


def count_instructions(directory: Path, module: str, keys: list[str]) -> dict[str, int]:
    """Instructions of the program and each child, by key. SystemExit with what it has written, if it fails."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={directory}/%p"]
    command += [sys.executable, "-m", module, str(directory), *keys]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # dictionaries of the same order each time
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}")
    children = msgspec.json.decode((directory / CHILDREN).read_bytes(), type=dict[str, int])
    return {key: total((directory / str(pid)).read_text()) for key, pid in children.items()}


def total(output: str) -> int:
    """Of a file of cachegrind's."""
    found = re.search(r"^summary: ([\d,]+)", output, re.MULTILINE)
    assert found is not None, output[:200]
    return int(found[1].replace(",", ""))


def in_children(directory: Path, keys: Iterable[str], measure: Callable[[str], object]) -> None:
    """`measure(key)` in a child of its own for each key, one after the other. SystemExit if one fails."""
    gc.collect()
    gc.freeze()  # or a child's first collection would copy all of the parent's memory, and count
    (directory / CHILDREN).write_text(json.dumps({key: _in_child(key, measure) for key in keys}))


def _in_child(key: str, measure: Callable[[str], object]) -> int:
    """Its process id."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)  # what is measured may write a log
        measure(key)
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"{key} ended with status {status}")
    return pid


def slow_down_clock() -> None:
    """Under valgrind the executor's time goes as slowly as all else, so that a turn or a stint has as many steps as ever."""
    if under_valgrind():
        clock.read(1 / TICKS_A_NS / SLOWER)


def under_valgrind() -> bool:
    return "valgrind" in os.environ.get("LD_PRELOAD", "")
