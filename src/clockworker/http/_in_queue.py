"""Routes with `threads = false`: plain functions run in the request's queue, which is preemptive, and not in anyio's threads.

Starlette and FastAPI give `def` endpoints, dependencies and background tasks to `anyio.to_thread.run_sync`, which they look up
at each call. A thread that computes is in no queue: it competes with the loop for the interpreter, a switch interval at a
time. In a preemptive queue the same function is a part of the request's step, which is cut when others want the core.

Nobody between a framework and its threads asks where a function is to run: anyio chooses a backend by the name of the library
that runs, a limiter can only count, and an endpoint that is wrapped in its table is another endpoint to FastAPI, which reads
its signature and closes over what it found. So that one function of anyio's is replaced in the shard's process, if a route
says `threads = false`, and the log says so. For all other requests it does what it did.

A thread it still is for what could not be cut, functions of C such as those of files; for who brings a limiter of its own, and
so has threads in mind; and once the task has moved into a queue that is not preemptive (`after`).
"""

from __future__ import annotations

import contextvars
import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from clockworker.executor._core_cy import Core
from clockworker.executor._guard_cy import calls_out

# The core of the executor in whose queue the functions of a request run; set for the tasks of such requests, and inherited.
IN_QUEUE: contextvars.ContextVar[Core | None] = contextvars.ContextVar("clockworker.in_queue", default=None)

_IN_C = (types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType, types.MethodDescriptorType)

_anyio: Any = None  # its module, once its function is replaced
_run_sync: Any = None  # that function


def replace_run_sync() -> bool:
    """From now on `anyio.to_thread.run_sync` asks `IN_QUEUE`. False if the application has not imported anyio."""
    global _anyio, _run_sync
    module: Any = sys.modules.get("anyio.to_thread")
    if module is None:
        return False
    if module is not _anyio:
        _anyio = module
        _run_sync = module.run_sync
        module.run_sync = run_sync
    return True


@calls_out
async def run_sync(
    func: Callable[..., Any],
    *args: Any,
    abandon_on_cancel: bool = False,
    cancellable: bool | None = None,
    limiter: Any = None,
) -> Any:
    """As `anyio.to_thread.run_sync`; in a request whose functions run in its queue, there."""
    if limiter is not None or not is_in_queue() or _is_in_c(func):
        return await _run_sync(
            func, *args, abandon_on_cancel=abandon_on_cancel, cancellable=cancellable, limiter=limiter
        )
    # As anyio does: a request that was cancelled ends here, and others of the queue have their turn.
    from anyio.lowlevel import checkpoint

    await checkpoint()
    return contextvars.copy_context().run(func, *args)


def is_in_queue() -> bool:
    """Whether the functions of the request that runs are to run in its queue, and that is one which is preemptive."""
    core = IN_QUEUE.get()
    if core is None:
        return False
    current = core.current
    return current is not None and bool(current.membership.queue.preemptive)


def _is_in_c(func: Callable[..., Any]) -> bool:
    while isinstance(func, functools.partial):
        func = func.func
    return isinstance(func, _IN_C)
