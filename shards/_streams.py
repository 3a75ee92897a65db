"""A server of asyncio streams whose handlers run in an executor queue, and that can be drained.

Draining: an open connection is either in the middle of something or waiting for its client's next request. Only the
handler knows, so it is told in the one way that every handler understands: once the listening sockets are closed, a
connection whose handler waits for data, with nothing received that it has not taken, reads an end of file, as if the
client had said that nothing more will come. Handlers that are busy are left alone until they come back to wait. The
connection must have been found waiting for a while, so that a request that has reached the kernel is read first, and a
client that asks one thing after the other is not cut off between two.

Rejected: closing the transports of idle connections (the handler gets an exception for nothing), cancelling handlers
(cuts open requests), and leaving it to handlers to watch for the stop (nobody does).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from clockworker.shards._config import TcpAddress

log = logging.getLogger("clockworker.shard")
access_log = logging.getLogger("clockworker.access")

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LOOK_S = 0.01
IDLE_S = 0.05


class _Reader(asyncio.StreamReader):
    """A stream reader that knows when its handler waits for data and none is left over."""

    _waiter: object
    _buffer: bytearray
    _ended = False
    received = 0  # bytes

    @property
    def idle(self) -> bool:
        # asyncio has no public way to ask; both names have been the same since 3.4.
        return self._waiter is not None and not self._buffer

    def end(self) -> None:
        """The end of file of a drain. What the client sends after it is dropped."""
        self._ended = True
        self.feed_eof()

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        if not self._ended:
            self.received += len(data)
            super().feed_data(data)


class _ImpatientReader(_Reader):
    """One whose reads end in `TimeoutError` when they take too long altogether, however steadily the client trickles."""

    seconds: float
    timed_out = False

    async def read(self, n: int = -1) -> bytes:
        with self._remember():
            async with asyncio.timeout(self.seconds):
                return await super().read(n)

    async def readexactly(self, n: int) -> bytes:
        with self._remember():
            async with asyncio.timeout(self.seconds):
                return await super().readexactly(n)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:  # type: ignore[override]  # readline comes here, too
        with self._remember():
            async with asyncio.timeout(self.seconds):
                return await super().readuntil(separator)

    @contextmanager
    def _remember(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.timed_out = True
            raise


class StreamServer:
    """Makes the protocols for one call of `Shard.start_server` and keeps track of their connections."""

    def __init__(
        self,
        handler: Handler,
        spawn: Callable[..., object],
        limit: int,
        *,
        read_timeout: float | None = None,
        access_log: bool = False,
    ) -> None:
        self.accepted = 0
        self.errors = 0
        self._handler = handler
        self._spawn = spawn
        self._limit = limit
        self._read_timeout = read_timeout
        self._access_log = access_log
        self._open: set[_Reader] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def open(self) -> int:
        return len(self._open)

    def protocol(self) -> asyncio.StreamReaderProtocol:
        if self._read_timeout is None:
            reader = _Reader(limit=self._limit, loop=asyncio.get_running_loop())
        else:
            reader = _ImpatientReader(limit=self._limit, loop=asyncio.get_running_loop())
            reader.seconds = self._read_timeout
        return asyncio.StreamReaderProtocol(reader, self._connected)

    async def drain(self) -> None:
        """Wait until every connection's handler has returned. Ends by itself or not at all: limit the time outside."""
        loop = asyncio.get_running_loop()
        since: dict[_Reader, float] = {}
        while self._open:
            now = loop.time()
            since = {reader: since.get(reader, now) for reader in self._open if reader.idle}
            for reader, when in since.items():
                if now - when >= IDLE_S:
                    reader.end()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._all_closed.wait()
            except TimeoutError:
                continue

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        self.accepted += 1
        self._open.add(reader)
        self._all_closed.clear()
        self._spawn(self._handle(reader, writer), name="connection")

    async def _handle(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        started = time.monotonic()
        end = "closed"
        try:
            await self._handler(reader, writer)
        except ConnectionError:
            end = "lost"  # the client went away
        except Exception as error:
            if isinstance(error, TimeoutError) and isinstance(reader, _ImpatientReader) and reader.timed_out:
                end = "timed out"
                return
            end = "failed"
            self.errors += 1
            log.exception("a connection's handler raised")
        finally:
            writer.close()
            self._open.discard(reader)
            if self._access_log:
                seconds = time.monotonic() - started
                access_log.info("%s %s after %.3f s, %d bytes received", _peer(writer), end, seconds, reader.received)
            if not self._open:
                self._all_closed.set()


def _peer(writer: asyncio.StreamWriter) -> str:
    """The client's address, as it would be written for --bind; a Unix socket's client has none."""
    match writer.get_extra_info("peername"):
        case (str(host), int(port), *_):
            return str(TcpAddress(host, port))
    return "unix"
