"""What the kernel counts of this process, cheaply enough to be asked four times a second."""

from __future__ import annotations

import os
import resource

from clockworker.shards.protocol._reading import ProcessReading

_PAGE = resource.getpagesize()


class Usage:
    """The files of /proc stay open: opening them costs more than reading."""

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Of the main thread, where the loop runs.
            self._schedstat: int | None = os.open("/proc/self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # a kernel without CONFIG_SCHED_INFO
            self._schedstat = None

    def read(self) -> ProcessReading:
        """What the kernel counts now. Three system calls."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return ProcessReading(
            cpu_user_ns=round(usage.ru_utime * 1e9),
            cpu_system_ns=round(usage.ru_stime * 1e9),
            run_delay_ns=0 if self._schedstat is None else int(os.pread(self._schedstat, 128, 0).split()[1]),
            minor_faults=usage.ru_minflt,
            major_faults=usage.ru_majflt,
            voluntary_switches=usage.ru_nvcsw,
            involuntary_switches=usage.ru_nivcsw,
            rss_bytes=int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE,
        )

    def close(self) -> None:
        os.close(self._statm)
        if self._schedstat is not None:
            os.close(self._schedstat)
