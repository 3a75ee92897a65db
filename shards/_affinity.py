"""What a shard starts may use every CPU of the server: a pool of processes, or a tool that is called, is there to take work off
the shard's core, and would by inheritance be pinned to that same core.

A forked child widens its mask itself (`_fork`). For a program that is executed nothing of ours runs between fork and exec.
Affinity belongs to threads, and a child inherits that of the thread that starts it; so that thread's is wide while it does.
Two functions start programs: uvloop's, which runs the hooks of forks, and `_posixsubprocess.fork_exec`, by which `subprocess`
does, and multiprocessing by its methods `spawn` and `forkserver`. The second is wrapped. What is started in another way
(`os.system`, `os.posix_spawn`) is pinned.

Rejected: to pin the shard after all it has started, since nobody knows when that is; an audit hook, which is called for each
`open` too, and not when the child has been started.
"""

from __future__ import annotations

import _posixsubprocess
import contextlib
import os
import subprocess
from collections.abc import Collection
from functools import wraps
from typing import Any


def start_unpinned(cpu: int, cpus: Collection[int]) -> None:
    """Let what this process starts from here on use these CPUs, unless the thread that does has another affinity than `cpu`,
    which the application must have set."""
    fork_exec: Any = _posixsubprocess.fork_exec

    @wraps(fork_exec)
    def fork_exec_unpinned(*args: Any) -> Any:
        if os.sched_getaffinity(0) != {cpu}:
            return fork_exec(*args)
        with contextlib.suppress(OSError):  # the cpuset was changed under us
            os.sched_setaffinity(0, cpus)
        try:
            return fork_exec(*args)
        finally:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {cpu})

    for module, name in ((_posixsubprocess, "fork_exec"), (subprocess, "_fork_exec")):
        if getattr(module, name, None) is fork_exec:
            setattr(module, name, fork_exec_unpinned)
