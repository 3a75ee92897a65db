"""What the kernel says of a connection's socket: whether anything has come or gone, and when."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from typing import Protocol, Self

import msgspec

# Of struct tcp_info, Linux 4.6 and later.
_SIZE = 160
_INFO = struct.Struct("44xI4xI96xII")  # ms since data was sent, since it was received; segments with data, in and out


class HasSocket(Protocol):
    family: int

    def fileno(self) -> int: ...


class SocketInfo(msgspec.Struct, frozen=True):
    """Segments with data, in and out, and for how many seconds none has come and gone."""

    came: int
    went: int
    received_s: float
    sent_s: float

    @classmethod
    def of(cls, connection: HasSocket) -> Self | None:
        """None for a Unix socket, one that is closed, and an old kernel."""
        descriptor = connection.fileno()
        if connection.family == socket.AF_UNIX or descriptor < 0:
            return None
        borrowed = socket.socket(connection.family, socket.SOCK_STREAM, fileno=descriptor)
        try:
            info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
        except OSError:  # it is closed
            return None
        finally:
            borrowed.detach()
        if len(info) < _SIZE:
            return None
        sent_ms, received_ms, came, went = _INFO.unpack_from(info)
        return cls(came, went, received_ms / 1000, sent_ms / 1000)


def unread(connection: HasSocket) -> int:
    """Bytes that have come and have not been read."""
    try:
        return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # it is being closed
        return 0
