"""Services: one instance on every shard, and the proxies through which the others call it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from clockworker._errors import UsageError
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._keyed import Keyed, KeyedProxy
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._outbox_cy import Outbox, Sender
from clockworker.ipc.calls._owners import Owner, Owners
from clockworker.ipc.calls._places import AnyCall, Here, Places, There
from clockworker.ipc.calls._remote import is_node_local, is_remote
from clockworker.ipc.calls._threads import CallFuture, ThreadCalls
from clockworker.ipc.calls._timeout import nanoseconds
from clockworker.ipc.calls._together import together

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")


class Sharded(Generic[S]):
    """A service, with an instance on each shard. Made by `Shard.start`. `await service.on(i).method(...)` runs the method on
    shard i."""

    def __init__(
        self,
        home: Home,
        places: Places,
        owners: Owners,
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
        self._owners = owners
        self._keyed = Keyed(places, owners, called, methods)
        self._proxies = _Proxies(places, called, methods, nowait=False)
        self._nowait = _Proxies(places, called, methods, nowait=True)
        self._send = Outbox(self._find_sender, self._send_of_key).send
        self._is_node_local = is_node_local(type(instance))

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
        """The other shards, for a call to each: in a cluster those of all its nodes, unless the service keeps to its own
        (`node_local`)."""
        return [shard for shard in self._all() if shard != self._home.shard_id]

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
        if isinstance(shard, Owner):
            return self._of_owner(shard, timeout, nowait=False)
        if timeout is None:
            return cast(S, self._proxies[shard])
        return cast(S, _TimedProxy(self._proxies[shard], nanoseconds(timeout)))

    def of(self, key: bytes | str | int, *, timeout: float | None = None) -> S:
        """The instance on the shard that the key belongs to (`Shard.owner`), of which only the methods marked `@remote` can be
        called.

        A call asks where that is. In a cluster keys move from node to node, and shards are restarted: if the call finds that
        out, or finds nobody, and nothing has run, it asks and tries again, for `timeout` seconds, or until the deadline that it
        inherits, or for 5 s. Then it ends in the last error: NotOwner, ShardDown, NodeDown. NodeIsolated ends it at once.
        """
        timeout_ns = 0 if timeout is None else nanoseconds(timeout)
        return cast(
            S,
            KeyedProxy(
                self._methods,
                "the shard of a key",
                lambda method: self._keyed.patient_caller(key, method, timeout_ns),
            ),
        )

    def on_nowait(self, shard: int, *, timeout: float | None = None) -> S:
        """As `on`, but a call does not wait for credit: it is sent by calling it, before it is awaited, or raises
        ChannelFull. shard, timeout: as there, the latter in seconds."""
        if isinstance(shard, Owner):
            return self._of_owner(shard, timeout, nowait=True)
        if timeout is None:
            return cast(S, self._nowait[shard])
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
        MessageTooLarge as a call does, and UsageError for a method that is not marked `@remote`; if that shard dies, nobody
        says so.
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
        """As `send` of `method` to `shard`, at once. Raises ChannelFull if there is no credit, and what `send` does."""
        place, remote = self._places[shard], self._remote(method)
        arguments = remote.bind(*args, **kwargs)
        if isinstance(place, There):
            place.send_nowait(remote, None, arguments, shard.packed() if isinstance(shard, Owner) else b"")
            return
        if (refusal := self._owners.refusal(shard)) is not None:
            raise refusal
        place.send_nowait(remote, getattr(self._called, remote.attribute), arguments)

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

        If one fails its exception is raised, and the calls that are still going on are cancelled. Raises UsageError, before
        anything is sent, for a method that is not marked `@remote`.
        """
        if callable(first):
            shards: Iterable[int] = self._all()
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
        from `initial` on. Raises what `map` does.

        total = await store.map_reduce(operator.add, 0, Store.size)
        """
        return functools.reduce(reduce, await self.map(method, *args, **kwargs), initial)

    async def broadcast(
        self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call the method on all shards, and return when it has ended on each.

        One that fails does not keep the others from it. Then the exception of the first such shard is raised, and what became
        of the others is noted on it. Raises UsageError for a method that is not marked `@remote`.
        """
        name = self._remote(method).attribute
        self._home.check_thread(self._methods[name].name)
        self._methods[name].bind(*args, **kwargs)
        shards = list(self._all())
        calls = [getattr(self._proxies[shard], name)(*args, **kwargs) for shard in shards]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        failed = [
            (self._places[shard].where, error)
            for shard, error in zip(shards, outcomes, strict=True)
            if isinstance(error, BaseException)
        ]
        if failed:
            (where, first), *others = failed
            first.add_note(f"{self._name}.{name} failed on {where}")
            for where, error in others:
                first.add_note(f"and on {where}: {type(error).__name__}: {error}")
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

        In the event loop's own thread `result()` raises UsageError: nobody could make the call meanwhile. So does this, of a
        method that is not marked `@remote`.
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

    def _find_sender(self, shard: int, method: AnyCall) -> Sender:
        remote = self._remote(method)
        return self._places[shard].sender(remote, getattr(self._called, remote.attribute))

    def _send_of_key(
        self, shard: int, method: AnyCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[None] | None:
        """shard: an `Owner`, or another number that is no plain int."""
        if isinstance(shard, Owner):
            place, remote = self._places[int(shard)], self._remote(method)
            if isinstance(place, There):
                return place.send_of(shard.packed(), remote, remote.bind(*args, **kwargs))
            if (refusal := self._owners.refusal(shard)) is not None:
                raise refusal
        return self._send(int(shard), method, args, kwargs)

    def _all(self) -> Sequence[int]:
        """All shards that have it."""
        return range(self._owners.count) if self._is_node_local else self._owners.places()

    def _of_owner(self, owner: Owner, timeout: float | None, *, nowait: bool) -> S:
        """The instance where a key is, or was."""
        timeout_ns = 0 if timeout is None else nanoseconds(timeout)
        return cast(
            S,
            KeyedProxy(
                self._methods,
                self._places[int(owner)].where,
                lambda method: self._keyed.caller(owner, method, timeout_ns, nowait=nowait),
            ),
        )

    def __repr__(self) -> str:
        return f"<Sharded {self._name}, here on shard {self._home.shard_id} of {len(self._all())}>"


def _is_of(instance: object, name: str, method: object) -> bool:
    return getattr(type(instance), name, None) is method


class _Proxies(dict[int, "_Proxy"]):
    """The instances on all shards, each made when it is first asked for."""

    def __init__(self, places: Places, instance: Any, methods: dict[str, RemoteMethod], *, nowait: bool) -> None:
        super().__init__()
        self._places = places
        self._instance = instance
        self._methods = methods
        self._is_nowait = nowait

    def __missing__(self, shard: int) -> _Proxy:
        place = self._places[shard]
        proxy = self[shard] = _Proxy(place, self._instance, self._methods, 0, nowait=self._is_nowait)
        return proxy


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
