# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""HTTP/1.1: a connection, between the bytes that come (`_incoming_cy`) and the bytes that go (`_outgoing_cy`): the order of
responses, keep-alive, and the end.

One request at a time is with the application; the route of the next is looked up at its turn. A response is written as it
comes, and the application waits in `send` while the transport's buffer is full.

Times are looked at by the server, once in a while for all connections (`_server`); here is only noted, in its ticks, since when
a connection is in its state.
"""

from __future__ import annotations

from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.http import _states
from clockworker.http._half_closed import HalfClosed
from clockworker.http._head import CONTINUE, refusal
from clockworker.http._lent import LentSocket
from clockworker.http._outgoing_cy import Outgoing
from clockworker.http._proxy_protocol import NoHeader, parse
from clockworker.http._request_cy import Request
from clockworker.http._tls import extension_of

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
else:
    from time import monotonic_ns as now_ns

_MOST_LINGERED = 4_194_304  # bytes that are read and dropped, so that a client sees its response
_MOST_ZEROS = 4  # in front of the size of a chunk: parsers take up to 16 digits

_CONTINUE = CONTINUE

# C globals when compiled.
IDLE, HEAD, BODY, PARSED, LINGERING = _states.IDLE, _states.HEAD, _states.BODY, _states.PARSED, _states.LINGERING


@cython.final
@cython.cclass
class HttpConnection(Outgoing):
    """A protocol for the loop."""

    # For the loop.

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = (str(peer[0]), int(peer[1]))
        own = transport.get_extra_info("sockname")
        if isinstance(own, tuple):
            self.address = (str(own[0]), int(own[1]))
        elif own:
            self.address = (own if isinstance(own, str) else bytes(own).decode(errors="surrogateescape"), None)
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
            self.is_secure = True
            ssl_object = transport.get_extra_info("ssl_object")
            if ssl_object is not None:
                self.tls = extension_of(ssl_object)
                if ssl_object.selected_alpn_protocol() == "h2":
                    self.server.take_over(self)
                    self.transport = self._parser = None
                    return
        if self.server.expects_proxy(self):
            self.preface = b""
        self.server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        self.writable = True
        if self.half_closed is not None:
            self.half_closed.stop()
        self.server.closed(self)
        self._parser = None  # it holds methods of ours: else only a collection would free both
        websocket = self.websocket
        if websocket is not None:
            self.websocket = self.parsing = None
            websocket.connection_lost(error)
            return
        current, parsing, pipeline = self.current, self.parsing, self.pipeline
        self.current = self.parsing = self.pipeline = self.unread = None
        if parsing is not None and parsing is not current:
            parsing.leave()
        for request in pipeline or ():
            request.leave()
        if current is not None:
            self._left(current)

    def eof_received(self) -> bool:
        """A client may have said all, and still wait for the answer."""
        if self.websocket is not None:
            return bool(self.websocket.eof_received())
        if self.half_closed is not None:
            return True  # it was said before, and is found again by who reads on
        request = self.current
        if request is None or self.state != PARSED or self.is_secure or self.closing:
            return False
        sock = self.transport.get_extra_info("socket")
        watch = None if sock is None else HalfClosed(self, sock)
        if watch is None or watch.is_gone():
            return False
        self.half_closed = watch
        if self.unread is None:  # else nobody knows yet which is the last
            (self.pipeline[-1] if self.pipeline else request).keep_alive = False
        watch.start()
        return True

    def probe(self) -> bool:
        """Send a client that has half-closed something that changes no answer. False: there is nothing of that kind."""
        request = self.current
        if self._is_lent:
            return True  # what is written next will tell, and not before would its thread hear of it
        if request is None or self.closing or request.version != 11 or request.head is not None:
            return False
        if not request.started:
            self._write(_CONTINUE)
        elif request.chunked and self._zeros < _MOST_ZEROS:
            self._zeros += 1
            self._write(b"0")
        else:
            return False
        return True

    def let_down(self) -> None:
        """A client that has half-closed is taken to have left, which nobody knows."""
        request = self.current
        if request is not None and not request.left:
            request.left = True
            request.wake()

    def pause_writing(self) -> None:
        self.writable = False
        if self.websocket is not None:
            self.websocket.pause_writing()

    def resume_writing(self) -> None:
        self.writable = True
        if self.websocket is not None:
            self.websocket.resume_writing()
        elif self.current is not None:
            self.current.resume()

    def data_received(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.data_received(data)
        elif self.state == LINGERING:
            self.unwanted += len(data)
            if self.unwanted > _MOST_LINGERED:
                self.transport.abort()
        elif self.closing or self.ended:
            pass
        elif self.unread is not None:
            self.unread += data
        elif self.preface is not None:
            self._take_preface(data)
        else:
            self.feed(data)

    def _take_preface(self, data: bytes) -> None:
        """What a proxy says of its client before the first request."""
        data = (self.preface or b"") + data
        self.preface = data
        try:
            header = parse(data)
        except NoHeader as error:
            self.server.no_proxy_header(self, error)
            self.server.refused(400)
            self._say_and_close(400)
            return
        if header is None:
            return
        self.preface = None
        if header.client is not None:
            self.client = header.client
            self.address = header.server
        if header.is_tls:
            self.scheme = "https"
        if len(data) > header.size:
            self.feed(data[header.size :])

    def refuse(self, status: int) -> None:
        """What has come is no request that could be answered otherwise. While a response is under way there is no other way to
        say so than to end the connection after it; or at once, if it is its own body that is wrong."""
        parsing, current = self.parsing, self.current
        self.refusal = 0
        self.parsing = None
        self.unread = None
        self.server.refused(status)
        if current is None:
            self._say_and_close(status)
        elif current is parsing:
            if current.started:
                self._abort()
            else:
                current.complete = True
                current.status = status
                self._say_and_close(status)
            self._left(current)
        else:
            last = self.pipeline[-1] if self.pipeline else None
            if parsing is not None and last is parsing:
                self.pipeline.pop()
            (self.pipeline[-1] if self.pipeline else current).keep_alive = False
            self.ended = True
            self.pause()

    def _say_and_close(self, status: int) -> None:
        self.transport.write(refusal(status, self.rules.defaults))
        self.linger()

    # Going out.

    def lend(self, request: Request) -> Any:
        sock = self.transport.get_extra_info("socket")
        if self.current is not request or self.is_secure or self.closing or request.head is not None or sock is None:
            return None
        self.transport.set_write_buffer_limits(high=0)
        self._is_lent = True
        return LentSocket(self, request, sock, self.server.config.timeout_response)

    def _completed(self, request: Request) -> None:
        """All of the response has been written."""
        request.complete = True
        if self.current is not request:
            return  # its client has left, and it was counted then
        self._count(request)
        if self.closing:
            return
        if self._is_lent:
            self._is_lent = False
            self.transport.set_write_buffer_limits()
        if request._waits():
            request.wake()
        self.current = None
        if not request.keep_alive or self.rules.stopping:
            if self.paused or (self.parsing is not None and self.parsing is request):
                self.linger()
            else:
                self._close()
            return
        if self.parsing is request:  # of its body nobody wants the rest, which may not be much
            request.body = None
            self.unwanted = 0
            self.resume()
            return
        self.rest()

    def rest(self) -> None:
        """A request has been answered. The next one's turn."""
        self.since = self.rules.tick
        if self.pipeline:
            request: Request = self.pipeline.popleft()
            self.current = request
            self.rules.begin(request)
            if self.pipeline or self.parsing is not request or self.closing:
                return
        if self.unread is not None:  # with the rest of its body, or the next one
            data = self.unread
            self.unread = None
            if self.state == PARSED:
                self.state = IDLE
            self.feed(bytes(data))
            if self.unread is not None:
                return
        elif self.state == PARSED:
            self.state = IDLE
        if self.half_closed is not None and self.current is None:
            self._close()  # no more comes
            return
        if not self.pipeline and (self.parsing is None or not self.parsing.is_full()):
            self.resume()

    def ask(self, request: Request) -> None:
        if request is self.parsing or request.more_body:
            self.since = self.rules.tick
            if self.parsing is request and not self.pipeline:
                self.resume()

    def let_continue(self, request: Request) -> None:
        if request.more_body:
            self._write(_CONTINUE)

    def answer_for(self, request: Request, status: int) -> None:
        request.status = status
        request.keep_alive = False
        request.sent = 0
        said = refusal(status, self.rules.defaults)
        self._write(said[: said.index(b"\r\n\r\n") + 4] if request.method == "HEAD" else said)
        request.started = True
        self._completed(request)

    def cut(self, request: Request) -> None:
        request.complete = True
        self._count(request)
        self._abort()

    def abandon(self, request: Request) -> None:
        if self.current is request:  # it has only said that it will send no more
            request.complete = True
            self._count(request)
            self._close()

    def failed(self, message: str, error: BaseException | None) -> None:
        self.server.failed(message, error)

    def _count(self, request: Request) -> None:
        target = request.target
        now = now_ns()
        elapsed = now - request.received_ns if request.received_ns else 0
        if target is not None:
            target.count(request.status, elapsed)
        if self.server.access_log is not None:
            self.server.access_log.write(request, request.status, request.sent, elapsed)

    def _left(self, request: Request) -> None:
        """Its client has, before it was answered."""
        if self.current is request:
            self.current = None
        if not request.complete:
            target = request.target
            if target is not None:
                if request.task is None:
                    target.leave(request)
                status = request.status if request.started else 0
                target.count(status, 0)
                if self.server.access_log is not None:
                    elapsed = now_ns() - request.received_ns if request.received_ns else 0
                    self.server.access_log.write(request, status, request.sent, elapsed)
            request.leave()
        elif request._waits():
            request.leave()

    def _close(self) -> None:
        """When all that was written has gone."""
        if not self.closing:
            self.closing = True
            self.transport.close()

    def _abort(self) -> None:
        self.closing = True
        self.transport.abort()

    def linger(self) -> None:
        """The client may be sending. A socket that is closed with something unread is reset, and the response lost with it: so
        what comes is read for a while, and dropped."""
        self.parsing = self.unread = None
        if self.is_secure or self.half_closed is not None or not self.transport.can_write_eof():
            self._close()
        elif self.state != LINGERING:
            self.state = LINGERING
            self.since = self.rules.tick
            self.unwanted = 0
            self.closing = True
            self.transport.write_eof()
            if self.paused:
                self.paused = False
                self.transport.resume_reading()

    # For the server.

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way, or has begun to come."""
        return self.current is not None or self.websocket is not None or self.state in (HEAD, BODY)

    def end_idle(self) -> None:
        """It is to end, and nothing is under way."""
        if not self.closing:
            self._close()

    def time_out(self, status: int) -> None:
        """The client has taken too long to send a head (408), or a body that is asked for (0)."""
        if status:
            self.server.refused(status)
            self._say_and_close(status)
        else:
            request = self.current
            self._abort()
            if request is not None:
                self._left(request)

    def refuse_handshake(self, status: int) -> None:
        """It is not passed to the application."""
        self.websocket = None
        self.closing = True
        self.transport.write(refusal(status, self.rules.defaults))
        self.transport.close()

    def close_websocket(self) -> None:
        """It is over, and all is written."""
        self._close()
