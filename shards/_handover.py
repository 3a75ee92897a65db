"""The line on which a shard gets connections that the supervisor has accepted (`_dispatch`): descriptors, one a message."""

from __future__ import annotations

import socket


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
