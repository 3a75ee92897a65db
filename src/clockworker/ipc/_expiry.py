"""Calls whose deadline has passed end: one timer of the loop for all of them, set for the earliest (`_deadlines`)."""

from __future__ import annotations

import asyncio
import time

from clockworker.ipc.calls._deadlines import Deadlines


class Expiry:
    """Of one mesh. timed_out: how many calls have ended so."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        self._loop = loop
        self._deadlines = deadlines
        self._timer: asyncio.TimerHandle | None = None
        self.timed_out = 0

    def set(self) -> None:
        """The earliest deadline is another."""
        earliest_ns = self._deadlines.earliest_ns()
        self.close()
        if earliest_ns is not None:
            delay_s = (earliest_ns - time.monotonic_ns()) / 1e9
            self._timer = self._loop.call_later(max(0.0, delay_s), self._passed)

    def close(self) -> None:
        """No call ends any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _passed(self) -> None:
        self._timer = None
        try:
            for call in self._deadlines.due(time.monotonic_ns()):
                self.timed_out += 1
                call.expire()
        finally:
            self.set()
