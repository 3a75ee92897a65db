"""Who still has to hear of a subscription before it is entered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from clockworker._errors import SchemaMismatch


class Confirmation:
    """Of one. word: the number of what they are told. missing: those who have not said yet that they have heard it:
    outlets, and what carries topics to other nodes."""

    def __init__(self, word: int, missing: Iterable[object]) -> None:
        self.word = word
        self.missing = set(missing)
        self.mismatch = ""
        self._complete = asyncio.Event()
        if not self.missing:
            self._complete.set()

    def heard(self, outlet: object, mismatch: str = "") -> None:
        """It has, or is gone."""
        self.missing.discard(outlet)
        self.mismatch = self.mismatch or mismatch
        if not self.missing:
            self._complete.set()

    async def wait(self) -> None:
        """Until all have. Raises `SchemaMismatch` if one of them sends what is not understood here."""
        if self.missing:
            await self._complete.wait()
        if self.mismatch:
            raise SchemaMismatch(self.mismatch)


class Confirmations:
    """Those that are not complete, by their words."""

    def __init__(self) -> None:
        self._open: dict[int, Confirmation] = {}

    def begin(self, word: int, missing: Iterable[object]) -> Confirmation:
        confirmation = Confirmation(word, missing)
        if confirmation.missing:
            self._open[word] = confirmation
        return confirmation

    def forget(self, confirmation: Confirmation) -> None:
        """Nobody waits for it any more."""
        self._open.pop(confirmation.word, None)

    def heard(self, word: int, outlet: object, mismatch: str = "") -> None:
        """mismatch: why the peer sends what is not understood here."""
        confirmation = self._open.get(word)
        if confirmation is not None and outlet in confirmation.missing:
            confirmation.heard(outlet, mismatch)
            if not confirmation.missing:
                del self._open[word]

    def lost(self, outlet: object) -> None:
        """A peer is gone."""
        for word in list(self._open):
            self.heard(word, outlet)
