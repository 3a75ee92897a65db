"""Sleeps of microseconds, the same for every event loop.

libuv counts in milliseconds: under uvloop `asyncio.sleep(0.0003)` only yields, and `asyncio.sleep(0.0006)` sleeps for 1 ms.
Here one timerfd wakes the loop, as a socket would, at the time at which the earliest sleeper is due.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import os
import time

_libc = ctypes.CDLL(None, use_errno=True)  # `os` has timerfd from Python 3.13 on
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # TFD_CLOEXEC and TFD_NONBLOCK are the same


class _Setting(ctypes.Structure):
    """struct itimerspec: the interval, which stays 0, and the time."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class MicrosecondTimer:
    """`await timer.sleep(us)` on the running loop; `close()` when nobody sleeps any more."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0  # keeps futures from being compared
        self._setting = _Setting()
        self._loop.add_reader(self._fd, self._fire)

    def sleep(self, duration_us: float) -> asyncio.Future[None]:
        due = time.monotonic_ns() + int(duration_us * 1_000)
        future = self._loop.create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (due, self._count, future))
        if self._sleepers[0][2] is future:
            self._arm(due)
        return future

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _arm(self, due: int) -> None:
        self._setting.s, self._setting.ns = divmod(due, 1_000_000_000)
        _libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._setting), None)

    def _fire(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # armed anew between its expiry and now
            return
        now = time.monotonic_ns()
        while self._sleepers and self._sleepers[0][0] <= now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
        if self._sleepers:
            self._arm(self._sleepers[0][0])
