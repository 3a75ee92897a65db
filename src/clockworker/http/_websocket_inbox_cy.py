# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What a client has sent and the application has not received yet: bounded, whatever the client does.

No more is read while as many messages wait for the application as `ws_max_queue` says, or 64 KiB of them. A read may hold
thousands of small frames, or a compressed message that is a thousand times its size, so it is parsed in slices, and the rest
waits unparsed: for the application, or for its turn among all connections (`_backlog`) if it is many frames that nobody waits
for, such as pings.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from websockets.server import ServerProtocol

from clockworker.http._websocket_frames_cy import AT_ONCE, FrameReader

_SLICE = 4_096  # bytes that are parsed without a look at how much has come of them
_HIGH_WATER = 65_536  # bytes of messages, or of what has not been parsed, beyond which no more is read


@cython.final
@cython.cclass
class Waiters:
    """Tasks that wait for something to change, and are woken together. Each looks again whether it has."""

    _waiters: list[asyncio.Future[None]]

    def __init__(self) -> None:
        self._waiters = []

    def __bool__(self) -> bool:
        return bool(self._waiters)

    async def wait(self) -> None:
        """Return at the next `wake`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def wake(self) -> None:
        """All that wait now."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


@cython.final
@cython.cclass
class Inbox:
    """messages: those that wait. size: their length, in bytes or characters. unread: what waits to be parsed. paused: the
    client's connection is not read. heard: something has come that was dropped; who waits for silence sets it back.

    Nothing is parsed before the first `resume`. most_messages: how many may wait. later: takes what is to be called at this
    connection's turn. For most, pong and answer see FrameReader.
    """

    messages: deque[str | bytes]
    size: int
    unread: bytearray | None
    paused: bool
    heard: bool
    receivers: Waiters
    reader: FrameReader
    _transport: asyncio.Transport
    _most_messages: int
    _parsing: bool  # what comes is parsed at once; otherwise it waits
    _goes_on: bool  # when its turn comes
    _later: Callable[[Callable[[], None]], None]

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: ServerProtocol,
        *,
        most_messages: int,
        most: int,
        pong: Callable[[bytes], None],
        answer: Callable[[list[bytes]], None],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self.messages = deque()
        self.size = 0
        self.unread = None
        self.paused = False
        self.heard = True
        self.receivers = Waiters()
        self.reader = FrameReader(protocol, most, take=self._take, pong=pong, answer=answer)
        self._transport = transport
        self._most_messages = most_messages
        self._parsing = False
        self._goes_on = False
        self._later = later

    def feed(self, data: bytes) -> None:
        """What has come."""
        if self._parsing and self.unread is None and len(data) <= _SLICE:
            self.reader.effort = 0
            self.reader.feed(data)
            if self.reader.has_more and not self.reader.ended:
                self.unread = bytearray()
                if self._parsing:
                    self._go_on_later()
        elif not self.reader.ended:
            if self.unread is None:
                self.unread = bytearray(data)
            else:
                self.unread += data
            if not self._goes_on:
                self._parse_on()
        else:
            self.heard = True

    def pop(self) -> str | bytes:
        """The first message. There has to be one."""
        messages = self.messages
        message = messages.popleft()
        self.size -= len(message)
        if not self._parsing and len(messages) <= self._most_messages // 2 and self.size <= _HIGH_WATER // 2:
            self.resume()
        return message

    def resume(self) -> None:
        """Parse and read on."""
        self._parsing = True
        if self.unread is not None:
            self._parse_on()
        if self._parsing and self.unread is None:
            self._read_on()

    def drop(self) -> None:
        """Nobody wants what comes now. It is read all the same."""
        self.leave()
        self._read_on()

    def leave(self) -> None:
        """Nothing comes any more."""
        self.reader.ended = True
        self._parsing = False
        self.unread = None

    def release(self) -> None:
        """The connection is lost: what hold each other let go, or only a collection would free them."""
        self.reader.release()

    def _take(self, message: str | bytes) -> None:
        self.messages.append(message)
        self.size += len(message)
        if len(self.messages) >= self._most_messages or self.size > _HIGH_WATER:
            self._parsing = False
            self._pause()
        if self.receivers:
            self.receivers.wake()

    def _parse_on(self) -> None:
        """What waited to be parsed, up to what may wait as messages, and what may be done in one turn of the loop."""
        unread, reader = self.unread, self.reader
        if unread is None:
            return
        reader.effort = 0
        while (unread or reader.has_more) and self._parsing and reader.effort < AT_ONCE:
            size = 0 if reader.has_more else max(_SLICE, reader.rest)
            data = bytes(unread[:size])
            del unread[:size]
            reader.feed(data)
        if reader.ended:
            return
        if not unread and not reader.has_more:
            self.unread = None
        elif self._parsing:
            self._go_on_later()
        elif len(unread) > _HIGH_WATER:
            self._pause()

    def _go_on_later(self) -> None:
        self._pause()
        if not self._goes_on:
            self._goes_on = True
            self._later(self._go_on)

    def _go_on(self) -> None:
        self._goes_on = False
        if self._parsing:
            self.resume()

    def _pause(self) -> None:
        if not self.paused and not self._transport.is_closing():
            self.paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self.paused and not self._transport.is_closing():
            self.paused = False
            self._transport.resume_reading()
