"""What the kernel says of a thread that was without a core: whether others had the core meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
import time

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # not Linux
    RUSAGE_THREAD = None  # type: ignore[assignment]

_SCHEDSTAT = "/proc/thread-self/schedstat"
_CPU_CLOCK = hasattr(time, "thread_time_ns")


class Meter:
    """Of the thread that asks. `ask` is called where time was lost and nowhere else: it takes 1.5 us.

    The file of /proc stays open, since opening it costs more than reading; `close` closes it. It belongs to one thread of one
    process: in another thread, or in a forked child, it is opened anew.
    """

    def __init__(self) -> None:
        self._thread: int | None = None  # whose the numbers are
        self._descriptor: int | None = None
        self._counts_switches = False
        self._delay_ns = 0  # for which it could have run
        self._arrivals = 0  # how often it was given a core
        self._voluntary = 0  # how often it gave one up

    def cpu_ns(self) -> int:
        """The thread's CPU clock."""
        return time.thread_time_ns() if _CPU_CLOCK else time.monotonic_ns()

    def ask(self, lost_ns: int) -> int:
        """What others had since the last call, of `lost_ns` without a core."""
        thread = threading.get_native_id()
        if thread != self._thread:
            self._begin(thread)
            return 0
        if self._descriptor is not None:
            delay_ns, arrivals = self._delay_ns, self._arrivals
            if not self._read_schedstat():
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
            if self._read_schedstat():
                return
            self.close()
            self._thread = thread
        if RUSAGE_THREAD is not None:
            self._read_switches()
            before = self._voluntary
            time.sleep(1e-6)
            self._read_switches()
            self._counts_switches = self._voluntary > before  # zeros for ever where the kernel's place is taken by another

    def _read_schedstat(self) -> bool:
        assert self._descriptor is not None
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
        self._thread = None
        self._counts_switches = False
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()
