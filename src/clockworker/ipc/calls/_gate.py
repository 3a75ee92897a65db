"""The gate before the services of a shard whose state moves, through which the shard's own calls of them go.

    OPEN      calls run here
    CLOSING   new calls wait; those that are running go on, and what they call goes through: they could not end otherwise
    SHUT      nothing runs. The state is read, or has been
    MOVED     calls, those that wait too, go to the successor

    OPEN -> CLOSING -> SHUT -> MOVED; CLOSING, SHUT -> OPEN where the shard stays

What is called from a thread, or by way of another that waits here, is not known to belong to a call that is running. It may,
if it is made within others; so those are let through when it seems that somebody waits for them (`let_deep_through`).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

from clockworker.ipc.calls._chain_cy import CHAIN
from clockworker.ipc.calls._method import RemoteMethod

OPEN = 0
CLOSING = 1
SHUT = 2
MOVED = 3

AnyCall = Callable[..., Any]


class Within:
    """What runs in a context belongs to a call that has gone through. always: also while the gate is shut; of what hands over
    and takes over itself."""

    __slots__ = ("always", "ended")

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self.ended = False


WITHIN: ContextVar[Within | None] = ContextVar("clockworker.within", default=None)


class Gate:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.state = OPEN
        self._loop = loop
        self._running: Counter[str] = Counter()
        self._waiting: deque[tuple[asyncio.Future[None], bool]] = deque()  # and whether they are made within others

    @property
    def running(self) -> list[str]:
        """The names of the methods that are, here and called from here."""
        return [*self._running]

    def close(self) -> None:
        if self.state == OPEN:
            self.state = CLOSING

    def shut(self) -> None:
        self.state = SHUT

    def open(self) -> None:
        """The state stays: what waits runs here."""
        self.state = OPEN
        self._let_through(every=True)

    def move(self) -> None:
        """The state has moved: what waits goes where that is."""
        self.state = MOVED
        self._let_through(every=True)

    def let_deep_through(self) -> None:
        if self.state == CLOSING:
            self._let_through(every=False)

    def before(self, method: RemoteMethod, bound: AnyCall, there: AnyCall) -> AnyCall:
        """The gate in front of a method. bound: the instance's. there: the successor's."""
        name = method.name

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.state and not self._passes():
                await self._wait()
            outer = WITHIN.get()
            if self.state == MOVED and (outer is None or not outer.always):
                return await there(*args, **kwargs)
            within = Within()
            within.always = outer is not None and outer.always
            WITHIN.set(within)
            self._running[name] += 1
            try:
                return await bound(*args, **kwargs)
            finally:
                within.ended = True
                WITHIN.set(outer)
                self._left(name)

        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            if self.state and not self._passes():
                await self._wait()
            items = (there if self.state == MOVED else bound)(*args, **kwargs)
            try:
                async for item in items:
                    yield item
            finally:
                await items.aclose()

        gated: AnyCall = stream if method.streams else call
        gated.__name__, gated.__qualname__ = method.attribute, name
        return gated

    def _passes(self) -> bool:
        if self.state == MOVED:
            return True
        within = WITHIN.get()
        if within is not None and not within.ended and (self.state == CLOSING or within.always):
            return True
        if self.state == SHUT:
            return False
        chain = CHAIN.get()
        if chain is not None and chain.within is not None:
            chain = chain.within
        return chain is not None and chain.asked_by is not None and not chain.ended

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = self._loop.create_future()
        chain = CHAIN.get()
        self._waiting.append((turn, chain is not None and chain.depth > 0))
        await turn

    def _let_through(self, *, every: bool) -> None:
        stay: deque[tuple[asyncio.Future[None], bool]] = deque()
        while self._waiting:
            turn, deep = self._waiting.popleft()
            if turn.done():  # its caller has left
                continue
            if every or deep:
                turn.set_result(None)
            else:
                stay.append((turn, deep))
        self._waiting = stay

    def _left(self, name: str) -> None:
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]


class Gated:
    """A service's instance behind the gate: what is called of it, by attribute."""

    def __init__(
        self, gate: Gate, instance: object, methods: dict[str, RemoteMethod], there: Callable[[RemoteMethod], AnyCall]
    ) -> None:
        for attribute, method in methods.items():
            setattr(self, attribute, gate.before(method, getattr(instance, attribute), there(method)))
