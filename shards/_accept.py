"""Accepting in a shard where the loop's own server will not do: with a limit on open connections, or where the supervisor
accepts and hands connections over. Either way somebody wants to know how many are open. That the socket itself tells: a
protocol may have no room for a wrapper (`__slots__`), and may give its transport to another (`set_protocol`).

At the limit nothing is refused. The shard takes no more, and connections wait where they are: in the listening sockets'
queues, as long as the backlog allows, or with the supervisor, which gives them to another shard.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from clockworker.executor import QueueHandle

log = logging.getLogger("clockworker.shard")

_AT_ONCE = 64  # connections taken in one go, so that nothing else waits long
_NO_DESCRIPTORS_S = 0.5


def accept_from(sock: socket.socket) -> Callable[[], socket.socket]:
    """The source of a listening socket's connections."""

    def take() -> socket.socket:
        return sock.accept()[0]

    return take


def receive_from(sock: socket.socket) -> Callable[[], socket.socket]:
    """The source of connections that arrive by hand."""

    def take() -> socket.socket:
        _, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
        if not descriptors:
            raise BlockingIOError(errno.EAGAIN, "the line has ended")
        return socket.socket(fileno=descriptors[0])

    return take


class _Connection(socket.socket):
    """Takes over a socket, and tells once when it is given up: uvloop detaches it then, asyncio closes it."""

    __slots__ = ("_lost",)

    def __init__(self, taken: socket.socket, lost: Callable[[], None]) -> None:
        super().__init__(taken.family, taken.type, taken.proto, fileno=taken.detach())
        self._lost: Callable[[], None] | None = lost
        self.setblocking(False)

    def detach(self) -> int:
        self._tell()
        return super().detach()

    def close(self) -> None:
        self._tell()
        super().close()

    def _tell(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()


class Acceptor:
    """Opens a connection of `factory`'s protocols for all that `sources` bring, up to `limit` at once.

    changed: told how many connections have been taken and how many are open, whenever that changes.
    """

    def __init__(
        self,
        sources: dict[socket.socket, Callable[[], socket.socket]],
        factory: Callable[[], asyncio.BaseProtocol],
        queue: QueueHandle,
        limit: int | None,
        changed: Callable[[int, int], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sources = sources
        self._factory = factory
        self._queue = queue
        self._limit = limit
        self._changed = changed
        self._taken = 0
        self._open = 0
        self._accepting = False
        self._closed = False
        self._connecting: set[asyncio.Task[None]] = set()
        self._accept()

    async def close(self) -> None:
        """Take what is there, and no more, and wait until it is connected. The sources stay open."""
        for take in self._sources.values():
            while self._take_one(take):
                pass
        self._closed = True
        self._pause()
        await asyncio.gather(*self._connecting, return_exceptions=True)

    def _accept(self) -> None:
        if not self._accepting and not self._closed:
            self._accepting = True
            for sock, take in self._sources.items():
                self._loop.add_reader(sock.fileno(), self._take, take)

    def _pause(self) -> None:
        self._accepting = False
        for sock in self._sources:
            self._loop.remove_reader(sock.fileno())

    def _take(self, take: Callable[[], socket.socket]) -> None:
        for _ in range(_AT_ONCE):
            if self._limit is not None and self._open >= self._limit:
                self._pause()
                return
            if not self._take_one(take):
                return

    def _take_one(self, take: Callable[[], socket.socket]) -> bool:
        try:
            taken = take()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                log.error("no connection can be accepted: %s", error.strerror)
                self._pause()
                self._loop.call_later(_NO_DESCRIPTORS_S, self._accept)
                return False
            return error.errno == errno.ECONNABORTED  # it left while it waited; else there is none
        self._taken += 1
        self._open += 1
        self._changed(self._taken, self._open)
        # A task of the queue: the protocol's callbacks run in the context of whoever made the connection.
        task = self._queue.spawn(self._connect(_Connection(taken, self._lost)), name="connect").task
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    async def _connect(self, connection: _Connection) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except BaseException:
            connection.close()
            raise

    def _lost(self) -> None:
        self._open -= 1
        self._changed(self._taken, self._open)
        self._accept()
