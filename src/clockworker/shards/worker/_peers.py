"""Who is where: what a shard is told of the others, as the application hears it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

import msgspec


class PeerChange(msgspec.Struct, frozen=True):
    """What became of another shard. incarnation: of the one that came, or died: what `Shard.incarnation` is there.

    kind: "came": it is there, after there was none. "replaced": this incarnation has the place of another one. "died": there is
    none; its successor is not there yet.
    """

    shard: int
    kind: Literal["came", "replaced", "died"]
    incarnation: int


class Peers:
    """shard: our own number; what is told of another incarnation of ourselves is nobody's."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._present: dict[int, int] = {}  # the incarnation that has the place, by shard
        self._beside: dict[int, int] = {}
        self._listening: set[_Changes] = set()

    def connected(self, peer: int, incarnation: int, *, beside: bool) -> None:
        if beside:
            self._beside[peer] = incarnation
        else:
            self._is_now(peer, incarnation)

    def disconnected(self, peer: int, *, beside: bool) -> None:
        if beside:
            self._beside.pop(peer, None)
        else:
            self._is_now(peer, None)

    def changed(self, peer: int) -> None:
        """The two incarnations have changed places."""
        successor = self._beside.pop(peer, None)
        if (old := self._present.get(peer)) is not None:
            self._beside[peer] = old
        if successor is not None:
            self._is_now(peer, successor)

    def changes(self) -> AsyncIterator[PeerChange]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[PeerChange]:
        changes = _Changes()
        for peer, incarnation in sorted(self._present.items()):
            changes.put(peer, None, incarnation)
        self._listening.add(changes)
        try:
            while True:
                yield await changes.get()
        finally:
            self._listening.discard(changes)

    def _is_now(self, peer: int, incarnation: int | None) -> None:
        before = self._present.get(peer)
        if peer == self._shard or incarnation == before:  # the same, with rings made anew
            return
        if incarnation is None:
            del self._present[peer]
        else:
            self._present[peer] = incarnation
        for changes in self._listening:
            changes.put(peer, before, incarnation)


class _Changes:
    """Those that one listener has not taken: of each peer what it was when he last heard of it, and what it is now."""

    def __init__(self) -> None:
        self._known: dict[int, int | None] = {}
        self._waiting: dict[int, int | None] = {}
        self._died: dict[int, int] = {}  # the last incarnation of those that are not there
        self._news = asyncio.Event()

    def put(self, peer: int, before: int | None, now: int | None) -> None:
        self._known.setdefault(peer, before)
        self._waiting.pop(peer, None)  # the latest, in its turn
        if now is None and before is not None:
            self._died[peer] = before
        if now != self._known[peer]:
            self._waiting[peer] = now
        self._news.set()

    async def get(self) -> PeerChange:
        while not self._waiting:
            self._news.clear()
            await self._news.wait()
        peer = next(iter(self._waiting))
        now, known = self._waiting.pop(peer), self._known[peer]
        self._known[peer] = now
        if now is None:
            return PeerChange(peer, "died", self._died[peer])
        return PeerChange(peer, "came" if known is None else "replaced", now)
