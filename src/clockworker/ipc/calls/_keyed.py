"""Calls of keys: `service.of(key)`, and `service.on(shard.owner(key))`.

Where keys move (`_owners`), `on` is one try: the call goes where the key was, and ends in `NotOwner` if it has gone elsewhere.
`of` asks for the owner at each try, and tries again after what has run nothing: `NotOwner` and `ShardDown`. It gives up at the
call's deadline, or after 5 seconds if there is none, with the last error.

Rejected: to pass a request on from shard to shard. Each would have to believe that it knows better than the one before, and two
that do not agree would send it to and fro.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from clockworker._errors import NotOwner, ShardDown
from clockworker.ipc.calls._chain_cy import inherited_deadline_ns
from clockworker.ipc.calls._owners import Owner, Owners
from clockworker.ipc.calls._places import AnyCall, Places, There

if TYPE_CHECKING:
    from clockworker.ipc.calls._method import RemoteMethod

PATIENCE_S = 5.0  # of a call without a deadline
_FIRST_WAIT_S = 0.01
_LONGEST_WAIT_S = 0.25


class Keyed:
    """How the methods of a service are called for a key. places: all. called: what this shard's own calls go to."""

    def __init__(self, places: Places, owners: Owners, called: Any, methods: dict[str, RemoteMethod]) -> None:
        self.places = places
        self.owners = owners
        self.called = called
        self.methods = methods

    def caller(self, owner: int, method: RemoteMethod, timeout_ns: int, *, nowait: bool) -> AnyCall:
        """What calls the method there, once."""
        place = self.places[int(owner)]
        if isinstance(place, There):
            key = owner.packed() if isinstance(owner, Owner) else b""
            return place.caller(method, None, timeout_ns, nowait, key)
        bound: AnyCall = getattr(self.called, method.attribute)
        if isinstance(owner, Owner):
            bound = guarded(self.owners, owner, method, bound)
        return place.caller(method, bound, timeout_ns, nowait)

    def patient_caller(self, key: bytes | str | int, method: RemoteMethod, timeout_ns: int) -> AnyCall:
        """What calls the method where the key is, wherever it goes."""

        def one_try(ends_ns: int) -> AnyCall:
            left_ns = max(1, ends_ns - time.monotonic_ns()) if timeout_ns else 0
            return self.caller(self.owners.of(key), method, left_ns, nowait=False)

        async def call(*args: Any, **kwargs: Any) -> Any:
            tries = _Tries(timeout_ns)
            while True:
                try:
                    return await one_try(tries.ends_ns)(*args, **kwargs)
                except (NotOwner, ShardDown) as error:
                    await tries.wait(error)

        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            tries = _Tries(timeout_ns)
            while True:
                items = one_try(tries.ends_ns)(*args, **kwargs)
                begun = False
                try:
                    async for item in items:
                        begun = True
                        yield item
                    return
                except (NotOwner, ShardDown) as error:
                    if begun:
                        raise
                    await tries.wait(error)
                finally:
                    await items.aclose()

        made: AnyCall = stream if method.streams else call
        made.__name__, made.__qualname__ = method.attribute, method.name
        return made


def guarded(owners: Owners, owner: Owner, method: RemoteMethod, bound: AnyCall) -> AnyCall:
    """The method here, which looks whether the key is ours when it begins, as a request of another shard does."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        if (refusal := owners.refusal(owner)) is not None:
            raise refusal
        return await bound(*args, **kwargs)

    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        if (refusal := owners.refusal(owner)) is not None:
            raise refusal
        items = bound(*args, **kwargs)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    return stream if method.streams else call


class _Tries:
    """Those of one call. ends_ns: when there are no more."""

    def __init__(self, timeout_ns: int) -> None:
        now = time.monotonic_ns()
        limits = [now + timeout_ns] if timeout_ns else []
        if inherited_ns := inherited_deadline_ns():
            limits.append(inherited_ns)
        self.ends_ns = min(limits, default=now + round(PATIENCE_S * 1e9))
        self._wait_s = _FIRST_WAIT_S

    async def wait(self, error: Exception) -> None:
        """Before the next one. Raises the error, where there is none."""
        left_s = (self.ends_ns - time.monotonic_ns()) / 1e9
        if left_s <= self._wait_s:
            raise error
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)


class KeyedProxy:
    """The instance that has a key. It lives for one call: only what is asked for is made."""

    __slots__ = ("__make", "__methods", "__where")

    def __init__(self, methods: dict[str, RemoteMethod], where: str, make: Callable[[RemoteMethod], AnyCall]) -> None:
        self.__methods = methods
        self.__where = where
        self.__make = make

    def __getattr__(self, name: str) -> Any:
        method = self.__methods.get(name)
        if method is None:
            known = ", ".join(sorted(self.__methods))
            raise AttributeError(f"{name!r} cannot be called on {self.__where}; marked @remote are {known}")
        return self.__make(method)
