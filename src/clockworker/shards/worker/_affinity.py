"""What a shard starts may use every CPU of the server: a pool of processes, or a tool that is called, is there to take work off
the shard's core, and would by inheritance be pinned to that same core.

A forked child widens its mask itself (`_fork`). For a program that is executed at once nothing of ours runs between fork and
exec, as a rule. Affinity belongs to threads, and a child inherits that of the thread that starts it; so that thread's is wide
while it does. Few functions start programs, and they are wrapped: `_posixsubprocess.fork_exec`, by which `subprocess` does, and
multiprocessing by its methods `spawn` and `forkserver`; `os.posix_spawn`, which `subprocess` prefers from Python 3.13 on;
`os.system`; and the loop's own two. What a Python version starts by another is pinned, as before.

Rejected: to pin the shard after all that it starts has started, since nobody knows when that is; an audit hook, which is called
for each `open` too, and not when the child has been started; to leave it to each application's initializer.
"""

from __future__ import annotations

import _posixsubprocess
import asyncio
import contextlib
import os
import subprocess
import types
from collections.abc import Callable, Collection, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_STARTERS = (
    (_posixsubprocess, "fork_exec"),
    (subprocess, "_fork_exec"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (os, "system"),
)


class Starting:
    """Wraps what starts programs, so that it is done inside of `around`, and on all `cpus` if the thread that does is
    pinned to `cpu`: with another affinity, the application's own, it is left alone."""

    def __init__(
        self, cpu: int | None, cpus: Collection[int], around: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._cpu = cpu
        self._cpus = cpus
        self._around = around

    def wrap_functions(self) -> None:
        """Those of this process."""
        for module, name in _STARTERS:
            if (start := getattr(module, name, None)) is not None:
                setattr(module, name, self._wrapped(start))

    def wrap_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Its subprocesses: they have been started when the coroutine waits for the first time."""
        for name in ("subprocess_exec", "subprocess_shell"):
            setattr(loop, name, self._wrapped_coroutine(getattr(loop, name)))

    @contextlib.contextmanager
    def _everywhere(self) -> Iterator[None]:
        with self._around():
            if self._cpu is None or os.sched_getaffinity(0) != {self._cpu}:
                yield
                return
            with contextlib.suppress(OSError):  # the cpuset was changed under us
                os.sched_setaffinity(0, self._cpus)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(0, {self._cpu})

    def _wrapped(self, start: Callable[P, T]) -> Callable[P, T]:
        @wraps(start)
        def started(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._everywhere():
                return start(*args, **kwargs)

        return started

    def _wrapped_coroutine(self, start: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(start)
        async def started(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self._first_step(start(*args, **kwargs))

        return started

    @types.coroutine
    def _first_step(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Run the coroutine, the first step of it inside."""
        try:
            with self._everywhere():
                waits_for = coroutine.send(None)
            while True:
                try:
                    result = yield waits_for
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as error:
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(result)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]
