# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What is done for each connection, compiled: accepting it, making its transport, counting it, and learning of its end.

A short connection is accepted, asked once, answered and closed; in Python all this took as long again as what uvloop and the
application do for it. `_accept` and `_connections` have the rest, which happens seldom, and say what it is about.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
    from cython.cimports.clockworker.executor._native import PyContext_Copy, PyContext_Enter, PyContext_Exit
    from cython.cimports.clockworker.shards.worker._system import accept_on, first_step, run_to_end
else:
    from time import monotonic_ns as now_ns


AT_ONCE = 64  # connections taken in one go
_AT_ONCE = AT_ONCE  # for C
_AT_ONCE_NS = 100_000  # and no more begun after so long
_PARTS = 3  # of the time, of which the loop has one while tasks are runnable, or no more are taken ...
_LONGEST_NS = 4_000_000  # ... for so long

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_STREAM = int(socket.SOCK_STREAM)


class Maker(Protocol):
    """Makes the protocols of a server's connections, each by `factory`, or, where that is None, of the connection."""

    @property
    def factory(self) -> Callable[[], asyncio.BaseProtocol] | None: ...

    def protocol(self, connection: Any) -> asyncio.BaseProtocol:
        """What is to serve a connection that has been accepted. May raise what the application's code raises."""


@cython.cclass
class Places:
    """How many connections may be open at once. Never more are taken than there are places.

    limit: None: as many as come. taken: how many are open.
    """

    limit: int | None
    taken: int

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.taken = 0
        self._is_limited = limit is not None
        self._most = 0 if limit is None else limit
        self._awaited = False
        self._waiting: list[Callable[[], None]] = []

    @property
    def full(self) -> bool:
        return self.is_full()

    def is_full(self) -> bool:
        return self._is_limited and self.taken >= self._most

    def tell(self, when_room: Callable[[], None]) -> None:
        """Whenever a place has become free and somebody had waited for one, and when the limit is lifted."""
        self._waiting.append(when_room)

    def wait(self) -> None:
        """Somebody does, until all have been told."""
        self._awaited = True

    def free(self) -> None:
        """A connection has ended."""
        self.taken -= 1
        if self._awaited:
            self._tell_all()

    def lift(self) -> None:
        """There is no limit any more."""
        self.limit = None
        self._is_limited = False
        self._tell_all()

    def _tell_all(self) -> None:
        self._awaited = False
        if len(self._waiting) > 1:  # none has the first choice each time
            self._waiting.append(self._waiting.pop(0))
        for when_room in self._waiting:
            when_room()


@cython.cclass
class Accepted:
    """One connection. To uvloop it is the accepted socket: it asks that for `family`, `type` and `fileno()`, and closes it when
    the transport has closed the descriptor. (A real socket object would cost more than all else that is done here.) It is
    what makes the protocol, too.

    accepted_at: seconds of the monotonic clock. working: its handler has not returned. end: why it ended, for the access log.
    received: bytes, as far as somebody counts them. idle_since: when it was first found idle. asked_at: when its protocol was
    last asked to stop.
    """

    family: int
    type: int
    working: bool
    end: str
    received: int | None
    peer: str | None
    idle_since: float | None
    asked_at: float | None

    def __init__(self, book: Book, family: int, descriptor: int) -> None:
        self._begin(book, family, descriptor)

    def _begin(self, book: Book, family: int, descriptor: int) -> None:
        self.family = family
        self.type = _STREAM
        self._accepted_ns = now_ns()
        self.working = False
        self.end = "closed"
        self.received = self.peer = self.idle_since = self.asked_at = None
        self._descriptor = descriptor
        self._book = book
        self._coroutine: Coroutine[Any, None, tuple[asyncio.Transport, object]] | None = None
        self._opened: asyncio.Future[object] | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def accepted_at(self) -> float:
        return float(self._accepted_ns / 1e9)

    def __call__(self) -> asyncio.BaseProtocol:
        """Its protocol."""
        book = self._book
        if book.factory is None:
            return book.server.protocol(self)
        protocol = book.factory()
        if not hasattr(protocol, "connection_made"):
            if asyncio.iscoroutine(protocol):
                protocol.close()
            raise TypeError(f"create_server's factory {book.factory!r} has returned {protocol!r}, which is no protocol")
        return protocol

    def open(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Make its protocol and its transport. Raises what the making of the protocol raises. Both run in the context.

        The coroutine waits once, for `connection_made`; the transport, which it returns, is there before, and for as long
        as it is left suspended. It is resumed when somebody asks for the transport: only the stop does. Thus a connection
        costs no task, and no turn of the loop.
        """
        if cython.compiled:
            PyContext_Enter(context)
            try:
                self._open(loop)
            finally:
                PyContext_Exit(context)
        else:
            context.run(self._open, loop)

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        coroutine = loop.connect_accepted_socket(self, self)  # type: ignore[arg-type]
        self._opened = first_step(coroutine) if cython.compiled else coroutine.send(None)
        self._coroutine = coroutine

    @property
    def transport(self) -> asyncio.Transport | None:
        """None until it is open, and once it is closed."""
        if self._opened is not None and self._opened.done():
            self._transport = self._finish()
        return self._transport

    def _finish(self) -> asyncio.Transport:
        coroutine = self._coroutine
        self._coroutine = self._opened = None
        assert coroutine is not None
        if cython.compiled:
            opened: tuple[asyncio.Transport, object] = run_to_end(coroutine)
            return opened[0]
        try:
            coroutine.send(None)
        except StopIteration as done:
            opened = done.value
            return opened[0]
        raise RuntimeError(f"{coroutine!r} waits twice")

    @property
    def is_opening(self) -> bool:
        return self._opened is not None and not self._opened.done()

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """For its transport: the descriptor is closed."""
        if self._descriptor >= 0:
            self._descriptor = -1
            if self._opened is not None:
                if self._opened.done():
                    self._finish()
                else:
                    assert self._coroutine is not None
                    self._coroutine.close()
                    self._coroutine = self._opened = None
            self._transport = None
            if not self.working:
                self._book.over(self)

    def done(self) -> None:
        """Its handler has returned."""
        self.working = False
        if self._descriptor < 0:
            self._book.over(self)

    def give_up(self) -> None:
        """It could not be opened."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self.close()


@cython.cclass
class Book:
    """Of a server's connections.

    kind: makes each of the socket's family and descriptor. places: for how many there is room. accepted: how many there have
    been. is_told: whether `began` and `ended` are to be called. changed: told how many have been accepted and how many are
    open, whenever that changes.
    """

    server: Maker
    places: Places
    accepted: int
    is_told: bool
    changed: Callable[[int, int], None] | None

    def __init__(self, server: Maker, kind: Callable[[Any, int, int], Accepted], places: Places) -> None:
        self.server = server
        self.factory = server.factory
        self.places = places
        self.accepted = 0
        self.is_told = False
        self.changed = None
        self._kind = kind
        # One without a constructor of its own is made without what a call by name and arguments takes.
        self._plain: type[Accepted] | None = None
        if isinstance(kind, type) and kind.__init__ is Accepted.__init__:  # type: ignore[misc]
            self._plain = kind
        self._open: set[Accepted] = set()

    @property
    def open(self) -> int:
        return len(self._open)

    def began(self, connection: Any) -> None:
        pass

    def ended(self, connection: Any) -> None:
        pass

    def take(self, family: int, descriptor: int) -> Accepted:
        """A socket that has been accepted is a connection from now on, which owns the descriptor."""
        if self._plain is None:
            connection = self._kind(self, family, descriptor)
        else:
            connection = Accepted.__new__(self._plain)
            connection._begin(self, family, descriptor)
        self._open.add(connection)
        self.places.taken += 1
        self.accepted += 1
        if self.is_told:
            self.began(connection)
        if self.changed is not None:
            self.changed(self.accepted, len(self._open))
        return connection

    def over(self, connection: Accepted) -> None:
        self._open.discard(connection)
        if self.changed is not None:
            self.changed(self.accepted, len(self._open))
        if self.is_told:
            self.ended(connection)
        self.places.free()


@cython.cclass
class Source:
    """A listening socket, which brings connections."""

    sock: socket.socket
    family: int

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.family = int(sock.family)
        self._descriptor = sock.fileno()
        # What `socket.accept` is made of: a socket object would cost more than the system call.
        self._accept: Callable[[], tuple[int, object]] = sock._accept  # type: ignore[attr-defined]

    def take(self) -> int:
        """The next connection: its descriptor. Raises `BlockingIOError` if there is none, and another `OSError` if it can't
        be taken. After that `family` is the connection's."""
        descriptor: int = accept_on(self._descriptor) if cython.compiled else self._accept()[0]
        return descriptor


@cython.cclass
class Intake:
    """Takes what sources bring, and opens it, each in a copy of the context."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        book: Book,
        context: contextvars.Context,
        core: Any,
    ) -> None:
        """core: an executor's. While anything is runnable there, the next turn of the loop comes late."""
        self._loop = loop
        self._book = book
        self._context = context
        self._core = core
        self._taken_ns = self._driver_ns = 0

    def readable(self, source: Source) -> None:
        """Take what waits there: one if nothing else is to be done, else some. What connections cost comes after this, as
        events of the loop's: so whoever opens them as fast as he can would have as much of the time as he likes, and tasks
        what is left."""
        now = now_ns()
        driver_ns = self._core.driver_ns
        most = 1
        if self._core.is_busy():
            passed = now - self._taken_ns
            if passed < _LONGEST_NS and passed < _PARTS * (driver_ns - self._driver_ns):
                return
            most = _AT_ONCE
        self._taken_ns, self._driver_ns = now, driver_ns
        if self.take(source, most, now + _AT_ONCE_NS) is False:
            self.wait_for_room()

    def take(self, source: Source, most: int, until_ns: int) -> bool | None:
        """Take so many, at the most, and no more when that time has come. Returns None if there are no more, and False if they
        can't be taken now."""
        for at in range(most):
            if at and now_ns() >= until_ns:
                return True
            if self._book.places.is_full():
                self.is_full()
                return True
            try:
                descriptor = source.take()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self.has_no_room(error)
                    return False
                continue  # it left while it waited, or broke: the next one's turn
            connection = self._book.take(source.family, descriptor)
            try:
                if cython.compiled:
                    connection.open(self._loop, PyContext_Copy(self._context))
                else:
                    connection.open(self._loop, self._context.copy())
            except Exception as error:
                connection.give_up()
                self.could_not_open(error)
        return True

    def is_full(self) -> None:
        raise NotImplementedError

    def wait_for_room(self) -> None:
        raise NotImplementedError

    def has_no_room(self, error: OSError) -> None:
        raise NotImplementedError

    def could_not_open(self, error: Exception) -> None:
        raise NotImplementedError
