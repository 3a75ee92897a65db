"""Clients that have said all, and may still wait for the answer.

A client that closes its connection and one that only closes its own direction (`shutdown(SHUT_WR)`, as `nc -N` does) look the
same: a FIN comes. Closing the connection then, as most servers do, takes the answer from the second; going on as if nothing had
happened computes for the first, of which there are many more, what nobody will read. What tells them apart is a byte that is
sent to them: the kernel of a client that has closed answers it with a reset, and that of one that listens acknowledges it.

A response that is being sent has such bytes. Where nothing goes for a moment, something is sent that changes no answer, if
HTTP/1.1 has it: before the head an interim `100 Continue`, which every client of HTTP/1.1 must be able to skip (RFC 9110,
15.2), and between two chunks a zero in front of the size of the next. So an application hears `http.disconnect` a few tenths of
a second after its client has left, and not at all of one that listens. Of the client of a response that is framed otherwise and
stands still nobody knows; that one is taken to have left after `PATIENCE_S`, but what is sent all the same still goes.

Nothing is known of later, either: a client that listened may leave, and its FIN has been sent. Then the next byte tells, or the
kernel's own probes (SO_KEEPALIVE), which are answered with a reset once a client's kernel has forgotten the connection: Linux's
does after a minute. Of a Unix socket the kernel says all at once.

A loop does not look at a socket that has nothing to read or to write, so it is looked at here, at growing intervals.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import socket
import sys
import termios
from typing import TYPE_CHECKING, Any

from clockworker.shards.worker._socket_info import SocketInfo

if TYPE_CHECKING:
    from clockworker.http._connection_cy import HttpConnection

FIRST_S = 0.1  # until the first look; the time between two doubles
LONGEST_S = 15.0
PATIENCE_S = 2.0

_KEEP_ALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class HalfClosed:
    """Watches over the client of a connection, on which its FIN has come. socket: the connection's."""

    def __init__(self, connection: HttpConnection, sock: Any) -> None:
        self._connection = connection
        self._socket = sock
        self._is_unix = sock.family == socket.AF_UNIX
        self._poll = select.poll()
        self._poll.register(sock.fileno(), 0)
        self._went = self._segments()  # when it was last looked at
        self._listens = self._is_unix  # it does, or did
        self._delay = FIRST_S
        self._silent_s = 0.0  # how long nothing has been sent to a client of which nothing is known
        self._timer: asyncio.TimerHandle | None = None

    def is_gone(self) -> bool:
        """Whether its client is known to be."""
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in self._poll.poll(0))

    def start(self) -> None:
        if not self._is_unix:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEP_ALIVE:
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._look_later()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._delay, self._look)

    def _look(self) -> None:
        self._timer = None
        connection = self._connection
        if self.is_gone():
            connection.transport.abort()
            return
        if not self._is_unix:
            self._ask()
        self._silent_s += self._delay
        self._delay = min(2 * self._delay, LONGEST_S)
        self._look_later()

    def _ask(self) -> None:
        connection = self._connection
        if connection.transport.get_write_buffer_size() or self._unacknowledged():
            return  # what is on its way will tell
        went = self._segments()
        if went > self._went:
            self._listens = True
            self._silent_s = 0.0
        if not connection.probe() and not self._listens and self._silent_s + self._delay >= PATIENCE_S:
            connection.let_down()
        self._went = went

    def _segments(self) -> int:
        info = SocketInfo.of(self._socket)
        return 0 if info is None else info.went

    def _unacknowledged(self) -> int:
        try:
            return int.from_bytes(fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0
