"""Streams: a remote async generator, iterated here, item by item and no faster than here.

The peer runs the generator and sends an item frame for each thing that it yields. No more than a window of items is under way:
`window` of them, or `window_bytes`, whichever is less; then the generator stands still. Whoever iterates says from time to time
how many it has used (acks), half a window at a time, so that neither side waits for a whole round trip. A method may have a
window of its own (`Method.limits`).

To open one takes credit, which the peer gives back by saying that it has begun with the generator: while a stream is open, its
reader and its generator may make calls and open others, and hold nothing that these wait for (`_credit_cy`).

What the caller holds is an ordinary async generator. Leaving it early (`break`, `aclose`, cancellation, a deadline, or merely
dropping it) cancels the peer's task, in which the remote generator is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from clockworker.ipc.calls._call_cy import new_call
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._request_cy import Request

if TYPE_CHECKING:
    from clockworker.ipc.calls._limits import Limits
    from clockworker.ipc.calls._method import RemoteMethod


class Incoming:
    """What has come of a stream and has not been used; the receiver of its call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.items: deque[bytes] = deque()
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def take(self, item: bytes) -> None:
        self.items.append(item)
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


async def receive(
    link: Link, method: RemoteMethod, arguments: tuple[Any, ...], timeout_ns: int, nowait: bool, key: bytes = b""
) -> AsyncIterator[Any]:
    """The items of the peer's generator."""
    limits: Limits = method.limits or link.shared.limits
    half, half_bytes = (limits.window + 1) // 2, (limits.window_bytes + 1) // 2
    decode, name, check_thread = method.decode_result, method.name, link.check_thread
    call = new_call(link, Kind.REQUEST, method, arguments, timeout_ns, nowait)
    if key:
        call.set_key(key)
    incoming = call.receiver = Incoming(link.loop)
    used = used_bytes = 0
    try:
        call.start()
        while True:
            while incoming.items:
                item = incoming.items.popleft()
                used += 1
                used_bytes += len(item)
                if (used >= half or used_bytes >= half_bytes) and not call.done():
                    way = call.channel  # not ours, if the peer was being replaced
                    assert isinstance(way, Link)
                    way.connection.send(Kind.ACK, 0, used, call.number, b"")
                    used = used_bytes = 0
                try:
                    value = decode(item)
                except Exception as error:
                    raise TypeError(
                        f"an item of {name} from {link.where()} is not what it declares: {error}"
                    ) from error
                yield value
                check_thread(name)
            if call.done():
                break
            await incoming.wait()
        call.conclude()
    finally:
        call.cancel()


class Outgoing:
    """What of a stream is under way."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def sent(self, size: int) -> None:
        self._sizes.append(size)
        self._bytes += size

    def used(self, count: int) -> None:
        """The peer has used so many more."""
        for _ in range(min(count, len(self._sizes))):
            self._bytes -= self._sizes.popleft()
        if not self.full() and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def full(self) -> bool:
        return len(self._sizes) >= self._limits.window or self._bytes >= self._limits.window_bytes

    async def wait_room(self) -> None:
        while self.full():
            self._waiter = self._loop.create_future()
            await self._waiter


async def serve_stream(request: Request) -> None:
    """Run a generator for a peer. What it raises is the request's end."""
    link, number = request.link, request.number
    method = cast("RemoteMethod", request.target.method)
    outgoing = link.outgoing[number] = Outgoing(method.limits or link.shared.limits, link.loop)
    link.connection.send(Kind.BEGUN, 0, 0, number, b"")
    generator = request.call()
    try:
        async for value in generator:
            item = request.encode(value, "an item")
            if link.serving.get(number) is not request:
                return  # its caller has left, or the peer is another by now
            link.connection.send(Kind.ITEM, 0, 0, number, item)
            outgoing.sent(len(item))
            if outgoing.full():
                await outgoing.wait_room()
    finally:
        await generator.aclose()
    request.answer(Kind.REPLY, b"")
