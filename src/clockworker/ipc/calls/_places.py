"""Places: where a method may run, this process or another.

`Here` and `There` have the same methods. Here a call is a plain call: nothing is encoded, checked or copied, unless the mesh is
told to for a test (`_as_sent`). There it goes over a link.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from clockworker._errors import CallTimeout, ChannelFull, RemoteError
from clockworker.ipc.calls._as_sent import AsSent
from clockworker.ipc.calls._call_cy import Call, Caller, new_call, outside_loop
from clockworker.ipc.calls._chain_cy import CHAIN, DEEPEST, deeper
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._outbox_cy import LinkSender, Sender
from clockworker.ipc.calls._owners import Owners
from clockworker.ipc.calls._stream import receive
from clockworker.ipc.calls._timeout import deadline
from clockworker.ipc.calls._waits import OwnLane

if TYPE_CHECKING:
    from clockworker.executor import QueueHandle

R = TypeVar("R")

AnyCall = Callable[..., Any]

logger = logging.getLogger("clockworker.ipc")


class There:
    """Another shard."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.where = link.where()

    def call_nowait(
        self, method: RemoteMethod, arguments: tuple[Any, ...], timeout_ns: int = 0, key: bytes = b""
    ) -> Call:
        """A call that is sent: `await` it. ChannelFull if there is no credit for it."""
        call = new_call(self._link, int(Kind.REQUEST), method, arguments, timeout_ns, True)
        if key:
            call.set_key(key)
        call.start()
        return call

    def caller(
        self, method: RemoteMethod, bound: AnyCall | None, timeout_ns: int, nowait: bool, key: bytes = b""
    ) -> AnyCall:
        """What to call in place of the method. key: of which it is a call (`_owners`)."""
        if method.streams:

            def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                return receive(self._link, method, method.bind(*args, **kwargs), timeout_ns, nowait, key)

            return stream

        if nowait:

            async def answer_of(call: Call) -> Any:
                return await call

            answer_of.__qualname__ = method.name

            def call_nowait(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
                return answer_of(self.call_nowait(method, method.bind(*args, **kwargs), timeout_ns, key))

            return call_nowait

        new = Caller(self._link, int(Kind.REQUEST), method, timeout_ns).new
        if key:

            def keyed(arguments: tuple[Any, ...]) -> Call:
                call = new(arguments)
                call.set_key(key)
                return call

            return method.caller(keyed)
        return method.caller(new)

    def sender(self, method: RemoteMethod, bound: AnyCall | None) -> Sender:
        """What sends one-way requests."""
        return LinkSender(self._link, method, method.count, method.bind)

    async def send_of(self, key: bytes, method: RemoteMethod, arguments: tuple[Any, ...]) -> None:
        """A one-way request of a key."""
        call = new_call(self._link, int(Kind.ONE_WAY), method, arguments, 0, False)
        call.set_key(key)
        await call

    def send_nowait(
        self, method: RemoteMethod, bound: AnyCall | None, arguments: tuple[Any, ...], key: bytes = b""
    ) -> None:
        call = new_call(self._link, int(Kind.ONE_WAY), method, arguments, 0, True)
        if key:
            call.set_key(key)
        call.start()
        if call.error is not None:
            raise call.error


class Here:
    """This shard."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.where = f"shard {home.shard_id}"
        # One-way requests to ourselves take credit too, by queue and depth.
        self.in_flight: dict[tuple[QueueHandle, int], OwnLane] = {}
        self._thread = threading.get_ident()

    def caller(self, method: RemoteMethod, bound: AnyCall, timeout_ns: int, nowait: bool) -> AnyCall:
        """What to call in place of the method, a bound one or a function."""
        home, queue = self._home, self._home.queue_for(method)
        if home.encode_local:
            bound = AsSent(home, method, bound).caller()

        own_thread, get_ident = self._thread, threading.get_ident
        if method.streams:

            def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
                if get_ident() != own_thread:
                    raise outside_loop(method.name)
                if queue is None and not timeout_ns:
                    return bound(*args, **kwargs)  # type: ignore[no-any-return]
                return self._stream(bound(*args, **kwargs), queue, timeout_ns, method.name)

            return stream

        if queue is None and not timeout_ns:

            def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
                if get_ident() != own_thread:
                    raise outside_loop(method.name)
                home.calls_local += 1
                return bound(*args, **kwargs)  # type: ignore[no-any-return]

            return call

        if queue is not None and not timeout_ns:

            async def call_in_queue(*args: Any, **kwargs: Any) -> Any:
                home.check_thread(method.name)
                home.calls_local += 1
                # A task of its own, to be in the other queue. Awaiting the task itself carries a cancellation over.
                return await _outcome_of(queue.spawn(_caught(bound(*args, **kwargs)), name=method.name).task)

            return call_in_queue

        async def call_apart(*args: Any, **kwargs: Any) -> Any:
            home.check_thread(method.name)
            home.calls_local += 1
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
        now = asyncio.get_running_loop().time  # by which the timeouts below go; a test's may be wound by hand
        ends = now() + timeout_ns / 1e9
        try:
            while True:
                left_ns = max(1, round((ends - now()) * 1e9)) if timeout_ns else 0
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
            self._home.check_thread(method.name)
            run = self._one_way(method, bound, arguments)
            lane = self._lane(method)
            if not lane.take_nowait():
                if self._depth() == DEEPEST:
                    raise self._full(lane, method)
                await lane.take()
            self._spawn(lane, method, run)

        return lambda args, kwargs: spawn(method.bind(*args, **kwargs))

    def send_nowait(self, method: RemoteMethod, bound: AnyCall, arguments: tuple[Any, ...]) -> None:
        self._home.check_thread(method.name)
        run = self._one_way(method, bound, arguments)
        lane = self._lane(method)
        if not lane.take_nowait():
            raise self._full(lane, method)
        self._spawn(lane, method, run)

    def _one_way(self, method: RemoteMethod, bound: AnyCall, arguments: tuple[Any, ...]) -> AnyCall:
        """What a request runs. Raises what keeps it from being sent."""
        if self._home.encode_local:
            as_sent = AsSent(self._home, method, bound)
            return functools.partial(as_sent.run_one_way, as_sent.encode(arguments))
        return functools.partial(method.on(bound), *arguments)

    def _lane(self, method: RemoteMethod) -> OwnLane:
        home, depth = self._home, self._depth()
        queue = home.queue_for(method) or home.executor.current_queue() or home.executor.queues()[0]
        lane = self.in_flight.get((queue, depth))
        if lane is None:
            lane = self.in_flight[queue, depth] = OwnLane(queue, home.shared.limits.credit, home.shared)
        return lane

    def _depth(self) -> int:
        chain = CHAIN.get()
        return 0 if chain is None else chain.depth

    def _full(self, lane: OwnLane, method: RemoteMethod) -> ChannelFull:
        return ChannelFull(
            f"{self._home.shared.limits.credit:,} one-way requests of this shard's own are in queue {lane.queue.key!r}, "
            f"which is all the credit that there is; {method.name} was not called"
        )

    def _spawn(self, lane: OwnLane, method: RemoteMethod, run: AnyCall) -> None:
        alone = self._alone(lane, method, run)
        alone.send(None)  # it has begun, and whatever ends it gives the credit back
        try:
            lane.queue.spawn(alone, name=method.name)
        except BaseException:  # the executor is ending
            alone.close()
            raise

    async def _alone(self, lane: OwnLane, method: RemoteMethod, run: AnyCall) -> None:
        self._home.calls_local += 1
        try:
            await _Made()
            with deeper():
                await run()
        except Exception:
            logger.exception("%s, sent by this shard, failed", method.name)
        finally:
            lane.give_back()


class Places(dict[int, Here | There]):
    """All shards, by their numbers. Those of other nodes are looked up when they are first asked for; IndexError if there is no
    such shard."""

    def __init__(self, near: Mapping[int, Here | There], owners: Owners) -> None:
        super().__init__(near)
        self._owners = owners

    def __missing__(self, place: int) -> There:
        cluster = self._owners.cluster
        link = None if cluster is None or not isinstance(place, int) else cluster.link(place)
        if link is None:
            raise self._owners.no_shard(place)
        there = self[place] = There(link)
        return there


class _Made:
    """Awaited, a coroutine stands still until its task takes its first step."""

    def __await__(self) -> Generator[None, None, None]:
        yield


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
    try:
        value, error = await task
    except asyncio.CancelledError as cancelled:
        current = asyncio.current_task()
        if task.cancelled() and current is not None and not current.cancelling():
            # Somebody has cancelled the method, and not its caller.
            raise RemoteError(
                f"{task.get_name()} was cancelled", f"{type(cancelled).__module__}.{type(cancelled).__qualname__}"
            ) from None
        raise
    if error is not None:
        raise error
    return value
