"""Pipes between the event loop and a thread: a request's body to it, and a response's from it.

Each holds `LIMIT` bytes, and what is put in at once when there is room for a byte. Whoever is ahead waits: the thread on a
condition, which costs the loop nothing; the loop by not asking the client for more. A pipe is the property of one request, and
both of its pipes share the condition, since a client that leaves ends both.

The loop is told of something at most once until it has taken it: an application that yields lines of ten bytes wakes the loop
as often as the loop can send, not for each line.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from clockworker.http._lent import LEAST

LIMIT = 64 * 1024

Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]


class ClientLeft(ConnectionResetError):
    """What a thread that reads from a client or writes to one is told when that has left."""


class InputPipe(io.RawIOBase):
    """A request's body, from `receive()`. It is asked for when a thread first reads, or the loop begins to listen.

    Below an `io.BufferedReader`, which has reading by lines, by pieces and to the end.
    """

    def __init__(self, receive: Receive, changed: threading.Condition, *, empty: bool) -> None:
        self._receive = receive
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes | memoryview] = deque()
        self._size = 0
        self._ended = empty
        self._left = False
        self._asked = False
        self._room = asyncio.Event()
        self._room.set()
        self._pump: asyncio.Task[None] | None = None
        self._when_left: Callable[[], None] | None = None

    # In the loop

    def listen(self, when_left: Callable[[], None] | None = None) -> None:
        """Read ahead, and hear of it if the client leaves."""
        self._when_left = when_left or self._when_left
        if self._pump is None and not self._left:
            self._pump = self._loop.create_task(self._fill())

    def leave(self) -> None:
        """No more comes: the client has left, or the request is over."""
        if self._pump is not None:
            self._pump.cancel()
        with self._changed:
            self._left = True
            self._changed.notify_all()

    async def _fill(self) -> None:
        try:
            while (message := await self._receive())["type"] != "http.disconnect":
                self._put(message.get("body", b""), more=message.get("more_body", False))
                await self._room.wait()
        finally:
            self._pump = None
            self.leave()
            if self._when_left is not None:
                self._when_left()

    def _put(self, body: bytes, *, more: bool) -> None:
        with self._changed:
            if body:
                self._chunks.append(body)
                self._size += len(body)
                if self._size >= LIMIT:
                    self._room.clear()
            self._ended = self._ended or not more
            self._changed.notify_all()

    # In the thread

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """0 at the end of the body. Raises `ClientLeft` if the client leaves before that."""
        with self._changed:
            self._wait()
            if not self._chunks:
                return 0
            chunk = self._chunks.popleft()
            size = min(len(chunk), len(buffer))
            buffer[:size] = chunk[:size]
            if size < len(chunk):
                self._chunks.appendleft(memoryview(chunk)[size:])
            self._took(size)
            return size

    def readall(self) -> bytes:
        chunks: list[bytes | memoryview] = []
        while True:
            with self._changed:
                self._wait()
                if not self._chunks:
                    return b"".join(chunks)
                chunks += self._chunks
                self._chunks.clear()
                self._took(self._size)

    def _wait(self) -> None:
        while not self._chunks and not self._ended:
            if self._left:
                raise ClientLeft("no more of the request's body comes: its client has left, or has been answered")
            if not self._asked:
                self._asked = True
                self._loop.call_soon_threadsafe(self.listen)
            self._changed.wait()

    def _took(self, size: int) -> None:
        was_full = self._size >= LIMIT
        self._size -= size
        if was_full and self._size < LIMIT:
            self._loop.call_soon_threadsafe(self._room.set)


class Writer(Protocol):
    """Takes what a thread writes without the loop (`_lent`)."""

    def send(self, data: bytes) -> None: ...
    def shut_down(self) -> None: ...
    def close(self) -> None: ...


class OutputPipe:
    """A response's body, as a thread makes it. `tell` is called in the loop when there is something to take.

    The loop may lend the thread a writer for pieces that are large. It has it until it puts a smaller one, or the last, into
    the pipe. writer: to lend, if there is one.
    """

    def __init__(self, changed: threading.Condition, tell: Callable[[], None]) -> None:
        self._changed = changed
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._chunks: list[bytes] = []
        self._size = 0
        self._told = False
        self._left = False
        self.writer: Writer | None = None
        self._is_lent = False
        self._is_lending = False  # it is about to be
        self._is_writing = False
        self.complete = False

    # In the thread

    def put(self, data: bytes, *, complete: bool = False, tell: bool = True) -> None:
        """Wait while the pipe is full. Raises `ClientLeft`.

        complete: nothing follows. tell: at once; else when the pipe is full, or is looked at anyway.
        """
        with self._changed:
            while (self._size >= LIMIT or self._is_lending) and not self._left:
                self._changed.wait()
            if self._left:
                raise ClientLeft("the client has left before its response had ended")
            self._is_lent = self._is_lent and not complete and len(data) >= LEAST
            if self._is_lent:
                self._is_writing = True
            else:
                self._append(data, complete, tell)
                return
        self._write(data)

    def _append(self, data: bytes, complete: bool, tell: bool) -> None:
        self._chunks.append(data)
        self._size += len(data)
        self.complete = complete
        if not self._told and (tell or self._size >= LIMIT):
            self._told = True
            self._loop.call_soon_threadsafe(self._tell)

    def _write(self, data: bytes) -> None:
        """Not under the lock: the client may be slow."""
        assert self.writer is not None
        try:
            self.writer.send(data)
        except OSError as error:
            raise ClientLeft("the client has left before its response had ended") from error
        finally:
            with self._changed:
                self._is_writing = False
                if self._left:
                    self.writer.close()

    # In the loop

    def __bool__(self) -> bool:
        """Whether there is something to take; an empty piece is something, too."""
        return bool(self._chunks)

    def take(self, *, may_lend: bool = False) -> tuple[bytes, bool, bool]:
        """What there is, whether that is all there will be, and whether the thread now waits for `lend`."""
        with self._changed:
            chunks, self._chunks = self._chunks, []
            self._is_lending = may_lend and self._size >= LEAST and not self.complete and not self._left
            self._size = 0
            self._told = False
            if not self._is_lending:
                self._changed.notify_all()
            return chunks[0] if len(chunks) == 1 else b"".join(chunks), self.complete, self._is_lending

    def lend(self) -> None:
        """All that was taken has gone. The thread may go on, with the writer if there is one."""
        with self._changed:
            self._is_lending = False
            self._is_lent = self.writer is not None
            self._changed.notify_all()

    def leave(self) -> None:
        """Nobody takes what is put in from here on."""
        with self._changed:
            self._left = True
            self._tell = _nothing  # whom it has told holds this, which would be a cycle
            self._chunks.clear()
            if self.writer is not None:
                if self._is_writing:
                    self.writer.shut_down()
                else:
                    self.writer.close()
            self._changed.notify_all()


def _nothing() -> None:
    pass
