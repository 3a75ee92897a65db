"""A server of asyncio streams whose handlers run in an executor queue, and that can be drained.

Draining: an open connection is either in the middle of something or waiting for its client's next request. Only the
handler knows, so it is told in the one way that every handler understands: once the listening sockets are closed, a
connection whose handler waits for data, with nothing received that it has not taken, reads an end of file, as if the
client had said that nothing more will come. Handlers that are busy are left alone until they come back to wait. The
connection must have been found waiting for a while, so that a request that has reached the kernel is read first, and a
client that asks one thing after the other is not cut off between two. A new client has longer for its first bytes. When the
handler has returned, what it has written is still sent, however slowly the client takes it: the connection is open until then.

Rejected: closing the transports of idle connections (the handler gets an exception for nothing), cancelling handlers
(cuts open requests), and leaving it to handlers to watch for the stop (nobody does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

from clockworker.executor import JoinHandle
from clockworker.shards.worker._connections import FIRST_S, IDLE_S, Connection, Connections
from clockworker.shards.worker._ends import is_cancelled, without_ends

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Reader(asyncio.StreamReader):
    """A stream reader that knows when its handler waits for data and none is left over."""

    _waiter: object
    _buffer: bytearray
    _ended = False
    received = 0  # bytes
    timeout: TimeoutError | None = None  # that a read has raised, of a reader that may

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
        except TimeoutError as error:
            self.timeout = error
            raise


class StreamServer:
    """Makes the protocols for one call of `Shard.start_server`, and runs a handler for each connection."""

    factory: Callable[[], asyncio.BaseProtocol] | None = None  # a protocol is made of its connection
    logs_connections = True

    def __init__(
        self, handler: Handler, spawn: Callable[..., JoinHandle[None]], limit: int, *, read_timeout: float | None = None
    ) -> None:
        self._handler = handler
        self._spawn = spawn
        self._limit = limit
        self._read_timeout = read_timeout
        self._readers: dict[Connection, _Reader] = {}  # of handlers that have not returned
        self.connections: Connections  # its own; set before the first is accepted

    def protocol(self, connection: Connection) -> asyncio.StreamReaderProtocol:
        if self._read_timeout is None:
            reader = _Reader(limit=self._limit, loop=asyncio.get_running_loop())
        else:
            reader = _ImpatientReader(limit=self._limit, loop=asyncio.get_running_loop())
            reader.seconds = self._read_timeout
        return asyncio.StreamReaderProtocol(reader, partial(self._connected, connection))

    def settle(self, connection: Connection, now: float) -> bool:
        return True  # handlers learn of the stop by the end of file, for which nobody waits

    def end_if_idle(self, connection: Connection, now: float) -> None:
        reader = self._readers.get(connection)
        if reader is None or not reader.idle or connection.is_receiving():
            connection.idle_since = None
        elif connection.idle_since is None:
            connection.idle_since = now
        elif now - connection.idle_since >= IDLE_S and (reader.received or now - connection.begun_at >= FIRST_S):
            reader.end()

    def _connected(self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, _Reader)
        self._readers[connection] = reader
        connection.working = True
        handle = self._spawn(
            self._handle(connection, reader, writer, writer.transport.get_protocol()), name="connection"
        )
        handle.task.add_done_callback(partial(self._never_begun, connection, writer))

    def _never_begun(self, connection: Connection, writer: asyncio.StreamWriter, task: object) -> None:
        """If the task was cancelled before its first step: the end of its connection is nobody else's duty."""
        if self._readers.pop(connection, None) is not None:
            connection.end = "failed"
            writer.close()
            connection.done()

    async def _handle(
        self, connection: Connection, reader: _Reader, writer: asyncio.StreamWriter, protocol: object
    ) -> None:
        try:
            await self._handler(reader, writer)
        except Exception as error:
            connection.end = self._why(error, reader, writer, protocol)
        except asyncio.CancelledError as error:
            if not is_cancelled():
                connection.end = "failed"
                self.connections.failed("something that a connection's handler awaited was cancelled", error)
            raise
        finally:
            del self._readers[connection]
            connection.received = reader.received
            writer.close()
            if (broken := reader.exception()) is not None:
                # Its frames lead to the protocol, which holds it: a circle, whose collection would report the future in it.
                broken.__traceback__ = None
            connection.done()

    def _why(self, error: Exception, reader: _Reader, writer: asyncio.StreamWriter, protocol: object) -> str:
        """What to call an end by an exception."""
        if error is reader.timeout:
            return "timed out"
        rest = without_ends(error, reader, writer, protocol)
        if rest is not None:
            self.connections.failed("a connection's handler raised", rest)
            return "failed"
        clean = isinstance(error, asyncio.IncompleteReadError) and not error.partial
        return "closed" if clean else "lost"
