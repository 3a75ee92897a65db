"""That freed memory is kept, and that a user's own choice is left alone. In processes of their own: it is for good."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from clockworker.ipc.rings._malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        [b"x" * ((2 << 20) + number) for number in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults() // 100, keep_freed_memory(), faults() and faults() // 100)
"""


def run(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_message_like_the_last_needs_no_new_pages() -> None:
    before, kept, after = run()
    assert kept == "True"
    assert int(after) < 100 < int(before)


@pytest.mark.parametrize(
    "choice", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_what_the_user_has_chosen_stays(choice: dict[str, str]) -> None:
    assert run(**choice)[1] == "False"
