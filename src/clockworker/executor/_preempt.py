"""Preemptive queues, for those who write what runs in them: whether there can be any, and where nothing is cut."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import re
import signal
import sys
import weakref
from types import TracebackType
from typing import Any

from clockworker._errors import ConfigurationError
from clockworker.executor import _guard_cy
from clockworker.executor._cpython_cy import holds, switched_off

# Without these nothing can be cut, or not safely.
NEEDS = {"locks": holds("locks"), "codes": holds("codes"), "interrupt": holds("interrupt")}
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

# Of whom `no_preempt` is: the task, or None outside of all. What a task starts inherits the variable, and is another.
NO_PREEMPT: contextvars.ContextVar[weakref.ref[asyncio.Task[Any]] | None] = contextvars.ContextVar(
    "clockworker.no_preempt", default=None
)


def why_not() -> str | None:
    """What a preemptive queue needs and there is not; None if there is everything."""
    if not _guard_cy.compiled:
        return "the compiled modules, and Clockworker runs as pure Python here"
    if sys.platform != "linux" or not hasattr(signal, "SIGRTMAX"):
        return f"Linux, and this is {sys.platform}"
    import sysconfig  # which is slow to import, and asked by who has such a queue

    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "the interpreter's lock, and this is a free-threaded Python"
    for name, there in NEEDS.items():
        if not there:
            return f"of CPython what Clockworker calls {name!r}, and that is switched off: {switched_off()[name]}"
    if importlib.util.find_spec("greenlet") is None:
        return "greenlet, which is not installed: pip install 'clockworker[preempt]'"
    return None


class no_preempt:
    """The task that is in it is not cut, though its queue be preemptive: what it does between two awaits nobody sees in pieces.

        with cw.no_preempt():
            balance[a] -= amount
            balance[b] += amount

    It lasts over awaits, and is of this task alone: tasks that are started in it can be cut. It costs a context variable,
    and does nothing else where nothing is preemptive.
    """

    _before: weakref.ref[asyncio.Task[Any]] | None

    def __enter__(self) -> None:
        self._before = NO_PREEMPT.get()
        loop = asyncio._get_running_loop()
        task = None if loop is None else asyncio.current_task(loop)
        NO_PREEMPT.set(None if task is None else weakref.ref(task))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        NO_PREEMPT.set(self._before)


def never_preempt(*packages: str) -> None:
    """Nothing is cut in code of these packages, nor in what that calls: for libraries that share plain objects between tasks
    and have no lock for them, since asyncio has one thread.

        cw.never_preempt("sqlalchemy.pool", "shop.connections")

    packages: names as they are imported; each stands for all below it. From now on, in the whole process. Locks of `threading`
    need nothing of that: with one held nothing is cut. Clients and servers on asyncio that are in wide use are known without it
    (aiohttp, asyncpg, httpcore, psycopg, pymongo, redis, websockets and others; docs/preemption.md lists them).

    Raises ConfigurationError for what is no such name.
    """
    for package in packages:
        if not isinstance(package, str) or not _NAME.fullmatch(package):
            raise ConfigurationError(
                f"never_preempt() was given {package!r}; it takes names of packages and modules, such as 'sqlalchemy.pool'"
            )
    _guard_cy.guard(packages)
