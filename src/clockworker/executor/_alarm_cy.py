# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The alarm: what interrupts Python code that does not stop by itself.

A POSIX timer signals the main thread and no other (SIGEV_THREAD_ID). The signal's handler, in C, looks whether a slice is due.
If it is, the interpreter is told that the signal has come (`PyErr_SetInterruptEx`), and calls the signal's Python-level handler
at its next *eval breaker*, a few instructions on, where it also gives its lock to other threads. That handler is
`_fiber_cy`'s, and cuts there. C code that asks for signals by itself (`re`, `json`, arithmetic of large integers,
`time.sleep`) is interrupted too, and C code that never asks is not.

*Lazily.* To set a timer is a call of the kernel, and of the hypervisor in a virtual machine. So a slice only moves a word that
says when it is due. A timer that is set for an earlier time, for the sake of a slice that has long ended, is left alone; its
handler finds the word moved, or zero, and sets it anew, or not. A short step costs two stores, and the timer rings at most once
in the time of a slice. One that should have rung and has not is no reason to leave it alone.

*Looks.* Before a slice is due the handler may be asked to look now and then whether the loop has something to do: by `poll` of
what the loop itself asks for events, and by a word of the executor's. Both may be done in a signal's handler, and nothing in
Python is interrupted if there is nothing. `_slices_cy` says why, and how often.

*Early.* An alarm that was set for the end of one slice may ring just before the end of the next. It counts for that one if less
than 5 us are left of it; then its end is moved to now. If it is yet another slice when the Python-level handler comes, that has
it set anew: else nothing would ever cut what runs.

*SIGRTMAX.* The interpreter calls the handlers of all signals that have come in the order of their numbers, in a loop that
stands still while one of them is switched away from. So it is the last number. System calls that are interrupted are restarted
(SA_RESTART): libraries in C need not know of it. Those that the kernel never restarts (poll, sleeping) return EINTR, which
Python itself repeats, and in between the handler runs.

*The wake-up descriptor* (`signal.set_wakeup_fd`). The interpreter writes each signal's number to it, so that a loop which waits
there wakes up; uvloop always does. To wake up for nothing and read the number takes such a loop longer than all the rest of
a cut. So a pipe is put in its place. Whoever comes with a cut takes its number out before the loop looks, and hands others on;
if there is no cut, the loop does.

Rejected: a thread that sets the interrupt, for before CPython 3.13 the eval breaker only heeds what is set by the main thread
(none of 13,000 on 3.11); `Py_AddPendingCall`, since one that is switched away from makes all others wait; tracing, or
`sys.monitoring`, which needs the interpreter's lock to be switched on and costs each line.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError

_write_end = -1


def begin(handler: Callable[[int, Any], None]) -> None:
    """Have `handler` called, in the main thread, when a slice is due. Raises ConfigurationError where SIGRTMAX is taken."""
    taken = signal.getsignal(signal.SIGRTMAX)
    if taken is not signal.SIG_DFL:
        raise ConfigurationError(
            "preemptive queues need the signal SIGRTMAX, and this process has "
            + ("a handler for it that Python has not set" if taken is None else f"the handler {taken!r} for it")
        )
    signal.signal(signal.SIGRTMAX, handler)
    if cython.compiled:
        global _write_end
        alarm.read_end, _write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # type: ignore[name-defined]  # noqa: F821
        alarm.loops = -1  # type: ignore[name-defined]  # noqa: F821
        error = alarm_begin(cython.address(alarm), signal.SIGRTMAX)  # type: ignore[name-defined]  # noqa: F821
        if error:
            signal.signal(signal.SIGRTMAX, signal.SIG_DFL)
            _close_pipe()
            raise ConfigurationError(f"preemptive queues need a POSIX timer, and there is none: {os.strerror(error)}")


def end(forked: bool = False) -> None:
    """As it was before. forked: in a child process, to which timers do not pass."""
    if cython.compiled:
        alarm_end(cython.address(alarm), forked)  # type: ignore[name-defined]  # noqa: F821
        signal.signal(signal.SIGRTMAX, signal.SIG_DFL)
        now = signal.set_wakeup_fd(-1)
        if now == _write_end:
            now = -1 if forked else alarm.loops  # type: ignore[name-defined]  # noqa: F821
        if now >= 0:
            signal.set_wakeup_fd(now, warn_on_full_buffer=False)
        _close_pipe()


def _close_pipe() -> None:
    global _write_end
    os.close(alarm.read_end)  # type: ignore[name-defined]  # noqa: F821
    os.close(_write_end)
    alarm.loops = _write_end = -1  # type: ignore[name-defined]  # noqa: F821


def stand_in() -> None:
    """Put the pipe in the place of the wake-up descriptor, if a loop has set one."""
    before = signal.set_wakeup_fd(_write_end, warn_on_full_buffer=False)
    if before < 0:
        signal.set_wakeup_fd(-1)
    elif before != _write_end:
        alarm.loops = before  # type: ignore[name-defined]  # noqa: F821


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """From now on the loop hands on what comes while it waits."""
    loop.add_reader(alarm.read_end, drain)  # type: ignore[name-defined]  # noqa: F821


def watch_no_more(loop: asyncio.AbstractEventLoop) -> None:
    """The opposite."""
    if not loop.is_closed():
        loop.remove_reader(alarm.read_end)  # type: ignore[name-defined]  # noqa: F821


def drain() -> None:
    """Hand on what other signals have written."""
    alarm_drain(cython.address(alarm))  # type: ignore[name-defined]  # noqa: F821


def counts() -> tuple[int, int, int]:
    """How often the interpreter was interrupted, how many alarms were stale, and how many looks found nobody."""
    return (alarm.rung, alarm.stale, alarm.looked) if cython.compiled else (0, 0, 0)  # type: ignore[name-defined]  # noqa: F821
