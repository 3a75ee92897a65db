"""Sleeps of microseconds, the same for every event loop.

libuv counts in milliseconds: under uvloop `asyncio.sleep(0.0003)` only yields, and `asyncio.sleep(0.0006)` sleeps for 1 ms.
`MicrosecondTimer` is exact: one timerfd wakes the loop, as a socket would, at the time at which the earliest sleeper is due.
To set it is dear, some 7 us in a virtual machine, and who takes turns more often sets it more often.
`LoopTimer` is what programs have: the loop's own timers, and the next whole millisecond, as tokio's timers do.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import math
import os
import time
from collections.abc import Awaitable
from typing import Protocol

_libc = ctypes.CDLL(None, use_errno=True)  # `os` has timerfd from Python 3.13 on
_Setting = (
    ctypes.c_long * 4
)  # struct itimerspec: the interval, which stays 0, and the time; seconds and nanoseconds of each
_settime = _libc.timerfd_settime
_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Setting), ctypes.c_void_p]
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # TFD_CLOEXEC and TFD_NONBLOCK are the same


class Timer(Protocol):
    """`await timer.sleep(us)` on the running loop; `close()` when nobody sleeps any more."""

    def sleep(self, duration_us: float) -> Awaitable[None]: ...
    def close(self) -> None: ...


class LoopTimer:
    """`asyncio.sleep`, rounded up to whole milliseconds."""

    def sleep(self, duration_us: float) -> Awaitable[None]:
        return asyncio.sleep(math.ceil(duration_us / 1_000) / 1_000)

    def close(self) -> None:
        """There is nothing to close."""


class Alarm:
    """Wakes the running loop at a time, by a timerfd. `rings` is what it does then."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = _Setting()
        self._pointer = ctypes.pointer(self._setting)
        self._loop.add_reader(self._fd, self.rings)

    def rings(self) -> None:
        """It is readable until it is set again, or read."""
        raise NotImplementedError

    def set(self, due_ns: int) -> None:
        """From now on the loop is woken at that time of the monotonic clock; before, not even if an earlier time has come."""
        self._setting[2] = due_ns // 1_000_000_000
        self._setting[3] = due_ns % 1_000_000_000
        _settime(self._fd, _ABSOLUTE, self._pointer, None)

    def silence(self) -> None:
        """Until it is set again."""
        os.read(self._fd, 8)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class MicrosecondTimer(Alarm):
    def __init__(self) -> None:
        super().__init__()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0  # keeps futures from being compared

    def sleep(self, duration_us: float) -> asyncio.Future[None]:
        due = time.monotonic_ns() + int(duration_us * 1_000)
        future = self._loop.create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (due, self._count, future))
        if self._sleepers[0][2] is future:
            self.set(due)
        return future

    def rings(self) -> None:
        sleepers = self._sleepers
        now = time.monotonic_ns()
        while sleepers and sleepers[0][0] <= now:
            future = heapq.heappop(sleepers)[2]
            if not future.done():
                future.set_result(None)
        if sleepers:
            self.set(sleepers[0][0])
        else:
            self.silence()
