"""The line of calls that wait for one of few places, threads or processes, fairly between accounts. Pure.

A place that is free goes to the account (a queue, or a group within one) that holds fewest of them, and of its calls to the
first that came: one tenant's slow functions keep another's waiting until the next of them ends, and not until all have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waits(Protocol):
    """account: whose call it is, any object. since: when it came, in seconds of a monotonic clock."""

    @property
    def account(self) -> object: ...

    @property
    def since(self) -> float: ...


C = TypeVar("C", bound=Waits)


class Line(Generic[C]):
    """`len()` is how many calls wait."""

    def __init__(self) -> None:
        self._held: dict[object, int] = {}  # places by account; none has 0
        self._waiting: dict[object, dict[C, None]] = {}  # by account; no line is empty

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def hold(self, account: object) -> None:
        """It has got a place."""
        self._held[account] = self._held.get(account, 0) + 1

    def give_back(self, account: object) -> None:
        """A place."""
        if held := self._held.pop(account) - 1:
            self._held[account] = held

    def add(self, call: C) -> None:
        """At the end of its account's."""
        self._waiting.setdefault(call.account, {})[call] = None

    def next(self) -> C:
        """The one whose turn it is. It stays in the line, which must not be empty."""
        return next(iter(self._waiting[self._poorest()]))

    def pass_on(self, call: C) -> None:
        """It has had its turn. The next of its account comes after the others that hold as few places."""
        self.remove(call)
        if call.account in self._waiting:
            self._waiting[call.account] = self._waiting.pop(call.account)

    def remove(self, call: C) -> None:
        """If it is there."""
        line = self._waiting.get(call.account)
        if line is not None:
            line.pop(call, None)
            if not line:
                del self._waiting[call.account]

    def oldest(self) -> C:
        """Of all. The line must not be empty."""
        return min(self._firsts(), key=lambda call: call.since)

    def _firsts(self) -> Iterator[C]:
        return map(next, map(iter, self._waiting.values()))

    def _poorest(self) -> object:
        """Of the accounts whose calls wait the first with fewest places. A look at as many as there are places, and one."""
        poorest: object = None
        fewest: float = float("inf")
        for account in self._waiting:
            held = self._held.get(account, 0)
            if held < fewest:
                poorest, fewest = account, held
            if not held:
                break
        return poorest
