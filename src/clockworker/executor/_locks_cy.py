# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Which locks a slice holds: a step that holds one is not cut.

A lock's owner is a thread, and whoever waits for what a suspended step holds would be the same thread: it would wait for ever,
or, of an RLock, be let in beside the owner. So locks are tracked exactly. Once a preemptive queue runs, the methods that take
and release a `_thread.lock` or `_thread.RLock` are wrapped in C (`_lock_methods.pxd`), methods that were bound or specialised
before included. `threading`, `queue`, `logging` and `concurrent` are built on these. What the slice takes is noted; what is
released, by whichever thread, is forgotten. A cut that comes meanwhile is refused and made at the release. A lock that is only
referenced here is not held: nobody can wait for it (`Condition.wait` leaves its waiter so). Outside of slices, and in other
threads but for a slice's time, a method is as it was and one comparison.

A lock that is kept over an await is not known in the next step: no asyncio program can be protected from that. Mutexes of C
extensions are not seen.

Rejected: a list of packages whose code is never cut (a program that logs in a loop would never be); replacing `threading.Lock`,
of which there are references everywhere; a count of what was taken less what was released, for a lock may be released by
whoever likes.
"""

from __future__ import annotations

import _thread

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

if cython.compiled:
    from cython.cimports.clockworker.executor._alarm_cy import alarm
    from cython.cimports.clockworker.executor._lock_methods import (
        any_held,
        find_locks,
        forget_all_held,
        unwrap_locks,
        wrap_locks,
    )


def find() -> str | None:
    """Find the methods. What is not as we know it; None if all is. Compiled only."""
    missing = find_locks(type(_thread.allocate_lock()), _thread.RLock)
    return (
        None if missing == cython.NULL else f"{missing.decode()} of a lock is no C function that is called as we know"
    )


def wrap() -> None:
    """From now on locks are tracked, of the caller's thread. Compiled only."""
    wrap_locks(cython.address(held), cython.address(alarm))  # type: ignore[name-defined]  # noqa: F821


def unwrap() -> None:
    """As it was before. Compiled only."""
    unwrap_locks(cython.address(held))  # type: ignore[name-defined]  # noqa: F821


def is_any_held() -> bool:
    """Whether the slice holds a lock."""
    return any_held(cython.address(held))  # type: ignore[name-defined, no-any-return]  # noqa: F821


def forget_all() -> None:
    """The step has ended."""
    forget_all_held(cython.address(held))  # type: ignore[name-defined]  # noqa: F821
