"""Deadlines of calls, the earliest first. Policy only: times are arguments.

A heap, from which what was answered in time is not taken out: it is passed over when it comes up. Most calls are answered
long before, so a heap of them would grow with the rate of calls times their timeout; when more than half of it is past
caring, it is made anew. Rejected: a timer of the loop for each call, which costs as much as the rest of the call.
"""

from __future__ import annotations

import heapq
from typing import Protocol

_FEW = 64  # not worth making anew


class Expiring(Protocol):
    def done(self) -> bool: ...
    def expire(self) -> object: ...


class Deadlines:
    """Of calls that may have been answered meanwhile."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Expiring]] = []
        self._added = 0
        self._answered = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, deadline_ns: int, call: Expiring) -> bool:
        """True if no other is earlier."""
        self._added += 1  # of two with one deadline the first comes first
        heapq.heappush(self._heap, (deadline_ns, self._added, call))
        return self._heap[0][2] is call

    def answered(self) -> None:
        """One of those here is done, and its deadline has not passed."""
        self._answered += 1
        if self._answered > _FEW and 2 * self._answered > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].done()]
            heapq.heapify(self._heap)
            self._answered = 0

    def due(self, now_ns: int) -> list[Expiring]:
        """Those that are not done and whose deadline has passed, in its order. They are taken out."""
        due = []
        while self._heap and (self._heap[0][0] <= now_ns or self._heap[0][2].done()):
            call = heapq.heappop(self._heap)[2]
            if call.done():
                self._answered = max(0, self._answered - 1)
            else:
                due.append(call)
        return due

    def earliest_ns(self) -> int | None:
        """When `due` has to be asked next."""
        return self._heap[0][0] if self._heap else None
