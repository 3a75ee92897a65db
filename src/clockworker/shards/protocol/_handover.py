"""The line on which a shard gets connections that the supervisor has accepted (`_dispatch`): descriptors, one a message. There
is one for each bind, which so says where a connection came in, and on which none waits for a place at another server."""

from __future__ import annotations

import array
import errno
import os
import socket

_ONE = array.array("i").itemsize
_NUMBER = 8  # bytes


class Handover:
    """The line on which one shard gets connections of one bind. The supervisor keeps both ends.

    limit: how many the server has room for, where it has a limit of its own."""

    def __init__(self) -> None:
        self._end, self.shard_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.setblocking(False)
        self.shard_end.setblocking(False)
        self.given = 0  # and not taken back
        self.limit: int | None = None
        self._number = 0

    def give(self, connection: socket.socket) -> bool:
        """False if the line is full."""
        try:
            socket.send_fds(self._end, [self._number.to_bytes(_NUMBER, "little")], [connection.fileno()])
        except OSError:  # EAGAIN; ETOOMANYREFS, the kernel's limit on descriptors on their way
            return False
        self._number += 1
        self.given += 1
        return True

    def take_back(self) -> socket.socket | None:
        """A connection that the shard has not taken, if there is one and a descriptor for it."""
        try:
            connection = receive(self.shard_end)
        except OSError:
            return None
        self.given -= 1
        return connection

    def close(self) -> None:
        self._end.close()
        self.shard_end.close()


def receive(shard_end: socket.socket) -> socket.socket:
    """The next connection on the line. Raises `BlockingIOError` if there is none, and another `OSError` if there is no
    descriptor for it; then it stays on the line.

    The kernel closes a connection that is taken off the line where there is no descriptor to give it. Hence a look first,
    which gives one and leaves the message where it is. The shard and the supervisor may read at once, and then what is taken
    is not what was looked at. So the number that is taken with a connection decides, and a connection that was only looked
    at is let go of.
    """
    looked_at, seen = _receive(shard_end, socket.MSG_PEEK)
    if seen is None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    try:
        number, taken = _receive(shard_end, 0)
    except OSError:
        seen.close()
        raise
    if taken is None and number == looked_at:
        return seen
    seen.close()
    if taken is None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return taken


def _receive(shard_end: socket.socket, flags: int) -> tuple[bytes, socket.socket | None]:
    """A message's number, and the connection if there was a descriptor for it."""
    number, ancillary, _, _ = shard_end.recvmsg(_NUMBER, socket.CMSG_LEN(_ONE), flags | socket.MSG_CMSG_CLOEXEC)
    if not number:
        raise BlockingIOError(errno.EAGAIN, "the line has ended")
    return number, socket.socket(fileno=array.array("i", ancillary[0][2])[0]) if ancillary else None
