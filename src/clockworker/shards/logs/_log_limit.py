"""How often the same thing is worth a log line. Pure: the time, in seconds, is an argument.

The first time at once, then after `first`, and after each line twice as long as before it, up to `most`. Calm for as long
as the present interval starts anew. What is not said is counted, and the next line tells how often.
"""

from __future__ import annotations

import math
from types import TracebackType


class Limiter:
    __slots__ = ("_first", "_interval", "_last", "_most", "_next", "_unsaid")

    def __init__(self, first: float = 10.0, most: float = 300.0) -> None:
        self._first = first
        self._most = most
        self._interval = first
        self._next = -math.inf
        self._last = -math.inf
        self._unsaid = 0

    def may_say(self, now: float) -> int | None:
        """None: not this time. Otherwise, how many times it has not been said since it last was."""
        calm = now - self._last > self._interval
        self._last = now
        if now < self._next:
            self._unsaid += 1
            return None
        self._interval = self._first if calm else min(2 * self._interval, self._most)
        self._next = now + self._interval
        unsaid, self._unsaid = self._unsaid, 0
        return unsaid


class ErrorLimiter:
    """A limiter for each kind of error: its type, and the line that raised it. What groups hold tells of what kind they are.
    There are at most `kinds`; after that those heard of first are forgotten."""

    def __init__(self, kinds: int = 64) -> None:
        self._kinds = kinds
        self._limiters: dict[object, Limiter] = {}

    def may_say(self, error: BaseException | None, now: float, what: str = "") -> int | None:
        """As `Limiter.may_say`. what: tells apart what else differs."""
        kind = (what, _kind(error))
        limiter = self._limiters.pop(kind, None) or Limiter()
        self._limiters[kind] = limiter  # as the newest
        if len(self._limiters) > self._kinds:
            del self._limiters[next(iter(self._limiters))]
        return limiter.may_say(now)


def _kind(error: BaseException | None) -> object:
    if isinstance(error, BaseExceptionGroup):
        return frozenset(map(_kind, error.exceptions))
    trace: TracebackType | None = None if error is None else error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return type(error), trace and (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def more(unsaid: int) -> str:
    """For the end of a line."""
    return f" ({unsaid} more like this since the last such line)" if unsaid else ""
