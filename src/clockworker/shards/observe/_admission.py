"""Connections of tools (metrics, the control socket) as asyncio streams, one accept at a time.

asyncio's own server accepts a hundred before anybody is asked whether there is room, and takes a shortage of descriptors for an
error of the program. Here a shortage is a line in the log and a pause; who waits meanwhile is in the socket's queue.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from clockworker.shards.logs._log_limit import Limiter, more

log = logging.getLogger("clockworker.supervisor")

PAUSE_S = 0.5

# Of accept(2): what has become of the connection that was next. The one after it may be well.
LEFT = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EOPNOTSUPP,
        errno.EPERM,
        *(getattr(errno, name) for name in ("ENONET",) if hasattr(errno, name)),  # of Linux
    }
)


class Admission:
    """connected: gets the streams of each connection, which are its own to close. limit: bytes that a reader buffers."""

    def __init__(
        self,
        sock: socket.socket,
        connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
        limit: int = 2**16,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._connected = connected
        self._limit = limit
        self._connecting: set[asyncio.Task[None]] = set()
        self._complaints = Limiter()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        self._go_on()

    def close(self) -> None:
        """And the socket. Connections go on."""
        self._loop.remove_reader(self._sock.fileno())
        if self._pause is not None:
            self._pause.cancel()
        for task in self._connecting:
            task.cancel()
        self._sock.close()

    def _go_on(self) -> None:
        self._pause = None
        try:
            self._loop.add_reader(self._sock.fileno(), self._accept)
        except OSError as error:
            self._wait(error)

    def _wait(self, error: OSError) -> None:
        self._complain(error)
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _accept(self) -> None:
        try:
            accepted, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in LEFT:
                self._loop.remove_reader(self._sock.fileno())
                self._wait(error)
            return
        task = self._loop.create_task(self._connect(accepted))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            accepted.setblocking(False)
            reader = asyncio.StreamReader(self._limit)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError as error:
            accepted.close()
            self._complain(error)
        except BaseException:
            accepted.close()
            raise
        else:
            try:
                self._connected(reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))
            except OSError as error:
                transport.abort()
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        if (unsaid := self._complaints.may_say(self._loop.time())) is not None:
            log.error("no connection of a tool can be accepted: %s%s", error.strerror, more(unsaid))
