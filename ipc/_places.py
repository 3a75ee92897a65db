"""Places: where a method may run, this process or another.

`Here` and `There` have the same methods. Here a call is a plain call: nothing is encoded, checked or copied, unless the mesh is
told to for a test (`_as_sent`). There it goes over a link.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from clockworker._errors import CallTimeout, ChannelFull
from clockworker.ipc._as_sent import AsSent
from clockworker.ipc._call_cy import Call, Caller
from clockworker.ipc._frames import Kind
from clockworker.ipc._outbox_cy import LinkSender, Sender
from clockworker.ipc._remote import RemoteMethod
from clockworker.ipc._timeout import deadline

if TYPE_CHECKING:
    from clockworker.executor import QueueHandle
    from clockworker.ipc._mesh import Mesh

R = TypeVar("R")

AnyCall = Callable[..., Any]

logger = logging.getLogger("clockworker.ipc")


class There:
    """Another shard."""

    def __init__(self, mesh: Mesh, shard: int) -> None:
        self._mesh = mesh
        self._shard = shard
        self._link = mesh.links[shard]
        self.where = f"shard {shard}"

    def caller(self, method: RemoteMethod, bound: AnyCall | None, timeout_ns: int, nowait: bool) -> AnyCall:
        """What to call in place of the method."""
        mesh, shard = self._mesh, self._shard

        if method.streams:

            def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                return mesh.stream(shard, method, method.bind(*args, **kwargs), timeout_ns, nowait)

            return stream

        if nowait:

            async def answer_of(call: Call) -> Any:
                return await call

            answer_of.__qualname__ = method.name

            def call_nowait(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
                return answer_of(mesh.call_nowait(shard, method, method.bind(*args, **kwargs), timeout_ns))

            return call_nowait

        return method.caller(Caller(self._link, int(Kind.REQUEST), method, timeout_ns).new)

    def sender(self, method: RemoteMethod, bound: AnyCall | None) -> Sender:
        """What sends one-way requests."""
        return LinkSender(self._link, method, method.count, method.bind)

    def send_nowait(self, method: RemoteMethod, bound: AnyCall | None, arguments: tuple[Any, ...]) -> None:
        self._mesh.send_nowait(self._shard, method, arguments)


class Here:
    """This shard."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.where = f"shard {mesh.shard_id}"
        # One-way requests to ourselves hold credit too: as many as there are things in this queue of nothing.
        self._in_flight: defaultdict[QueueHandle, asyncio.Queue[None]] = defaultdict(
            lambda: asyncio.Queue(mesh.limits.credit)
        )

    def caller(self, method: RemoteMethod, bound: AnyCall, timeout_ns: int, nowait: bool) -> AnyCall:
        """What to call in place of the method, a bound one or a function."""
        mesh, queue = self._mesh, self._mesh.queue_for(method)
        if mesh.encode_local:
            bound = AsSent(mesh, method, bound).caller()

        if method.streams:
            if queue is None and not timeout_ns:
                return bound

            def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                return self._stream(bound(*args, **kwargs), queue, timeout_ns, method.name)

            return stream

        if queue is None and not timeout_ns:

            def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
                mesh.calls_local += 1
                return bound(*args, **kwargs)  # type: ignore[no-any-return]

            return call

        if queue is not None and not timeout_ns:

            async def call_in_queue(*args: Any, **kwargs: Any) -> Any:
                mesh.calls_local += 1
                # A task of its own, to be in the other queue. Awaiting the task itself carries a cancellation over.
                value, error = await queue.spawn(_caught(bound(*args, **kwargs)), name=method.name).task
                if error is not None:
                    raise error
                return value

            return call_in_queue

        async def call_apart(*args: Any, **kwargs: Any) -> Any:
            mesh.calls_local += 1
            with _until(timeout_ns):
                return await self._apart(bound(*args, **kwargs), queue, timeout_ns, method.name)

        return call_apart

    async def _apart(self, call: Coroutine[Any, Any, R], queue: QueueHandle | None, timeout_ns: int, name: str) -> R:
        """Await it with a timeout, or in another queue, or both."""
        if queue is not None:
            call = _outcome_of(queue.spawn(_caught(call), name=name).task)
        if not timeout_ns:
            return await call
        try:
            async with asyncio.timeout(timeout_ns / 1e9) as scope:
                return await call
        except TimeoutError as error:
            if scope.expired():
                raise CallTimeout(f"{name} on {self.where} did not answer in time") from error
            raise

    async def _stream(
        self, generator: Any, queue: QueueHandle | None, timeout_ns: int, name: str
    ) -> AsyncIterator[Any]:
        ends_ns = time.monotonic_ns() + timeout_ns
        try:
            while True:
                left_ns = max(1, ends_ns - time.monotonic_ns()) if timeout_ns else 0
                with _until(left_ns):
                    try:
                        value = await self._apart(_next_of(generator), queue, left_ns, name)
                    except _Ended:
                        return
                yield value
        finally:
            await generator.aclose()

    def sender(self, method: RemoteMethod, bound: AnyCall) -> Sender:
        """What sends one-way requests."""

        async def spawn(arguments: tuple[Any, ...]) -> None:
            run = self._one_way(method, bound, arguments)
            queue = self._queue_of(method)
            await self._in_flight[queue].put(None)
            self._spawn(queue, method, run)

        return lambda args, kwargs: spawn(method.bind(*args, **kwargs))

    def send_nowait(self, method: RemoteMethod, bound: AnyCall, arguments: tuple[Any, ...]) -> None:
        run = self._one_way(method, bound, arguments)
        queue = self._queue_of(method)
        try:
            self._in_flight[queue].put_nowait(None)
        except asyncio.QueueFull:
            raise ChannelFull(
                f"{self._mesh.limits.credit:,} one-way requests of this shard's own are in queue {queue.key!r}, "
                f"which is all the credit that there is; {method.name} was not called"
            ) from None
        self._spawn(queue, method, run)

    def _one_way(self, method: RemoteMethod, bound: AnyCall, arguments: tuple[Any, ...]) -> AnyCall:
        """What a request runs. Raises what keeps it from being sent."""
        if self._mesh.encode_local:
            as_sent = AsSent(self._mesh, method, bound)
            return functools.partial(as_sent.run_one_way, as_sent.encode(arguments))
        return functools.partial(method.on(bound), *arguments)

    def _queue_of(self, method: RemoteMethod) -> QueueHandle:
        executor = self._mesh.executor
        return self._mesh.queue_for(method) or executor.current_queue() or executor.queues()[0]

    def _spawn(self, queue: QueueHandle, method: RemoteMethod, run: AnyCall) -> None:
        queue.spawn(self._alone(method, run, self._in_flight[queue]), name=method.name)

    async def _alone(self, method: RemoteMethod, run: AnyCall, in_flight: asyncio.Queue[None]) -> None:
        self._mesh.calls_local += 1
        try:
            await run()
        except Exception:
            logger.exception("%s, sent by this shard, failed", method.name)
        finally:
            in_flight.get_nowait()


@contextmanager
def _until(timeout_ns: int) -> Iterator[None]:
    if timeout_ns:
        with deadline(timeout_ns / 1e9):
            yield
    else:
        yield


class _Ended(Exception):
    """A generator has; StopAsyncIteration does not pass through a coroutine."""


async def _next_of(generator: Any) -> Any:
    try:
        return await anext(generator)
    except StopAsyncIteration:
        raise _Ended from None


async def _caught(call: Coroutine[Any, Any, Any]) -> tuple[Any, Exception | None]:
    # Out of a spawned task it would be a panic, which can stop the executor. It is the caller's, as on another shard.
    try:
        return await call, None
    except Exception as error:
        return None, error


async def _outcome_of(task: asyncio.Task[tuple[Any, Exception | None]]) -> Any:
    value, error = await task
    if error is not None:
        raise error
    return value
