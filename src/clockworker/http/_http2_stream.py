"""A stream of HTTP/2: what one request comes by, and its response goes.

Coming in, it has a window of 64 KiB, which opens as the application takes the body. Going out, what the windows or the
transport do not take waits here, and the application in `send`; the connection says when it is this stream's turn to send a
frame.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from clockworker.executor._clock_cy import read as now_ns
from clockworker.http._head import RETRY_AFTER_S, accepts_trailers, trailers_of
from clockworker.http._http2_frames import ANSWERED, LONGEST_FRAME, SENT
from clockworker.http._http2_heads import Fields, write_head
from clockworker.http._request_cy import Carrier, Request, new_request

if TYPE_CHECKING:
    from clockworker.http._http2 import Http2Connection
    from clockworker.http._targets_cy import Target

WINDOW = 65_535  # of a stream: the protocol's default
OPEN_AT = 32_768  # bytes that a window is opened by at least
_CONTINUE = [(b":status", b"100")]


class Stream(Carrier):
    """What one request came by.

    target: its request's, which that forgets when its task has ended. has_ended: all of the request has come. closed: nothing
    more goes either way. since: the tick of the last progress, of its body, or of a response that waits for the client.
    """

    def __init__(self, connection: Http2Connection, number: int) -> None:
        self.writable = True
        self.connection = connection
        self.number = number
        self.request = new_request(self, connection.server.app)
        self.target: Target | None = None
        self.has_ended = False
        self.closed = False
        self.since = connection.rules.tick
        self._untaken = 0  # bytes by which its window is to be opened
        self._pending = memoryview(b"")
        self._is_last = False
        self._trailers: Fields | None = None

    # Coming in.

    def feed(self, data: bytes, size: int) -> None:
        """size: of the frame, padding too."""
        self.since = self.connection.rules.tick
        self._untaken += size
        if data and not self.request.complete:
            self.request.feed(data)

    def ask(self, request: Request) -> None:
        self.since = self.connection.rules.tick
        if self._untaken >= OPEN_AT and not self.has_ended and not self.closed:
            self.connection.h2.increment_flow_control_window(self._untaken, self.number)
            self._untaken = 0
            self.connection.write()

    def let_continue(self, request: Request) -> None:
        if request.more_body and not self.closed:
            self.connection.h2.send_headers(self.number, _CONTINUE)
            self.connection.write()

    # Going out.

    def begin_response(self, request: Request, status: int, headers: Any) -> None:
        connection = self.connection
        request.head, length = write_head(status, headers, connection.defaults.of(connection.rules.defaults))
        if status == 204 or status == 304 or request.method == "HEAD":
            request.remaining = -2  # there is no body, whatever the headers say of it
        else:
            request.remaining = length

    def send_head(self, request: Request) -> None:
        head, request.head = request.head, None
        self._send(head, b"", False)

    def send_body(self, request: Request, data: Any, more: bool) -> None:
        if type(data) is not bytes:
            data = bytes(data)
        size = len(data)
        head, request.head = request.head, None
        if request.remaining == -2:
            if head is not None and size and not more and request.method == "HEAD":
                _add_length(head, size)
            data = b""
        elif request.remaining >= 0:
            if size > request.remaining:
                self._send(head, b"", False)
                raise RuntimeError("Response content longer than Content-Length")
            request.remaining -= size
            if not more and request.remaining:
                self._send(head, data, False)
                raise RuntimeError("Response content shorter than Content-Length")
        elif head is not None and not more:
            _add_length(head, size)
        request.sent += len(data)
        if not more:
            request.complete = True
        self._send(head, data, not more)
        if not more:
            request.wake()

    def send_trailers(self, request: Request, fields: list[tuple[bytes, bytes]]) -> None:
        if request.remaining > 0:
            raise RuntimeError("Response content shorter than Content-Length")
        trailers = trailers_of(fields)
        if trailers and accepts_trailers(request.headers):
            self._trailers = trailers
        request.complete = True
        self._send(None, b"", True)
        request.wake()

    def send_hint(self, request: Request, links: list[bytes]) -> None:
        fields, _ = write_head(200, [(b"link", link) for link in links], [])
        if links and not self.closed:
            with suppress(ProtocolError):  # the client's reset has come, and is about to be heard of
                self.connection.h2.send_headers(self.number, [(b":status", b"103"), *fields[1:]])
            self.connection.write()

    def announce(self, request: Request, size: int) -> None:
        if request.head is not None and request.remaining == -1:
            request.head.append((b"content-length", b"%d" % size))
            request.remaining = size
        elif request.head is not None and request.method == "HEAD":
            _add_length(request.head, size)

    def answer_for(self, request: Request, status: int) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if status == 503:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        request.status = status
        request.remaining = -1
        request.sent = 0
        connection = self.connection
        head, _ = write_head(
            status, [*headers, (b"content-length", b"0")], connection.defaults.of(connection.rules.defaults)
        )
        request.started = request.complete = True
        self._send(head, b"", True)

    def cut(self, request: Request) -> None:
        request.complete = True
        if not self.closed:
            self._close()
            self._count(request.status)
            del self.request
            self.connection.reset(self.number, ErrorCodes.INTERNAL_ERROR)
            self.connection.rest()
            self.connection.write()

    def abandon(self, request: Request) -> None:
        pass  # it was counted when its client left

    def failed(self, message: str, error: BaseException | None) -> None:
        self.connection.server.failed(message, error)

    @property
    def is_blocked(self) -> bool:
        """Whether something waits to be sent."""
        return not self.writable

    def _send(self, head: Any, data: bytes, is_last: bool) -> None:
        if self.closed:
            return
        connection = self.connection
        if head is not None:
            ends = is_last and not data
            try:
                connection.h2.send_headers(self.number, head, end_stream=ends)
            except ProtocolError:
                return  # the client's reset has come, and is about to be heard of
            if ends:
                self._complete()
                connection.write()
                return
        if data or is_last:
            self._is_last = self._is_last or is_last
            if self._pending:
                self._pending = memoryview(bytes(self._pending) + data)
            else:
                self._pending = memoryview(data)
                self.writable = False
                self.since = connection.rules.tick
                connection.blocked[self] = None
            while connection.can_write and self.send_frame():
                pass
        connection.write()

    def send_frame(self) -> bool:
        """One of what waits, if the windows have room. The next has its turn after those of other streams. Returns whether more
        may go."""
        connection = self.connection
        if self.closed or self.writable:
            return False
        pending = self._pending
        if pending and connection.h2.outbound_flow_control_window <= 0:
            return False  # as soon as that is known: streams are many, and updates of windows cheap
        try:
            window = connection.h2.local_flow_control_window(self.number)  # which a client's settings may make negative
            size = max(0, min(len(pending), LONGEST_FRAME, window))
            if size <= 0 and pending:
                return False
            ends = self._is_last and size == len(pending)
            if size or self._trailers is None:
                connection.h2.send_data(self.number, pending[:size], end_stream=ends and self._trailers is None)
            if ends and self._trailers is not None:
                connection.h2.send_headers(self.number, self._trailers, end_stream=True)
        except ProtocolError:
            return False  # the client's reset has come, and is about to be heard of
        self.since = connection.rules.tick
        self._pending = pending[size:]
        if size >= 512 or size == len(pending):
            connection.frames.earn(SENT)
        connection.blocked.pop(self, None)
        if ends:
            self._complete()
        elif self._pending:
            connection.blocked[self] = None
        else:
            self.writable = True
            self.request.resume()
        connection.write()
        return not ends

    def _complete(self) -> None:
        """All of the response has been sent."""
        connection = self.connection
        self._close()
        self._count(self.request.status)
        connection.frames.earn(ANSWERED)
        del self.request  # which knows this stream: else only a collection would free both
        if not self.has_ended:
            connection.reset(self.number, ErrorCodes.NO_ERROR)
        connection.rest()

    def _close(self) -> None:
        self.closed = True
        self.writable = True
        self.connection.streams.pop(self.number, None)
        self.connection.blocked.pop(self, None)
        self._pending = memoryview(b"")

    def _count(self, status: int, *, left: bool = False) -> None:
        request = self.request
        access_log = self.connection.server.access_log
        elapsed = now_ns() - request.received_ns if request.received_ns else 0
        target = request.target or self.target
        if target is not None:
            target.count(status, 0 if left else elapsed)
        if access_log is not None:
            own, request.target = request.target, target
            access_log.write(request, status, request.sent, elapsed)
            request.target = own

    def lose(self) -> None:
        """Its client has left."""
        if self.closed:
            return
        request = self.request
        self._close()
        target = request.target
        if target is not None and not request.complete and request.task is None:
            target.leave(request)
        self._count(request.status if request.started else 0, left=True)
        if request.task is not None:
            self.connection.orphans.add(request)
        request.leave()
        del self.request

    def time_out(self) -> None:
        """The client sends nothing of a body that is asked for, or takes nothing of the response."""
        self.lose()
        with suppress(ProtocolError):  # it has ended already
            self.connection.h2.reset_stream(self.number, ErrorCodes.CANCEL)
        self.connection.rest()


def _add_length(head: list[tuple[bytes, bytes]], size: int) -> None:
    if all(name != b"content-length" for name, _ in head):
        head.append((b"content-length", b"%d" % size))
