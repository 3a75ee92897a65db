"""Which shard this is, for code that nobody has handed one: a library, a handler deep inside, a function in a thread.

A process has one shard, and all of its threads find that. Where several share a process, as they may in tests, each runs in a
context of its own that says which it is, and what is started from there inherits it; a thread, or a request from a peer, begins
without that context, and is then not told a shard at random but that there are several.

A child that is forked from a shard is none: it has the context of its parent, and finds nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar

from clockworker._errors import UsageError
from clockworker.shards.worker._shard import Shard

_of_context: ContextVar[Shard] = ContextVar("clockworker.shard")
_here: list[Shard] = []  # those that run in this process
_forked = False


def current_shard() -> Shard:
    """The shard that the caller runs in: the one that `main(shard)` was given. In any task, callback and thread of its process.

    Raises `UsageError` where there is none: while the application is imported, in a process that `clockworker-serve` has not
    made, in a child that was forked from a shard, and after the shard's end. From another thread than the loop's, what is safe
    is `call_threadsafe` and plain attributes.
    """
    shard = _of_context.get(None)
    if shard is not None and shard in _here:
        return shard
    match _here:
        case [only]:
            return only
        case []:
            raise UsageError(_why_none())
    raise UsageError(
        f"{len(_here)} shards run in this process, and this thread or task was not started by one of them: "
        "hand it the shard, or run it in a copy of that shard's context (contextvars.copy_context().run)"
    )


@contextlib.contextmanager
def being(shard: Shard) -> Iterator[None]:
    """What runs meanwhile, in this context and in what is started from it, runs in that shard."""
    global _forked
    _forked = False
    _here.append(shard)
    token = _of_context.set(shard)
    try:
        yield
    finally:
        _of_context.reset(token)
        if shard in _here:  # else this is a forked child
            _here.remove(shard)


def _why_none() -> str:
    if _forked:
        return "this process was forked from a shard, and is none; what it needs of the shard has to be handed to it"
    return (
        "there is no shard here: current_shard() finds it from main(shard) on, in a process of clockworker-serve's. "
        "Call it inside functions, and not while a module is imported"
    )


def _leave() -> None:
    global _forked
    _forked = bool(_here) or _forked
    _here.clear()


os.register_at_fork(after_in_child=_leave)
