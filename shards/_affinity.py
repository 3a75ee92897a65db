"""What a shard starts may use every CPU of the server: a pool of processes, or a tool that is called, is there to take work off
the shard's core, and would by inheritance be pinned to that same core.

A forked child widens its mask itself (`_fork`), which uvloop's subprocesses are, too. For a program that is executed at once
nothing of ours runs between fork and exec. Affinity belongs to threads, and a child inherits that of the thread that starts
it; so that thread's is wide while it does. Few functions start programs, and they are wrapped: `_posixsubprocess.fork_exec`, by
which `subprocess` does, and multiprocessing by its methods `spawn` and `forkserver`; `os.posix_spawn`, which `subprocess`
prefers from Python 3.13 on; `os.system`. What a Python version starts by another is pinned, as before.

Rejected: to pin the shard after all that it starts has started, since nobody knows when that is; an audit hook, which is called
for each `open` too, and not when the child has been started; to leave it to each application's initializer.
"""

from __future__ import annotations

import _posixsubprocess
import contextlib
import os
import subprocess
from collections.abc import Callable, Collection
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_STARTERS = (
    (_posixsubprocess, "fork_exec"),
    (subprocess, "_fork_exec"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (os, "system"),
)


def start_unpinned(cpu: int, cpus: Collection[int]) -> None:
    """Let what this process starts from here on use these CPUs, unless the thread that does has another affinity than `cpu`,
    which the application must have set."""

    def widened(start: Callable[P, T]) -> Callable[P, T]:
        @wraps(start)
        def start_widened(*args: P.args, **kwargs: P.kwargs) -> T:
            if os.sched_getaffinity(0) != {cpu}:
                return start(*args, **kwargs)
            with contextlib.suppress(OSError):  # the cpuset was changed under us
                os.sched_setaffinity(0, cpus)
            try:
                return start(*args, **kwargs)
            finally:
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, {cpu})

        return start_widened

    for module, name in _STARTERS:
        if (start := getattr(module, name, None)) is not None:
            setattr(module, name, widened(start))
