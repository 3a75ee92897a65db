# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What the kernel says of a thread that was without a core: whether others had the core meanwhile.

Compiled, a reading is three system calls and nothing else: 1 us, where Python's functions for them took 6.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # not Linux
    RUSAGE_THREAD = None  # type: ignore[assignment, misc]

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._clock_cy import wound_ns

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import is_wound
    from cython.cimports.clockworker.executor._meter_cy import native_thread_id, read_schedstat, thread_cpu_ns
else:
    from clockworker.executor._clock_cy import is_wound

    native_thread_id = threading.get_native_id

_SCHEDSTAT = "/proc/thread-self/schedstat"


def _find_cpu_clock() -> Callable[[], int]:
    """Without one the thread has had all the time."""
    try:
        time.thread_time_ns()
    except (AttributeError, OSError):
        return time.monotonic_ns
    return time.thread_time_ns


_cpu_clock = _find_cpu_clock()
_has_cpu_clock = _cpu_clock is not time.monotonic_ns


@cython.cclass
class Meter:
    """Of the thread that asks.

    The file of /proc stays open, since opening it costs more than reading; `close` closes it. It belongs to one thread of one
    process: in another thread, or in a forked child, it is opened anew. Tests put another meter in the place of this one.
    """

    _thread: int  # whose the numbers are; -1: nobody's
    _counts_delay: bool  # by schedstat, whose descriptor this is; else
    _descriptor: int
    _counts_switches: bool
    _delay_ns: int  # for which the thread could have run
    _arrivals: int  # how often it was given a core
    _voluntary: int  # how often it gave one up

    def __init__(self) -> None:
        self._thread = -1
        self._counts_delay = False
        self._descriptor = -1
        self._counts_switches = False
        self._delay_ns = 0
        self._arrivals = 0
        self._voluntary = 0

    def cpu_ns(self) -> int:
        """The thread's CPU clock. Of wound time the thread has had all."""
        if is_wound():
            return wound_ns()
        if cython.compiled and _has_cpu_clock:
            return thread_cpu_ns()  # type: ignore[no-any-return]
        return _cpu_clock()

    def ask(self, lost_ns: int) -> int:
        """What others had since the last call, of `lost_ns` without a core."""
        thread = native_thread_id()
        if thread != self._thread:
            self._begin(thread)
            return 0
        if self._counts_delay:
            delay_ns, arrivals = self._delay_ns, self._arrivals
            if not self._read_schedstat():
                self._counts_delay = False  # the descriptor was closed by somebody, and may be somebody's now
                return 0
            return lost_ns if self._arrivals == arrivals else min(self._delay_ns - delay_ns, lost_ns)
        if self._counts_switches:
            voluntary = self._voluntary
            self._read_switches()
            return lost_ns if self._voluntary == voluntary else 0
        return 0

    def _begin(self, thread: int) -> None:
        self.close()
        self._thread = thread
        try:
            self._descriptor = os.open(_SCHEDSTAT, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # no /proc, a kernel without CONFIG_SCHED_INFO, or no descriptor is free
            pass
        else:
            self._counts_delay = True
            if self._read_schedstat():
                return
            self.close()
            self._thread = thread
        if RUSAGE_THREAD is not None:
            self._read_switches()
            before = self._voluntary
            time.sleep(1e-6)
            self._read_switches()
            self._counts_switches = (
                self._voluntary > before
            )  # zeros for ever where the kernel's place is taken by another

    def _read_schedstat(self) -> bool:
        if cython.compiled:
            return read_schedstat(  # type: ignore[no-any-return]
                self._descriptor, cython.address(self._delay_ns), cython.address(self._arrivals)
            )
        try:
            numbers = os.pread(self._descriptor, 128, 0).split()
            self._delay_ns, self._arrivals = int(numbers[1]), int(numbers[2])
        except (OSError, ValueError, IndexError):
            return False
        return self._arrivals > 0  # zeros where the kernel does not count

    def _read_switches(self) -> None:
        self._voluntary = getrusage(RUSAGE_THREAD).ru_nvcsw

    def close(self) -> None:
        """Hold nothing. The next to ask begins anew."""
        self._thread = -1
        self._counts_switches = False
        if self._counts_delay:
            self._counts_delay = False
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    def __del__(self) -> None:
        if os is not None:  # at the interpreter's end modules may have been emptied
            self.close()
