"""Carts, by the session that each belongs to: a service with one instance a shard, each for the sessions that it owns."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator

import msgspec

import clockworker as cw

IDLE_S = 1800.0  # then a session is forgotten
MOST = 100_000  # sessions of a shard; beyond, the one that was used least lately is forgotten


class Session(msgspec.Struct, array_like=True, frozen=True):
    """What is handed over of one. used_s: how many seconds ago it was used last; clocks of two processes need not agree."""

    name: str
    used_s: float
    cart: dict[str, int]


class Sessions:
    """Kept when the shard is replaced (SIGHUP): it hands them over to its successor."""

    def __init__(self, shard: cw.Shard) -> None:
        self._sessions: OrderedDict[str, tuple[float, dict[str, int]]] = OrderedDict()  # least lately used first

    @cw.remote
    async def cart(self, session: str) -> dict[str, int]:
        """How many of each product are in it."""
        return dict(self._cart(session)) if session in self._sessions else {}

    @cw.remote
    async def put(self, session: str, product: str, count: int) -> dict[str, int]:
        """Have so many of the product in the cart, which is returned."""
        cart = self._cart(session)
        if count:
            cart[product] = count
        else:
            cart.pop(product, None)
        return dict(cart)

    @cw.remote
    async def take(self, session: str) -> dict[str, int]:
        """What is in the cart, which is empty then: two orders at the same time do not both get it."""
        _, cart = self._sessions.pop(session, (0.0, {}))
        return cart

    async def sweep(self) -> None:
        """Forget those that have been idle for too long."""
        oldest = time.monotonic() - IDLE_S
        while self._sessions:
            session, (used_at, _) = next(iter(self._sessions.items()))
            if used_at > oldest:
                break
            del self._sessions[session]
            await cw.yield_maybe()

    async def hand_over(self) -> AsyncIterator[Session]:
        now = time.monotonic()
        for name, (used_at, cart) in [*self._sessions.items()]:  # a sweep that has begun goes on
            yield Session(name, now - used_at, cart)

    async def take_over(self, sessions: AsyncIterator[Session]) -> None:
        now = time.monotonic()
        async for session in sessions:
            self._sessions[session.name] = now - session.used_s, session.cart

    def _cart(self, session: str) -> dict[str, int]:
        _, cart = self._sessions.get(session, (0.0, {}))
        self._sessions[session] = time.monotonic(), cart
        self._sessions.move_to_end(session)
        if len(self._sessions) > MOST:
            self._sessions.popitem(last=False)
        return cart
