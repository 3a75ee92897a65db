"""Services: one instance on every shard, and the proxies through which the others call it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from clockworker.ipc._remote import RemoteMethod

if TYPE_CHECKING:
    from clockworker.ipc._mesh import Mesh

S = TypeVar("S")


class Sharded(Generic[S]):
    """A service that `shard.start` has started here. `await service.on(i).method(...)` runs the method on shard i."""

    def __init__(self, mesh: Mesh, instance: S, methods: dict[str, RemoteMethod]) -> None:
        self._name = type(instance).__name__
        self._own = mesh.shard_id
        self._instance = instance
        self._proxies: list[Any] = [
            _LocalProxy(mesh, instance, methods) if shard == mesh.shard_id else _RemoteProxy(mesh, shard, methods)
            for shard in range(mesh.count)
        ]

    @property
    def local(self) -> S:
        """This shard's own instance."""
        return self._instance

    @property
    def others(self) -> list[int]:
        """The other shards, for a call to each."""
        return [shard for shard in range(len(self._proxies)) if shard != self._own]

    def on(self, shard: int) -> S:
        """The instance on that shard, of which only the methods marked `@remote` can be called.

        On another shard, a call raises ShardDied if that shard dies with the call in flight, ShardDown if it is down
        already, MessageTooLarge if the arguments or the result are; and what the method raises. On one's own shard it is a
        plain call: nothing is encoded.
        """
        if not 0 <= shard < len(self._proxies):
            raise IndexError(f"there is no shard {shard!r}: they are 0 to {len(self._proxies) - 1}")
        return self._proxies[shard]  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<Sharded {self._name}, here on shard {self._own} of {len(self._proxies)}>"


class _Proxy:
    """Raises a helpful error for what is not remote."""

    def __init__(self, shard: int, methods: dict[str, RemoteMethod]) -> None:
        self._where = f"shard {shard}"
        self._remote = sorted(methods)

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(self._remote)
        raise AttributeError(f"{name!r} cannot be called on {self._where}; marked @remote are {known}")


class _LocalProxy(_Proxy):
    def __init__(self, mesh: Mesh, instance: Any, methods: dict[str, RemoteMethod]) -> None:
        super().__init__(mesh.shard_id, methods)
        for name, method in methods.items():
            setattr(self, name, _local_call(mesh, getattr(instance, name), method))


def _local_call(mesh: Mesh, bound: Callable[..., Any], method: RemoteMethod) -> Callable[..., Coroutine[Any, Any, Any]]:
    if method.options.queue is None:

        def call_here(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            mesh.calls_local += 1
            return bound(*args, **kwargs)  # type: ignore[no-any-return]

        return call_here

    async def call_in_queue(*args: Any, **kwargs: Any) -> Any:
        mesh.calls_local += 1
        # A task of its own, to be in the other queue. Awaiting the task itself carries the caller's cancellation over.
        value, error = await mesh.queue_for(method, None).spawn(_caught(bound(*args, **kwargs))).task
        if error is not None:
            raise error
        return value

    return call_in_queue


async def _caught(call: Coroutine[Any, Any, Any]) -> tuple[Any, Exception | None]:
    # Out of a spawned task it would be a panic, which can stop the executor. It is the caller's, as on another shard.
    try:
        return await call, None
    except Exception as error:
        return None, error


class _RemoteProxy(_Proxy):
    def __init__(self, mesh: Mesh, shard: int, methods: dict[str, RemoteMethod]) -> None:
        super().__init__(shard, methods)
        for name, method in methods.items():
            setattr(self, name, _remote_call(mesh, shard, method))


def _remote_call(mesh: Mesh, shard: int, method: RemoteMethod) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await mesh.call(shard, method, method.bind(args, kwargs))

    return call
