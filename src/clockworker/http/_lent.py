"""A connection's socket, lent to the thread that makes the body of a response (`_wsgi`), which then writes that itself.

A piece that goes from a thread through the loop costs a wake-up of the loop, one of the thread when there is room again, and a
copy with its chunk's head: seven times what it costs to write it where it is. So the loop lends the socket when all that it has
written itself is with the kernel, and writes nothing before the end of the response, of which the last piece is its own again.

The thread waits for a client that is slow, as it would wait for room in the pipe. The descriptor is a copy: the loop may close
its own at any time, and the number of a closed one is the next connection's. When the client is known to have left, or is given
up, the copy is shut down, which ends the wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clockworker.http._connection_cy import HttpConnection
    from clockworker.http._request_cy import Request

LEAST = 16 * 1024  # bytes of a piece: smaller ones are gathered on their way through the loop


class LentSocket:
    """sock: the transport's. longest: seconds for which a client may take nothing; 0: any."""

    def __init__(self, connection: HttpConnection, request: Request, sock: Any, longest: float) -> None:
        self._connection = connection
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._longest = longest
        self._socket = socket.socket(sock.family, sock.type, fileno=os.dup(sock.fileno()))
        self._writable = select.poll()
        self._writable.register(self._socket.fileno(), select.POLLOUT)

    # In the thread

    def send(self, data: bytes) -> None:
        """A piece of the body. Raises `OSError` if the client has left, or takes nothing for too long."""
        request = self._request
        size = len(data)
        parts: list[Any] = [b"%x\r\n" % size, data, b"\r\n"] if request.chunked else [data]
        try:
            while parts:
                try:
                    sent = self._socket.sendmsg(parts)
                except BlockingIOError:
                    self._wait()
                    continue
                parts = _behind(parts, sent)
        except OSError:
            self._loop.call_soon_threadsafe(self._lose)
            raise
        request.sent += size
        if request.remaining >= 0:
            request.remaining -= size

    def _wait(self) -> None:
        ms = self._longest * 1000 if self._longest else None
        if not self._writable.poll(ms):
            raise TimeoutError(f"the client has taken nothing for {self._longest:g} s")

    # In the loop

    def _lose(self) -> None:
        """The thread has found its client gone: nobody need say that the response is not complete."""
        request = self._request
        if not request.complete:
            request.left = True
            self._connection.transport.abort()

    def shut_down(self) -> None:
        """Have the thread wait no more."""
        with contextlib.suppress(OSError):  # it is not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


def _behind(parts: list[Any], sent: int) -> list[Any]:
    """What is left of them behind so many bytes."""
    while parts and sent >= len(parts[0]):
        sent -= len(parts[0])
        parts = parts[1:]
    if sent:
        parts = [memoryview(parts[0])[sent:], *parts[1:]]
    return parts
