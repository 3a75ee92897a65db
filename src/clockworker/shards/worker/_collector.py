"""How often the collector of cycles goes through everything.

It does so whenever what has lived for a while is a quarter more than at the last time. While little lives that takes nothing;
but with a thousand requests under way it takes a tenth of a second, in which nothing else runs, and when a crowd comes, or
clients that attack, one such pass follows the other. So after one that took long the next is put off until all of them take no
more than half a per cent of the time, or until twice as much may live. Younger objects, among which nearly all cycles die, are
collected as ever.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

_LONG_NS = 1_000_000  # a pass that takes less disturbs nobody
_PARTS = 200  # of the time full passes have one
_OBJECT_NS = 100  # of a pass, for each object

_OLDEST = 2  # generation


class Collector:
    """Watches passes, and puts full ones off. now, cpu: clocks, in ns; the second one of the thread."""

    def __init__(
        self, now: Callable[[], int] = time.monotonic_ns, cpu: Callable[[], int] = time.thread_time_ns
    ) -> None:
        self._now = now
        self._cpu = cpu
        self._began = self._not_before = 0
        self._usual = self._ours = 0  # thresholds of the oldest generation; 0: it is as the application has it

    def start(self) -> None:
        gc.callbacks.append(self._passed)

    def stop(self) -> None:
        gc.callbacks.remove(self._passed)
        self._allow()

    def _passed(self, phase: str, info: dict[str, Any]) -> None:
        generation = info["generation"]
        if generation == 0:
            return
        if phase == "start":
            self._began = self._cpu()
        elif generation == _OLDEST:
            self._allow()
            took = self._cpu() - self._began
            if took >= _LONG_NS:
                self._put_off(took)
        elif self._usual and self._now() >= self._not_before:
            self._allow()

    def _put_off(self, took: int) -> None:
        young, middle, oldest = gc.get_threshold()
        if young > 0 and oldest > 0:  # else the application collects by itself, or this Python has no such generation
            self._usual, self._ours = oldest, max(oldest, took // (_OBJECT_NS * young * max(1, middle)))
            self._not_before = self._now() + _PARTS * took
            gc.set_threshold(young, middle, self._ours)

    def _allow(self) -> None:
        young, middle, oldest = gc.get_threshold()
        if self._usual and oldest == self._ours:  # else the application has set it since
            gc.set_threshold(young, middle, self._usual)
        self._usual = 0
