"""The line on which a shard gets connections that the supervisor has accepted (`_dispatch`): descriptors, one a message."""

from __future__ import annotations

import array
import errno
import os
import socket

_ONE = array.array("i").itemsize


class Handover:
    """The line on which one shard gets connections. The supervisor keeps both ends."""

    def __init__(self) -> None:
        self._end, self.shard_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.setblocking(False)
        self.shard_end.setblocking(False)
        self.given = 0

    def give(self, connection: socket.socket) -> bool:
        """False if the line is full."""
        try:
            socket.send_fds(self._end, [b"c"], [connection.fileno()])
        except OSError:  # EAGAIN; ETOOMANYREFS, the kernel's limit on descriptors on their way
            return False
        self.given += 1
        return True

    def close(self) -> None:
        self._end.close()
        self.shard_end.close()


def receive(shard_end: socket.socket) -> socket.socket:
    """The next connection on the line. Raises `BlockingIOError` if there is none, and another `OSError` if there is no
    descriptor for it; then it stays on the line.

    The kernel closes a connection that is taken off the line where there is no descriptor to give it. Hence a look first,
    which gives one and leaves the message where it is.
    """
    look = socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC
    data, ancillary, _, _ = shard_end.recvmsg(1, socket.CMSG_LEN(_ONE), look)
    if not data:
        raise BlockingIOError(errno.EAGAIN, "the line has ended")
    if not ancillary:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    shard_end.recv(1)
    return socket.socket(fileno=array.array("i", ancillary[0][2])[0])
