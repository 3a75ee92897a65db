"""Descriptors kept for what the supervisor sends.

A flood of clients takes the last descriptor of a shard, and what comes over the control channel meanwhile brings some: a link
to a restarted neighbour, listening sockets. The kernel drops those for which there is no room, and they are not sent again. So
a shard holds a few that it does not use, gives them up while it reads a message and does what that says, and takes them
back before anybody else in its loop can. The descriptor that a link keeps is among them as long as the link is down.

Rejected: to look at a message first (MSG_PEEK), as is done for connections (`_handover`): no descriptor becomes free by
waiting while clients take each that does.
"""

from __future__ import annotations

import os
from types import TracebackType

FOR_A_MESSAGE = 8


class Reserve:
    """Given up inside of `with`. Afterwards there are `size` again, or as many as could be had."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: list[int] = []
        self._fill()

    def __enter__(self) -> None:
        while self._kept:
            os.close(self._kept.pop())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fill()

    def descriptors(self) -> list[int]:
        return [*self._kept]

    def _fill(self) -> None:
        try:
            while len(self._kept) < self.size:
                self._kept.append(os.dup(self._kept[0]) if self._kept else os.eventfd(0, os.EFD_CLOEXEC))
        except OSError:
            pass  # another thread was faster: the next time, then
