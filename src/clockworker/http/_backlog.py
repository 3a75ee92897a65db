"""What clients have sent beyond what is parsed at once. Their connections take turns with it, and all of them together have a
quarter of a millisecond in a turn of the loop; while tasks are runnable, a fifth of the time.

One read may hold thousands of frames that ask for nothing, or of requests that are taken back. Were each connection given its
own time in each turn of the loop, a few of them had it all, and no task of any queue came to its step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from clockworker.executor._clock_cy import read as now_ns

SLICE_NS = 250_000
_PAUSES = 4  # times as long as they have had


class Backlog:
    """Of one server. is_busy: whether any task is runnable."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._waiting: deque[Callable[[], None]] = deque()
        self._not_before = 0

    def add(self, go_on: Callable[[], None]) -> None:
        """Whose turn comes once. It takes no longer than a slice, and adds itself again if it has more."""
        self._waiting.append(go_on)
        if len(self._waiting) == 1:
            self._look_later()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        now = now_ns()
        if now < self._not_before and self._is_busy():
            self._look_later()
            return
        began, until = now, now + SLICE_NS
        try:
            # As many as there are now: one that adds itself again has its next turn in the loop's next.
            for _ in range(len(self._waiting)):
                self._waiting[0]()
                self._waiting.popleft()
                now = now_ns()
                if now >= until:
                    break
        except BaseException:
            self._waiting.popleft()
            raise
        finally:
            self._not_before = now + _PAUSES * (now - began)
            if self._waiting:
                self._look_later()
