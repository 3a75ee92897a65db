"""How long things take on this machine now, measured beside what is judged.

A time that is claimed is the time of a machine that does nothing else. A release run judges by the claim itself. A run in CI
says whether our code has become slow, wherever it runs: there a claim is stretched by how much longer than its own CPU time a
process takes that has nothing to do with ours.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

# What a shard does first, too. In a session of its own, as servers are: the kernel may share CPU time among sessions.
_COMMAND = [sys.executable, "-c", "import clockworker.shards"]


class Beside:
    """Measures when it is entered and when it is left, and between when it is asked to.

    with Beside() as beside:
        times = ...
    assert max(times) <= beside.limit(1.0, judge=trials >= 500)
    """

    def __init__(self) -> None:
        self.start_s = 0.0  # the longest that a process took to start and to import us
        self.stretch = 1.0  # the most that a process took, of its CPU time

    def measure(self) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.monotonic()
        subprocess.run(_COMMAND, check=True, start_new_session=True, env=dict(os.environ))
        took = time.monotonic() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.start_s = max(self.start_s, took)
        self.stretch = max(self.stretch, took / cpu)

    def limit(self, seconds: float, *, release: bool) -> float:
        """What may be asked of something that takes `seconds` at most on a machine that does nothing else."""
        return seconds if release else seconds * self.stretch

    def __enter__(self) -> Self:
        self.measure()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.measure()
