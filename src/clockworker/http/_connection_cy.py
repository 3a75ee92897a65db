# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""HTTP/1.1: bytes in, requests out, and responses back in their order. Parsing is httptools'; what it leaves to its users is here:
limits, what makes a head invalid that is well-formed, framing of responses, keep-alive, pipelining, and the flow in both directions.

One request at a time is with the application. Those that a client sends behind it without waiting (pipelining) are parsed, as far
as they came in the same read, and wait; then no more is read, and what else of that read has not been parsed waits as it is. So
a connection holds few requests, whatever is sent. The route of each is looked up at its turn.

Bodies wait for the application up to a high-water mark; beyond that no more is read. A response is written as it comes, and the
application waits in `send` while the transport's buffer is full.

What a callback of httptools raises comes out of `feed_data` as an error of the parser; a refusal raises `_Refused` there, and is
told from what the client's bytes did by what is noted beside it.

Times are looked at by the server, once in a while for all connections (`_server`); here is only noted, in its ticks, since when a
connection is in its state.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any
from urllib.parse import unquote

import httptools

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.http._head import BESIDE_TARGET, CONTINUE, STATUS_LINES, refusal
from clockworker.http._request_cy import Carrier, Request, new_request
from clockworker.http._targets_cy import Target

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
else:
    from time import monotonic_ns as now_ns

_SLICE = 4_096  # bytes that are parsed at once: pipelined requests in them are all made
_SLICE_OF_BODY = 65_536
_MOST_UNWANTED = 262_144  # bytes of a body that nobody reads, for the sake of a connection that goes on

_Parser = httptools.HttpRequestParser
_ParserError = httptools.HttpParserError
_CallbackError = httptools.HttpParserCallbackError
_Upgrade = httptools.HttpParserUpgrade
_STATUS_LINES = STATUS_LINES
_CONTINUE = CONTINUE
_unquote = unquote

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%]*(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*://([^/?#]*)")
_NAMES: dict[bytes, bytes] = {}  # of headers that applications have sent, as they are written
_MOST_NAMES = 1_024
_ASGI = {"version": "3.0", "spec_version": "2.3"}

# What a connection is waiting for.
IDLE = 0  # the first byte of a request
HEAD = 1  # the rest of a head
BODY = 2  # the rest of a body
PARSED = 3  # nothing: a whole request has come
LINGERING = 4  # its client to close, who may still be sending what nobody reads


class _Refused(Exception):
    """Raised in a callback, so that nothing more is parsed."""


@cython.final
@cython.cclass
class Rules:
    """What all connections of a server have in common: limits, and what is the same in each response.

    tick: the time, in looks at it. defaults: rendered headers. stopping: responses say that they are the last.
    """

    tick: int
    defaults: bytes
    stopping: bool

    def __init__(self, config: Any, headers: Any) -> None:
        """config: an HttpConfig. headers: DefaultHeaders."""
        self.tick = 0
        self.headers = headers
        self.defaults = headers.render()
        self.stopping = False
        self.root_path = config.root_path
        self.raw_root_path = config.root_path.encode("latin-1", "replace")
        self.most_in_request_line = config.limit_request_line
        self.most_in_field = config.limit_request_field_size
        self.most_fields = config.limit_request_fields
        self.most_in_head = config.incomplete_event_size

    def refresh(self) -> None:
        self.tick += 1
        self.defaults = self.headers.render()


@cython.final
@cython.cclass
class HttpConnection(Carrier):
    """A protocol for the loop. server: an HttpServer, which begins its requests (`begin`) and counts."""

    def __init__(self, server: Any, rules: Rules) -> None:
        if rules is None:
            raise TypeError("a connection has rules")
        self.server = server
        self.rules = rules
        self.transport: Any = None
        self.writable = True
        self.closing = False
        self.state = IDLE
        self.since = rules.tick
        self.requests = 0
        self.current: Request | None = None
        self.parsing: Request | None = None
        self.websocket: Any = None
        self.client: tuple[str, int] | None = None
        self.address: tuple[str, int | None] | None = None
        self.scheme = "http"
        self._parser: Any = _Parser(self)
        self._pipeline: Any = None
        self._unread: Any = None
        self._paused = False
        self._refusal = 0
        self._upgrading = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        self._fields = 0
        self._hosts = 0
        self._host = b""
        self._lengths = 0
        self._length = 0
        self._is_chunked = False
        self._has_encoding = False
        self._expects = False
        self._upgrade = b""
        self._unwanted = 0

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
        self.server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = True
        self.writable = True
        self.server.closed(self)
        websocket = self.websocket
        if websocket is not None:
            websocket.connection_lost(error)
            return
        current, parsing, pipeline = self.current, self.parsing, self._pipeline
        self.current = self.parsing = self._pipeline = self._unread = None
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
        request = self.current
        if request is None or self.state != PARSED or self.scheme == "https" or self.closing:
            return False
        request.keep_alive = False
        request.left = True
        request.wake()
        return True

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
            self._unwanted += len(data)
            if self._unwanted > _MOST_UNWANTED * 16:
                self.transport.abort()
        elif self.closing:
            pass
        elif self._unread is not None:
            self._unread += data
        else:
            self._feed(data)

    # Coming in.

    def _feed(self, data: Any) -> None:
        size = len(data)
        if size <= _SLICE:
            self._parse(data)
            return
        view = memoryview(data)
        at = 0
        while at < size and not self.closing and self.websocket is None:
            if self._pipeline:
                self._unread = bytearray(view[at:])
                self._pause()
                return
            length = _SLICE_OF_BODY if self.state == BODY else _SLICE
            self._parse(view[at : at + length])
            at += length
        if self.websocket is not None and at < size:
            self.websocket.data_received(bytes(view[at:]))

    def _parse(self, data: Any) -> None:
        try:
            self._parser.feed_data(data)
        except _Upgrade as upgrade:
            self._upgraded(bytes(data[upgrade.args[0] :]))
        except _CallbackError as error:
            if not self._refusal:
                raise error.__context__ or error from None  # our own fault, or the application's: not the client's
            self._refuse(self._refusal)
        except _ParserError:
            self._refuse(400)
        else:
            if self.state == HEAD:
                self._head_size += len(data)
                if self._head_size > self.rules.most_in_head:
                    self._refuse(414 if not self._fields and not self._headers else 431)

    def _upgraded(self, rest: bytes) -> None:
        if self.websocket is not None:
            if rest:
                self.websocket.data_received(rest)
            return
        if self.closing:
            return
        # The client offers another protocol (h2c), which it may not get: as if it had not. httptools has stopped at the head,
        # and takes a body for that protocol's.
        method = self._parser.get_method()
        head = [b"%s %s HTTP/%s\r\n" % (method, self._url, self._parser.get_http_version().encode())]
        head += [b"%s: %s\r\n" % header for header in self._headers if header[0] != b"upgrade"]
        head.append(b"\r\n")
        self._upgrading = False
        self._parser = _Parser(self)
        self._parse(b"".join(head))
        if rest and not self.closing:
            self._feed(rest)

    def on_message_begin(self) -> None:
        self.state = HEAD
        self.since = self.rules.tick
        self._url = b""
        self._headers = []
        self._head_size = self._fields = self._hosts = self._lengths = self._length = 0
        self._is_chunked = self._has_encoding = self._expects = False
        self._upgrade = b""

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url
        if len(self._url) + BESIDE_TARGET > self.rules.most_in_request_line:
            self._stop_at(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > self.rules.most_fields or len(name) + len(value) + 4 > self.rules.most_in_field:
            self._stop_at(431)
        if self.state != HEAD:
            return  # a trailer, which nobody has asked for, and that would pass for a header
        name = name.lower()
        if value and value[-1] in b" \t":
            value = value.rstrip(b" \t")
        size = len(name)
        if size == 4:
            if name == b"host":
                self._hosts += 1
                self._host = value
        elif size == 6:
            if name == b"expect" and value.lower() == b"100-continue":
                self._expects = True
        elif size == 7:
            if name == b"upgrade":
                self._upgrade = value.lower()
        elif size == 14:
            if name == b"content-length":
                self._take_length(value)
        elif size == 17 and name == b"transfer-encoding":
            self._take_encoding(value)
        self._headers.append((name, value))

    def _take_length(self, value: bytes) -> None:
        self._lengths += 1
        if not value.isdigit() or self._lengths > 1 or len(value) > 18:
            self._stop_at(400)
        self._length = int(value)

    def _take_encoding(self, value: bytes) -> None:
        if self._has_encoding:
            self._stop_at(400)
        self._has_encoding = True
        self._is_chunked = value.lower() == b"chunked"
        if not self._is_chunked:
            self._stop_at(501 if value.lower().endswith(b"chunked") else 400)

    def _stop_at(self, status: int) -> None:
        self._refusal = status
        raise _Refused

    def on_headers_complete(self) -> None:
        parser = self._parser
        version = parser.get_http_version()
        upgrades = parser.should_upgrade()
        websocket = False
        if upgrades:
            websocket = self._upgrade == b"websocket" and version == "1.1" and parser.get_method() == b"GET"
            if not websocket:
                if parser.get_method() == b"CONNECT":
                    self._stop_at(400)
                self._upgrading = True
                return
        method = parser.get_method().decode("ascii")
        if version == "1.1":
            if self._hosts != 1 or _HOST.fullmatch(self._host) is None:
                self._stop_at(400)
        elif version == "1.0":
            if self._hosts > 1 or self._is_chunked:
                self._stop_at(400)
        else:
            self._stop_at(400)
        if self._has_encoding and self._lengths:
            self._stop_at(400)
        request = new_request(self, self.server.app)
        self._take_target(request, method)
        request.method = method
        request.headers = self._headers
        request.keep_alive = parser.should_keep_alive()
        request.version = 11 if version == "1.1" else 10
        request.expects = self._expects and request.version == 11
        request.scope = {
            "type": "websocket" if websocket else "http",
            "asgi": _ASGI.copy(),
            "http_version": version,
            "server": self.address,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.rules.root_path,
            "headers": self._headers,
            "state": self.server.state.copy(),
            "method": method,
            "path": self.rules.root_path + request.path if self.rules.root_path else request.path,
            "raw_path": self.rules.raw_root_path + request.raw_path if self.rules.root_path else request.raw_path,
            "query_string": self._query,
        }
        self.state = BODY
        self.since = self.rules.tick
        self.parsing = request
        self.requests += 1
        if self.server.trusts is not None:
            self.server.trust(self, request)
        if websocket:
            del request.scope["method"]
            request.scope["scheme"] = "wss" if request.scope["scheme"] in ("https", "wss") else "ws"
            if self.current is not None:
                self._stop_at(400)  # what the requests before it are answered would be taken for frames
            self.websocket = self.server.websocket(self, request)
        elif self.current is None:
            self.current = request
            self.server.begin(request)
        else:
            if self._pipeline is None:
                self._pipeline = deque()
            self._pipeline.append(request)
            self._pause()

    def _take_target(self, request: Request, method: str) -> None:
        """Path and query, of one of the forms that a request's target has."""
        url = self._url
        if url[:1] != b"/":
            if url == b"*":
                if method != "OPTIONS":
                    self._stop_at(400)
            else:
                absolute = _ABSOLUTE.match(url)
                if absolute is None or b"@" in absolute[1]:
                    self._stop_at(400)
                url = url[absolute.end() :]  # type: ignore[union-attr]
                if url[:1] != b"/":
                    url = b"/" + url
        if b"#" in url:
            url = url[: url.index(b"#")]
        at = url.find(b"?")
        if at < 0:
            self._query = b""
        else:
            self._query = url[at + 1 :]
            url = url[:at]
        if not url.isascii() or not self._query.isascii():
            self._stop_at(400)
        request.raw_path = url
        path = url.decode("ascii")
        request.path = _unquote(path) if "%" in path else path

    def on_body(self, data: bytes) -> None:
        self.since = self.rules.tick
        request = self.parsing
        if request is None:
            return
        if request.complete:
            self._unwanted += len(data)
            if self._unwanted > _MOST_UNWANTED:
                self.parsing = None
                if request is self.current or self.current is None:
                    self._linger()
        elif request.feed(data):
            self._pause()

    def on_message_complete(self) -> None:
        if self._upgrading or self.websocket is not None:
            return
        request = self.parsing
        self.parsing = None
        self.state = PARSED
        self._unwanted = 0
        if request is not None:
            request.end_of_body()
            if request.complete and self.current is None:
                self._rest()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self.closing:
            self._paused = False
            self.transport.resume_reading()

    def _refuse(self, status: int) -> None:
        """What has come is no request that could be answered otherwise. While a response is under way there is no other way to
        say so than to end the connection after it; or at once, if it is its own body that is wrong."""
        parsing, current = self.parsing, self.current
        self._refusal = 0
        self.parsing = None
        self._unread = None
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
            last = self._pipeline[-1] if self._pipeline else None
            if parsing is not None and last is parsing:
                self._pipeline.pop()
            (self._pipeline[-1] if self._pipeline else current).keep_alive = False
            self._pause()

    def _say_and_close(self, status: int) -> None:
        self.transport.write(refusal(status, self.rules.defaults))
        self._linger()

    # Going out.

    def begin_response(self, request: Request, status: int, headers: Any) -> None:
        line = _STATUS_LINES.get(status)
        if line is None:
            raise RuntimeError(f"the status of a response is {status!r}; give a number from 100 to 999")
        parts = [line, self.rules.defaults]
        length = -1
        closes = False
        for name, value in headers:
            known = _NAMES.get(name)
            if known is None:
                known = _new_name(name)
            if not is_value(value):
                raise RuntimeError(f"Invalid HTTP header value {bytes(value)!r} of {bytes(name)!r}.")
            size = len(known) - 2
            if size == 14:
                if known == b"content-length: ":
                    if length >= 0 and length != int(value):
                        raise RuntimeError("Content-Length is given twice, and differs")
                    length = int(value)
            elif size == 17:
                if known == b"transfer-encoding: ":
                    continue  # ours to say
            elif size == 10:
                if known == b"connection: ":
                    tokens = [token.strip() for token in value.lower().split(b",")]
                    closes = closes or b"close" in tokens
                    continue
            elif size == 4:
                if known == b"date: ":
                    parts[1] = self.rules.headers.render(date=False, server=b"server: " in parts[1])
            elif size == 6 and known == b"server: ":
                parts[1] = self.rules.headers.render(server=False, date=b"date: " in parts[1])
            parts.append(known)
            parts.append(value)
            parts.append(b"\r\n")
        if closes or self.rules.stopping or request.expects:
            request.keep_alive = False  # a client that was never told to continue may send its body, or not
        if status == 204 or status == 304 or status < 200 or request.method == "HEAD":
            request.remaining = -2  # there is none, whatever the headers say of it
        else:
            request.remaining = length
        request.head = parts

    def send_head(self, request: Request) -> None:
        if not request.left or self.transport is not None:
            self._write(self._finish_head(request, -1))

    def _finish_head(self, request: Request, size: int) -> bytes:
        """size: of the whole body, if that is known by now."""
        parts: list[Any] = request.head
        request.head = None
        if request.remaining == -1:
            if size >= 0:
                parts.append(b"content-length: %d\r\n" % size)
                request.remaining = size
            elif request.version == 11:
                request.chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
            else:
                request.keep_alive = False
        elif request.remaining == -2 and size > 0 and request.method == "HEAD" and not _has_length(parts):
            parts.append(b"content-length: %d\r\n" % size)
        if not request.keep_alive:
            parts.append(b"connection: close\r\n\r\n")
        elif request.version == 10:
            parts.append(b"connection: keep-alive\r\n\r\n")
        else:
            parts.append(b"\r\n")
        return b"".join(parts)

    def send_body(self, request: Request, data: Any, more: bool) -> None:
        size = len(data)
        if type(data) is not bytes:
            data = bytes(data)
            size = len(data)
        head: Any = None
        if request.head is not None:
            head = self._finish_head(request, -1 if more else size)
        if request.remaining == -2:
            data = b""
        elif request.chunked:
            if size:
                request.sent += size
                data = b"%x\r\n%s\r\n" % (size, data) if more else b"%x\r\n%s\r\n0\r\n\r\n" % (size, data)
            elif not more:
                data = b"0\r\n\r\n"
        elif request.remaining >= 0:
            if size > request.remaining:
                self._write(head)
                raise RuntimeError("Response content longer than Content-Length")
            request.remaining -= size
            request.sent += size
            if not more and request.remaining:
                self._write(head + data if head is not None else data)
                raise RuntimeError("Response content shorter than Content-Length")
        else:
            request.sent += size
        if head is not None:
            data = head + data if data else head
        if data:
            self._write(data)
        if not more:
            self._completed(request)

    def _write(self, data: Any) -> None:
        if data and not self.closing:
            self.transport.write(data)

    def _completed(self, request: Request) -> None:
        """All of the response has been written."""
        request.complete = True
        if self.current is not request:
            return  # its client has left, and it was counted then
        self._count(request)
        if self.closing:
            return
        if request._waits():
            request.wake()
        self.current = None
        if not request.keep_alive or self.rules.stopping:
            if self.parsing is not None and self.parsing is request:
                self._linger()
            else:
                self._close()
            return
        if self.parsing is request:  # of its body nobody wants the rest, which may not be much
            request.body = None
            self._unwanted = 0
            self._resume()
            return
        self._rest()

    def _rest(self) -> None:
        """A request has been answered. The next one's turn."""
        self.since = self.rules.tick
        if self._pipeline:
            request: Request = self._pipeline.popleft()
            self.current = request
            self.server.begin(request)
            return
        if self._unread is not None:
            data = self._unread
            self._unread = None
            if self.state == PARSED:
                self.state = IDLE
            self._feed(bytes(data))
            if self._unread is not None:
                return
        elif self.state == PARSED:
            self.state = IDLE
        if not self._pipeline:
            self._resume()

    def ask(self, request: Request) -> None:
        if request is self.parsing or request.more_body:
            self.since = self.rules.tick
            if self.parsing is request and not self._pipeline:
                self._resume()

    def let_continue(self, request: Request) -> None:
        if request.more_body:
            self._write(_CONTINUE)

    def answer_for(self, request: Request, status: int) -> None:
        request.status = status
        request.keep_alive = False
        request.sent = 0
        self._write(refusal(status, self.rules.defaults))
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
                target.count(request.status if request.started else 0, 0)
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

    def _linger(self) -> None:
        """The client may be sending. A socket that is closed with something unread is reset, and the response lost with it: so
        what comes is read for a while, and dropped."""
        self.parsing = None
        if self.scheme == "https" or not self.transport.can_write_eof():
            self._close()
        elif self.state != LINGERING:
            self.state = LINGERING
            self.since = self.rules.tick
            self._unwanted = 0
            self.closing = True
            self.transport.write_eof()
            if self._paused:
                self._paused = False
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


def _has_length(parts: list[Any]) -> bool:
    return b"content-length: " in parts


def _new_name(name: Any) -> bytes:
    """A header's name, as it is written. Raises RuntimeError if it is none."""
    plain = bytes(name)
    if _TOKEN.fullmatch(plain) is None:
        raise RuntimeError(f"Invalid HTTP header name {plain!r}.")
    written = plain.lower() + b": "
    if len(_NAMES) < _MOST_NAMES:
        _NAMES[plain] = written
    return written


def is_value(value: Any) -> bool:
    """Whether it may be a header's value: no control characters but the tab, which would end the header or the connection."""
    text = value if type(value) is bytes else bytes(value)
    for byte in text:
        if byte < 32 and byte != 9 or byte == 127:
            return False
    return True
