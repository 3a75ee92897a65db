"""TLS: connections that speak it. The protocol itself is the standard library's, and its flow
uvloop's; here is what a server of ours has to know of a connection besides.

Whether a connection is idle cannot be told from its socket, where a handshake, a renewed key or half a record look like
anything else. So the context makes `ssl.SSLObject`s that note when the last byte of the application came and went
(`SSLContext.sslobject_class` is there for that). What has come and is no whole record yet is known from the difference: the
socket got something later than the application did.

The farewell. uvloop's own limit on it begins when a transport is closed, and would cut whoever takes the answer slowly. So it
gets none, and the limit here begins when the client has taken everything: it then has `FAREWELL_S` to say goodbye in its turn.
In a drain nobody waits for that.

Floods. A client may send records of a byte each, of which one read of the socket holds ten thousand; and it may go on sending
when the server has said goodbye, all of which uvloop decrypts to find the client's. So an object gives so many records at once,
and the rest in the loop's next turn; and a client that is left and still sends more than anybody sends by chance is cut off.

A handshake that fails is the client's business, and no error of a handler: one line, at a limited rate, and none where the
client has only left, as load balancers do that look whether a port is open.
"""

from __future__ import annotations

import asyncio
import contextvars
import fcntl
import logging
import select
import socket
import ssl
import sys
import termios
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from clockworker._errors import UsageError
from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.worker._connections import FIRST_S, IDLE_S, Connection, Connections
from clockworker.shards.worker._socket_info import SocketInfo

log = logging.getLogger("clockworker.shard")

# The loop's coroutine, and the future that it waits for.
Opening: TypeAlias = tuple[Coroutine[Any, None, tuple[asyncio.Transport, object]], asyncio.Future[object]]

HANDSHAKE_S = 10.0
FAREWELL_S = 5.0

FAILED = "failed in its handshake"

_AT_ONCE = 64  # records in one turn of the loop
_MOST_LINGERED = 4_194_304  # bytes of a client that is left

_NEVER_S = 365 * 86_400.0
_LOOK_S = 0.5  # between two looks at whether the client has taken everything
_TICK_S = 0.02  # what the kernel's clock for sockets may be off
_REST_S = 5.0  # a record of which no more has come for so long is none that anybody waits for


class _Noted:
    """What an `SSLObject` is, too: it notes when bytes of the application pass. when_leaving: told when it says goodbye.

    when_many: asked, when many records have been given in a row, whether the rest is to be asked for later. when_flooded: told
    if too much comes after the goodbye.
    """

    came_at: float | None = None
    went_at: float | None = None
    when_leaving: Callable[[], None] | None = None
    when_many: Callable[[], bool] | None = None
    when_flooded: Callable[[], None] | None = None
    _given = 0  # in a row
    _lingers: int | None = None  # bytes that may still come once it has said goodbye

    def read(self, len: int = 1024, buffer: bytearray | None = None) -> Any:
        if self._given >= _AT_ONCE and self.when_many is not None:
            self._given = 0
            if self.when_many():
                raise ssl.SSLWantReadError
        try:
            taken = super().read(len, buffer)  # type: ignore[misc]
        except ssl.SSLWantReadError:
            self._given = 0
            raise
        if taken:
            self._given += 1
            self.came_at = time.monotonic()
            if self._lingers is not None:
                self._drop(taken if isinstance(taken, int) else taken.__len__())
        return taken

    def _drop(self, size: int) -> None:
        assert self._lingers is not None
        self._lingers -= size
        if self._lingers < 0:
            told, self.when_flooded = self.when_flooded, None
            if told is not None:
                told()
            raise ssl.SSLWantReadError

    def write(self, data: Any) -> int:
        written: int = super().write(data)  # type: ignore[misc]
        self.went_at = time.monotonic()
        return written

    def unwrap(self) -> None:
        told, self.when_leaving = self.when_leaving, None
        if told is not None:
            told()
        if self._lingers is None:
            self._lingers = _MOST_LINGERED
        super().unwrap()  # type: ignore[misc]


def prepare(context: object) -> ssl.SSLContext:
    """A context for a server's connections, which from now on makes objects that note what passes. Raises `UsageError` if it
    cannot serve."""
    if not isinstance(context, ssl.SSLContext):
        raise UsageError(f"ssl is {context!r}; give an ssl.SSLContext, False, or None for that of --ssl-certfile")
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise UsageError(
            "ssl is a context for clients; a server's is ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), with "
            "load_cert_chain(certificate, key)"
        )
    made = context.sslobject_class or ssl.SSLObject
    if not issubclass(made, _Noted):
        context.sslobject_class = type("Noted" + made.__name__, (_Noted, made), {})
    return context


class Handshakes:
    """The TLS of one server: its context, and what is said of handshakes that fail."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self._complaints = Limiter()

    def connection(self, connections: Connections, family: int, descriptor: int) -> SecureConnection:
        """One that has just been accepted, and shakes hands first."""
        return SecureConnection(connections, family, descriptor, self)

    def failed(self, error: BaseException) -> None:
        """Said at a limited rate; not of clients that have just left."""
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return
        if (unsaid := self._complaints.may_say(time.monotonic())) is not None:
            log.warning("a client's TLS handshake failed: %s%s", _reason(error), more(unsaid))


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionAbortedError):
        return f"it was not done within {HANDSHAKE_S:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        said = error.reason.replace("_", " ").lower()
        return f"{said} (it does not speak TLS)" if error.reason in _PLAIN else said
    return str(error) or type(error).__name__


_PLAIN = ("HTTP_REQUEST", "WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTPS_PROXY_REQUEST", "RECORD_LAYER_FAILURE")


class SecureConnection(Connection):
    """One that speaks TLS. `transport` is None until the handshake is done."""

    __slots__ = ("_handshakes", "_leaves_at", "_noted", "_opening", "_secured", "_shaken_at")

    def __init__(self, connections: Connections, family: int, descriptor: int, handshakes: Handshakes) -> None:
        super().__init__(connections, family, descriptor)
        self._handshakes = handshakes
        self._opening: Opening | None = None
        self._secured: asyncio.Transport | None = None
        self._shaken_at: float | None = None
        self._leaves_at: float | None = None
        self._noted: _Noted | None = None

    def open(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        context.run(self._shake, loop)

    def _shake(self, loop: asyncio.AbstractEventLoop) -> None:
        coroutine = loop.connect_accepted_socket(
            self,
            self,  # type: ignore[arg-type]
            ssl=self._handshakes.context,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=_NEVER_S,
        )
        future = coroutine.send(None)
        future._asyncio_future_blocking = False
        self._opening = coroutine, future
        future.add_done_callback(self._shaken)

    def _shaken(self, future: asyncio.Future[object]) -> None:
        error = future.exception()
        if error is not None:
            self._handshakes.failed(error)
            if self._opening is not None:
                self._give_up_handshake(FAILED)
        elif self._opening is not None and (transport := self.transport) is not None:
            self._noted = transport.get_extra_info("ssl_object")
            self._shaken_at = time.monotonic()
            if self._noted is not None:
                self._noted.when_leaving = self._leaves
                self._noted.when_many = self._give_later
                self._noted.when_flooded = self._cut_soon

    def _give_up_handshake(self, end: str) -> None:
        assert self._opening is not None
        self.end = end
        (coroutine, _), self._opening = self._opening, None
        coroutine.close()

    @property
    def transport(self) -> asyncio.Transport | None:
        if self._opening is not None and self._opening[1].done() and not self._has_failed():
            (coroutine, _), self._opening = self._opening, None
            try:
                coroutine.send(None)
            except StopIteration as done:
                self._secured = done.value[0]
        return self._secured

    def close(self) -> None:
        if self._has_failed():
            self._give_up_handshake(FAILED)
        elif self.transport is None and self._opening is not None:
            self._give_up_handshake(self.end)
        if self._noted is not None:
            self._noted.when_leaving = self._noted.when_many = self._noted.when_flooded = None
        self._secured = None
        super().close()

    def _has_failed(self) -> bool:
        return self._opening is not None and self._opening[1].done() and self._opening[1].exception() is not None

    @property
    def is_opening(self) -> bool:
        return False  # who stops need not wait for a handshake

    @property
    def begun_at(self) -> float:
        return self.accepted_at if self._shaken_at is None else self._shaken_at

    def shakes_hands(self, now: float) -> bool:
        if self._opening is None or self._opening[1].done():
            return False
        info = SocketInfo.of(self)
        quiet = now - self.accepted_at if info is None or not info.came else info.received_s
        if quiet >= FIRST_S:
            self._give_up_handshake("closed")
        return True

    def passed(self) -> tuple[float | None, float | None] | None:
        noted = self._noted
        return (None, None) if noted is None else (noted.came_at, noted.went_at)

    def is_receiving(self) -> bool:
        """Whether a part of a record has come, and no whole one since."""
        info = SocketInfo.of(self)
        if info is None or not info.came or info.received_s >= _REST_S:
            return False
        known = max(filter(None, (self._shaken_at, self._noted.came_at if self._noted else None)), default=0.0)
        return time.monotonic() - info.received_s > known + _TICK_S

    def unsent(self) -> int:
        return super().unsent() + self._untaken()

    def owns(self, transport: object) -> bool:
        """Errors of callbacks tell the transport below."""
        if super().owns(transport):
            return True
        info = getattr(transport, "get_extra_info", None)
        sock = None if info is None else info("socket")
        return sock is not None and self.fileno() >= 0 and sock.fileno() == self.fileno()

    def hasten(self, now: float) -> None:
        if self._leaves_at is None:
            return
        if self._untaken():
            self._leaves_at = now
        elif now - self._leaves_at >= IDLE_S:
            self._abort()

    def _give_later(self) -> bool:
        transport = self._secured
        if transport is None or transport.is_closing():
            return False
        asyncio.get_running_loop().call_soon(self._give_on)
        return True

    def _give_on(self) -> None:
        transport = self._secured
        if transport is not None and not transport.is_closing() and transport.is_reading():
            transport.pause_reading()
            transport.resume_reading()  # with what its object has; else it does so when its protocol resumes

    def _cut_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._abort)

    def _leaves(self) -> None:
        """It is closed, and the client is told so."""
        self._leaves_at = time.monotonic()
        self._look_again()

    def _look_again(self) -> None:
        asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        if self.fileno() < 0 or self._leaves_at is None:
            return
        now = time.monotonic()
        if self._untaken():
            self._leaves_at = now
        if now - self._leaves_at >= FAREWELL_S:
            self._abort()
        else:
            self._look_again()

    def _abort(self) -> None:
        if (transport := self.transport) is not None:
            transport.abort()

    def _untaken(self) -> int:
        """Bytes on their way that the client has not taken. As long as our own buffer has any, there are some: the kernel's is
        full then. A Unix socket counts until they are read, by a client that may never do so; there a full buffer has to do."""
        try:
            if self.family == socket.AF_UNIX and self._has_room():
                return 0
            return int.from_bytes(fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0

    def _has_room(self) -> bool:
        writable = select.poll()
        writable.register(self.fileno(), select.POLLOUT)
        return bool(writable.poll(0))
