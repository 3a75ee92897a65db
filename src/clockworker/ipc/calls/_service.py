"""Services: one instance on every shard, and the proxies through which the others call it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from clockworker._errors import UsageError
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._outbox_cy import Outbox, Sender
from clockworker.ipc.calls._places import AnyCall, Here, There
from clockworker.ipc.calls._remote import is_remote
from clockworker.ipc.calls._threads import CallFuture, ThreadCalls
from clockworker.ipc.calls._timeout import nanoseconds
from clockworker.ipc.calls._together import together

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class Sharded(Generic[S]):
    """A service that `shard.start` has started here. `await service.on(i).method(...)` runs the method on shard i."""

    def __init__(
        self,
        home: Home,
        places: list[Here | There],
        threads: ThreadCalls,
        instance: S,
        methods: dict[str, RemoteMethod],
        *,
        gated: object = None,
        is_here: Callable[[], bool] = lambda: True,
    ) -> None:
        """gated: what this shard's own calls go to in place of the instance, whose state moves."""
        self._name = type(instance).__name__
        self._home = home
        self._places = places
        self._threads = threads
        self._instance = instance
        self._called = called = instance if gated is None else gated
        self._is_here = is_here
        self._methods = methods
        self._proxies: list[Any] = [_Proxy(place, called, methods, 0, nowait=False) for place in places]
        self._send = Outbox(self._find_senders).send
        self._nowait: list[Any] = [_Proxy(place, called, methods, 0, nowait=True) for place in places]

    @property
    def local(self) -> S:
        """This shard's own instance."""
        return self._instance

    @property
    def is_here(self) -> bool:
        """Whether this shard's instance is the one that counts. False from when its `hand_over` begins, and in a shard that has
        been replaced: then calls through `on(shard.id)` wait for the successor, and go there, and what is done to `local`
        directly is lost. Always true of a service that has no `hand_over`."""
        return self._is_here()

    @property
    def others(self) -> list[int]:
        """The other shards, for a call to each."""
        return [shard for shard in range(len(self._proxies)) if shard != self._home.shard_id]

    def on(self, shard: int, *, timeout: float | None = None) -> S:
        """The instance on that shard, of which only the methods marked `@remote` can be called.

        timeout: seconds, for the call altogether: waiting for credit, queueing and running. Then it ends in CallTimeout, and
            the method is cancelled. Calls that the method makes inherit what is left of them.

        On another shard, a call raises ShardDied if that shard dies with the call in flight, ShardDown if it is down
        already, MessageTooLarge if the arguments or the result are, SchemaMismatch if that shard runs a version of the
        method that does not understand the call; and what the method raises. On one's own shard it is a plain call: nothing
        is encoded, and so nothing is checked or copied (a list that it returns is the service's own) unless a test asks for
        it.
        """
        if not 0 <= shard < len(self._proxies):
            raise self._no_shard(shard)
        if timeout is None:
            return self._proxies[shard]  # type: ignore[no-any-return]
        return cast(S, _TimedProxy(self._proxies[shard], nanoseconds(timeout)))

    def on_nowait(self, shard: int, *, timeout: float | None = None) -> S:
        """As `on`, but a call does not wait for credit: it is sent by calling it, before it is awaited, or raises
        ChannelFull. timeout: seconds, as there."""
        if not 0 <= shard < len(self._nowait):
            raise self._no_shard(shard)
        if timeout is None:
            return self._nowait[shard]  # type: ignore[no-any-return]
        return cast(S, _TimedProxy(self._nowait[shard], nanoseconds(timeout)))

    async def send(
        self,
        shard: int,
        method: Callable[Concatenate[S, P], Coroutine[Any, Any, object]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Have the method run on that shard without waiting for it: `await service.send(1, Log.add, line)`.

        Waits for credit, of which each request holds some until it is done, so that a sender cannot outrun that shard by
        more. Sent within more than 60 others, each by the method that ran the one before, it ends in ChannelFull where it would
        wait. What the method returns is dropped, and what it raises is logged over there. Raises ShardDown and
        MessageTooLarge as a call does; if that shard dies, nobody says so.
        """
        waiting = self._send(shard, method, args, kwargs)
        if waiting is not None:
            await waiting

    def send_nowait(
        self,
        shard: int,
        method: Callable[Concatenate[S, P], Coroutine[Any, Any, object]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """As `send`, at once. ChannelFull if there is no credit."""
        place, remote = self._place(shard), self._remote(method)
        place.send_nowait(remote, getattr(self._called, remote.attribute), remote.bind(*args, **kwargs))

    @overload
    async def map(
        self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        shards: Iterable[int],
        method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]: ...
    async def map(self, first: Any, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Call the method on all shards at once, or on those given first, and return the results in that order.

            sizes = await store.map(Store.size)
            found = await store.map(store.others, Store.get, key)

        If one fails its exception is raised, and the calls that are still going on are cancelled.
        """
        if callable(first):
            shards: Iterable[int] = range(len(self._proxies))
            method = first
        else:
            shards, (method, *rest) = first, args
            args = tuple(rest)
        name = self._remote(method).attribute
        self._home.check_thread(self._methods[name].name)
        self._methods[name].bind(*args, **kwargs)  # what is wrong with them is wrong before anything is sent
        proxies = [self.on(shard) for shard in shards]
        return await together([getattr(proxy, name)(*args, **kwargs) for proxy in proxies])

    async def map_reduce(
        self,
        reduce: Callable[[A, R], A],
        initial: A,
        method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> A:
        """Call the method on all shards at once, and fold the results in the order of the shards, as functools.reduce does:
        from `initial` on.

        total = await store.map_reduce(operator.add, 0, Store.size)
        """
        return functools.reduce(reduce, await self.map(method, *args, **kwargs), initial)

    async def broadcast(
        self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call the method on all shards, and return when it has ended on each.

        One that fails does not keep the others from it. Then the exception of the first such shard is raised, and what became
        of the others is noted on it.
        """
        name = self._remote(method).attribute
        self._home.check_thread(self._methods[name].name)
        self._methods[name].bind(*args, **kwargs)
        calls = [getattr(proxy, name)(*args, **kwargs) for proxy in self._proxies]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        failed = [(shard, error) for shard, error in enumerate(outcomes) if isinstance(error, BaseException)]
        if failed:
            (shard, first), *others = failed
            first.add_note(f"{self._name}.{name} failed on shard {shard}")
            for shard, error in others:
                first.add_note(f"and on shard {shard}: {type(error).__name__}: {error}")
            raise first

    def call_threadsafe(
        self,
        shard: int,
        method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> CallFuture[R]:
        """From any thread: call the method on that shard. The future's `result()` waits for it, `cancel()` cancels it.

        In the event loop's own thread `result()` raises UsageError: nobody could make the call meanwhile.
        """
        name = self._remote(method).attribute
        return self._threads.run(lambda: getattr(self.on(shard), name)(*args, **kwargs))

    def _remote(self, method: AnyCall) -> RemoteMethod:
        found = self._methods.get(getattr(method, "__name__", ""))
        if found is None:  # a private name, which Python has made another
            found = next((each for name, each in self._methods.items() if _is_of(self._instance, name, method)), None)
        if found is None or not is_remote(method):
            name = getattr(method, "__qualname__", repr(method))
            raise UsageError(f"{name} is no method of {self._name} that is marked @remote")
        return found

    def _find_senders(self, method: AnyCall) -> list[Sender]:
        remote = self._remote(method)
        bound = getattr(self._called, remote.attribute)
        return [place.sender(remote, bound) for place in self._places]

    def _place(self, shard: int) -> Here | There:
        if not 0 <= shard < len(self._proxies):
            raise self._no_shard(shard)
        return self._places[shard]

    def _no_shard(self, shard: int) -> IndexError:
        return IndexError(f"there is no shard {shard!r}: they are 0 to {len(self._proxies) - 1}")

    def __repr__(self) -> str:
        return f"<Sharded {self._name}, here on shard {self._home.shard_id} of {len(self._proxies)}>"


def _is_of(instance: object, name: str, method: object) -> bool:
    return getattr(type(instance), name, None) is method


class _Proxy:
    """The instance somewhere. Its attributes are the remote methods, and a helpful error for whatever else is asked for. What
    is its own has names that no method has by accident."""

    def __init__(
        self, place: Here | There, instance: Any, methods: dict[str, RemoteMethod], timeout_ns: int, *, nowait: bool
    ) -> None:
        self.__place = place
        self.__instance = instance
        self.__methods = methods
        self.__is_nowait = nowait
        for name in methods:
            setattr(self, name, self.__call(name, timeout_ns))

    def __call(self, name: str, timeout_ns: int) -> AnyCall:
        return self.__place.caller(self.__methods[name], getattr(self.__instance, name), timeout_ns, self.__is_nowait)

    def __timed(self, name: str, timeout_ns: int) -> AnyCall:
        if name not in self.__methods:
            self.__getattr__(name)
        return self.__call(name, timeout_ns)

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(sorted(self.__methods))
        raise AttributeError(f"{name!r} cannot be called on {self.__place.where}; marked @remote are {known}")


class _TimedProxy:
    """The same with a timeout. It lives for one call: only what is asked for is made."""

    __slots__ = ("__make", "__timeout_ns")

    def __init__(self, proxy: _Proxy, timeout_ns: int) -> None:
        self.__make = proxy._Proxy__timed
        self.__timeout_ns = timeout_ns

    def __getattr__(self, name: str) -> Any:
        return self.__make(name, self.__timeout_ns)
