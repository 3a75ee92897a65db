"""The books of the supervisor: what each shard has done over all its incarnations, and over the last seconds. Pure.

A reading counts from the start of an incarnation. When one dies, its last reading is added to the shard's base, and every
present reading is added to that base before anybody sees it: so what is shown only grows, whoever dies in between. What a
killed shard did after its last reading, a quarter of a second at most, is lost.

Once a second all totals are kept, for `WINDOW_S`. The difference to the oldest of them is what has happened lately.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from clockworker.shards.protocol._reading import Reading

WINDOW_S = 5.0


class Totals(msgspec.Struct, frozen=True):
    """Of one shard since the server has started. restarts: incarnations after the first; stalls: those reported."""

    restarts: int
    stalls: int
    reading: Reading


_NOTHING = Reading.nothing()


class _Account:
    def __init__(self) -> None:
        self.base: Reading | None = None
        self.starts = 0
        self.stalls = 0
        self.stalled_since = 0.0


class Ledger:
    """Of so many shards. Times are in seconds."""

    def __init__(self, shards: int) -> None:
        self._accounts = [_Account() for _ in range(shards)]
        self._history: deque[tuple[float, list[Totals]]] = deque()

    def started(self, shard: int) -> int:
        """Returns how often it has been started."""
        self._accounts[shard].starts += 1
        return self._accounts[shard].starts

    def stalled(self, shard: int, beat: float) -> bool:
        """A look at a stalled loop. Those with the same last beat are of the same stall, which counts once: then False."""
        account = self._accounts[shard]
        if beat == account.stalled_since:
            return False
        account.stalled_since = beat
        account.stalls += 1
        return True

    def died(self, shard: int, last: Reading) -> None:
        account = self._accounts[shard]
        account.base = last if account.base is None else account.base.then(last)

    def totals(self, present: Sequence[Reading | None]) -> list[Totals]:
        """present: what each shard's slots say; None of a shard that is not there. Of that nothing is now."""
        found = []
        for account, reading in zip(self._accounts, present, strict=True):
            if reading is None:
                reading = _NOTHING
            if account.base is not None:
                reading = account.base.then(reading)
            found.append(Totals(max(0, account.starts - 1), account.stalls, reading))
        return found

    def remember(self, now: float, totals: list[Totals]) -> None:
        """To be called about once a second."""
        self._history.append((now, totals))
        while self._history and now - self._history[0][0] > WINDOW_S:
            self._history.popleft()

    def recently(self, now: float, totals: list[Totals]) -> tuple[float, list[Reading]]:
        """The seconds over which it is known what has happened lately, and what that is. 0 seconds if nothing is."""
        for then, before in self._history:
            if 0 < now - then <= WINDOW_S + 1:
                return now - then, [
                    totals.reading.since(earlier.reading) for totals, earlier in zip(totals, before, strict=True)
                ]
        return 0.0, [_NOTHING for _ in self._accounts]
