# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What comes in of a connection of HTTP/1.1: bytes in, requests out. Parsing is httptools'; here is what it leaves to its
users: limits on heads, what makes one invalid that is well-formed, the forms of a target, and how much is read.

Requests that a client sends without waiting for answers (pipelining) are parsed, as far as they came in the same slice of a
read, and wait; then no more is read, and what else of that read has not been parsed waits as it is. So a connection holds few
requests, whatever is sent. Bodies wait for the application up to a high-water mark; beyond that no more is read.

What a callback of httptools raises comes out of `feed_data` as an error of the parser; a refusal raises `_Refused` there, and
is told from what the client's bytes did by what is noted beside it.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any
from urllib.parse import unquote

import httptools

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.http import _states
from clockworker.http._head import BESIDE_TARGET, EXTENSIONS, HOST
from clockworker.http._request_cy import Carrier, Request, new_request
from clockworker.http._targets_cy import Targets

if cython.compiled:
    from cython.cimports.clockworker.executor._clock_cy import now_ns
else:
    from time import monotonic_ns as now_ns

_SLICE = 4_096  # bytes that are parsed at once: pipelined requests in them are all made
_SLICE_OF_BODY = 16_384
_MANY = 256  # parts of a body in one slice, which are chunks of a few bytes; then slices are small
_AT_ONCE_NS = 250_000
_MUCH = 131_072  # bytes of a read; behind one that brings so many loops read on, up to 8 MB
_MOST_UNWANTED = 262_144  # bytes of a body that nobody reads, for the sake of a connection that goes on

_QUIETLY = -1  # in the place of a status: the connection has ended in the middle of what was read

_Parser = httptools.HttpRequestParser
_ParserError = httptools.HttpParserError
_CallbackError = httptools.HttpParserCallbackError
_Upgrade = httptools.HttpParserUpgrade
_unquote = unquote

_HOST = HOST
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*://([^/?#]*)")
_LOWER: dict[bytes, bytes] = {}  # names of headers that clients have sent, in lower case
_MOST_LOWER = 1_024
_LONGEST_LOWER = 64
_EXTENSIONS = EXTENSIONS
_ASGI = {"version": "3.0", "spec_version": "2.3"}

# C globals when compiled.
IDLE, HEAD, BODY, PARSED, LINGERING = _states.IDLE, _states.HEAD, _states.BODY, _states.PARSED, _states.LINGERING


class _Refused(Exception):
    """Raised in a callback, so that nothing more is parsed."""


@cython.cclass
class Rules:
    """What all connections of a server have in common: limits, and what is the same in each response.

    app, state: the application, and what of its state each request has a copy. targets: where its requests run.
    tick: the time, in looks at it. defaults: rendered headers. stopping: responses say that they are the last.
    at_once_ns: slices of a read are parsed for so long; then other connections have their turns (`_backlog`).
    """

    tick: int
    defaults: bytes
    stopping: bool
    at_once_ns: int

    def __init__(self, config: Any, headers: Any, app: Any, state: dict[str, Any], targets: Targets) -> None:
        """config: an HttpConfig. headers: DefaultHeaders."""
        self.app = app
        self.state = state
        self.targets = targets
        self.tick = 0
        self.headers = headers
        self.defaults = headers.render()
        self.stopping = False
        self.at_once_ns = _AT_ONCE_NS
        self.root_path = config.root_path
        self.raw_root_path = config.root_path.encode("latin-1", "replace")
        self.most_in_request_line = config.limit_request_line
        self.most_in_field = config.limit_request_field_size
        self.most_fields = config.limit_request_fields
        self.most_in_head = config.incomplete_event_size

    def begin(self, request: Request) -> None:
        """Its turn has come."""
        request.take_turn(self.targets)

    def refresh(self) -> None:
        """The next tick: a look at the time, once in a while."""
        self.tick += 1
        self.defaults = self.headers.render()


@cython.cclass
class Incoming(Carrier):
    """What comes in of a connection. server: an HttpServer, which begins its requests (`begin`) and counts.

    state: what is waited for (`_states`). since: the tick at which that began. requests: how many have come.
    current: the request that is with the application. parsing: the one whose body is coming. websocket: what has taken over.
    half_closed: watches over a client that has said all. preface: what has come of what a proxy is to say first.
    is_secure: it speaks TLS.
    closing: nothing more is written. ended: nothing more is read, and the connection closes when all that came before has been
    answered.
    """

    def __init__(self, server: Any, rules: Rules) -> None:
        if rules is None:
            raise TypeError("a connection has rules")
        self.server = server
        self.rules = rules
        self.transport: Any = None
        self.writable = True
        self.closing = False
        self.ended = False
        self.state = IDLE
        self.since = rules.tick
        self.requests = 0
        self.current: Request | None = None
        self.parsing: Request | None = None
        self.websocket: Any = None
        self.half_closed: Any = None
        self._zeros = 0
        self.preface: bytes | None = None
        self.is_secure = False
        self._is_lent = False
        self.client: tuple[str, int] | None = None
        self.address: tuple[str, int | None] | None = None
        self.scheme = "http"
        self.tls: dict[str, Any] | None = None
        self._parser: Any = _Parser(self)
        self.pipeline: Any = None
        self.unread: Any = None
        self.paused = False
        self.refusal = 0
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
        self._is_forwarded = False
        self._upgrade = b""
        self._known_host: bytes | None = None  # a valid one
        self._scope: dict[str, Any] | None = None
        self._data: Any = None
        self.unwanted = 0
        self._parts = 0

    # What becomes of it, for the subclass to say.

    def refuse(self, status: int) -> None:
        """What has come is no request that could be answered otherwise."""
        raise NotImplementedError

    def linger(self) -> None:
        """Read no more for the application, and end."""
        raise NotImplementedError

    def rest(self) -> None:
        """A request has been answered. The next one's turn."""
        raise NotImplementedError

    # Coming in.

    def feed(self, data: Any) -> None:
        """What has come: in slices, so that a client that sends many requests at once has few made."""
        size = len(data)
        if size <= _SLICE:
            self._parse(data)
            return
        view = memoryview(data)
        at = 0
        until = now_ns() + self.rules.at_once_ns
        while at < size and not self.closing and not self.ended and self.websocket is None:
            if self.pipeline:
                if self.unread is None:
                    self.unread = bytearray()
                self.unread += view[at:]  # behind what is left of a slice that offered another protocol
                self.pause()
                return
            length = _SLICE_OF_BODY if self.state == BODY and self._parts < _MANY else _SLICE
            self._parts = 0
            self._parse(view[at : at + length])
            at += length
            if at < size and now_ns() >= until and self.websocket is None and not self.closing and not self.ended:
                if self.unread is None:
                    self.unread = bytearray()
                self.unread += view[at:]
                self.pause()
                self.server.backlog.add(self.go_on)
                return
        if self.websocket is not None:
            if at < size:
                self.websocket.data_received(bytes(view[at:]))
        elif size >= _MUCH and not self.paused and not self.closing and not self.ended:
            self.pause()
            self.server.backlog.add(self.go_on)

    def go_on(self) -> None:
        """Its turn has come to parse what it has read, and to read on. Behind requests that wait, that is theirs."""
        if self.pipeline or self.closing or self.ended or self.websocket is not None:
            return
        data = self.unread
        if data is not None:
            self.unread = None
            self.feed(bytes(data))
        if self.unread is None and not self.pipeline and (self.parsing is None or not self.parsing.is_full()):
            self.resume()

    def _parse(self, data: Any) -> None:
        self._data = data if self.state == IDLE and type(data) is bytes else None
        upgraded_at = -1
        try:
            self._parser.feed_data(data)
        except _Upgrade as upgrade:
            upgraded_at = upgrade.args[0]
        except _CallbackError as error:
            if not self.refusal:
                raise error.__context__ or error from None  # our own fault, or the application's: not the client's
            if self.refusal == _QUIETLY:
                self.refusal = 0
            else:
                self.refuse(self.refusal)
        except _ParserError:
            self.refuse(400)
        else:
            if (
                self.state == HEAD or self.state == BODY
            ):  # of a body only what is not the body: trailers, sizes of chunks
                self._head_size += len(data)
                if self._head_size > self.rules.most_in_head:
                    self.refuse(414 if not self._fields and not self._headers else 431)
        if upgraded_at >= 0:
            self._upgraded(bytes(data[upgraded_at:]))

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
        if rest and not self.closing and not self.ended:
            self.feed(rest)

    def on_message_begin(self) -> None:
        if self.closing:
            self._stop_at(_QUIETLY)
        self.state = HEAD
        self.since = self.rules.tick
        self._url = b""
        self._headers = []
        self._head_size = self._fields = self._hosts = self._lengths = self._length = 0
        self._is_chunked = self._has_encoding = self._expects = self._is_forwarded = False
        self._upgrade = b""

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url
        if len(self._url) + BESIDE_TARGET > self.rules.most_in_request_line:
            self._stop_at(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._take_header(name, value)

    def on_headers_complete(self) -> None:
        self._take_head()

    def _take_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > self.rules.most_fields or len(name) + len(value) + 4 > self.rules.most_in_field:
            self._stop_at(431)
        if self.state != HEAD:
            return  # a trailer, which nobody has asked for, and that would pass for a header
        lower = _LOWER.get(name)
        name = _new_lower(name) if lower is None else lower
        size = len(value)
        if size and (value[size - 1] == 32 or value[size - 1] == 9):
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
        elif size == 9:
            if name == b"forwarded":
                self._is_forwarded = True
        elif size == 14:
            if name == b"content-length":
                self._take_length(value)
        elif size == 15:
            if name == b"x-forwarded-for":
                self._is_forwarded = True
        elif size == 17:
            if name == b"transfer-encoding":
                self._take_encoding(value)
            elif name == b"x-forwarded-proto":
                self._is_forwarded = True
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
        self.refusal = status
        raise _Refused

    def _take_head(self) -> None:
        parser = self._parser
        method = parser.get_method().decode("ascii")
        version = self._version(len(method))
        upgrades = parser.should_upgrade()
        websocket = False
        if upgrades:
            if self._upgrade == b"websocket" and self.server.speaks_websockets:
                websocket = version == "1.1" and method == "GET"
            if not websocket:
                if method == "CONNECT":
                    self._stop_at(400)
                self._upgrading = True
                return
        if version == "1.1":
            if self._hosts != 1:
                self._stop_at(400)
            if self._host != self._known_host:
                if _HOST.fullmatch(self._host) is None:
                    self._stop_at(400)
                self._known_host = self._host
        elif version == "1.0":
            if self._hosts > 1 or self._is_chunked:
                self._stop_at(400)
        else:
            self._stop_at(400)
        if self._has_encoding and self._lengths:
            self._stop_at(400)
        request = new_request(self, self.rules.app)
        self._take_target(request, method)
        request.method = method
        request.headers = self._headers
        request.keep_alive = parser.should_keep_alive() and (version == "1.1" or not _says_close(self._headers))
        request.version = 11 if version == "1.1" else 10
        request.expects = self._expects and request.version == 11
        if self._scope is None:
            self._scope = self._new_scope()
        request.scope = scope = self._scope.copy()
        if websocket:
            scope["type"] = "websocket"
        scope["asgi"] = _ASGI.copy()
        if request.version == 10:
            scope["http_version"] = version
        scope["headers"] = self._headers
        scope["state"] = self.rules.state.copy()
        scope["method"] = method
        root = self.rules.root_path
        scope["path"] = root + request.path if root else request.path
        scope["raw_path"] = self.rules.raw_root_path + request.raw_path if root else request.raw_path
        scope["query_string"] = self._query
        if not websocket:
            scope["extensions"] = _EXTENSIONS.copy()
        if self.tls is not None:
            scope.setdefault("extensions", {})["tls"] = self.tls.copy()
        self.state = BODY
        self.since = self.rules.tick
        self.parsing = request
        self.requests += 1
        if self._is_forwarded and self.server.trusts is not None:
            self.server.trust(self, request)
        if websocket:
            del request.scope["method"]
            request.scope["scheme"] = "wss" if request.scope["scheme"] in ("https", "wss") else "ws"
            if self.current is not None:
                self._stop_at(400)  # what the requests before it are answered would be taken for frames
            self.websocket = self.server.websocket(self, request)
        elif self.current is None:
            self.current = request
            self.rules.begin(request)
        else:
            if self.pipeline is None:
                self.pipeline = deque()
            self.pipeline.append(request)
            self.pause()

    def _new_scope(self) -> dict[str, Any]:
        """What the scopes of all its requests begin as: to copy it costs less than to make it."""
        return {
            "type": "http",
            "asgi": None,
            "http_version": "1.1",
            "server": self.address,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.rules.root_path,
            "headers": None,
            "state": None,
            "method": None,
            "path": None,
            "raw_path": None,
            "query_string": None,
        }

    def _version(self, length: int) -> str:
        """Of HTTP. httptools makes a string of it, which costs as much as parsing four headers. The line of a request that its
        read begins with is looked at instead: behind a method of so many characters, a space and the target it ends in
        HTTP/1.1."""
        data = self._data
        self._data = None  # of what comes behind in the same read nobody knows where it begins
        if data is not None:
            at = length + 1 + len(self._url)
            if data[at : at + 11] == b" HTTP/1.1\r\n":
                return "1.1"
        version: str = self._parser.get_http_version()
        return version

    def _take_target(self, request: Request, method: str) -> None:
        """Path and query, of one of the forms that a request's target has."""
        url = self._url
        if url[:1] != b"/":
            if url == b"*":
                if method != "OPTIONS":
                    self._stop_at(400)
            else:
                absolute = _ABSOLUTE.match(url)
                if absolute is None or not absolute[1] or _HOST.fullmatch(absolute[1]) is None:
                    self._stop_at(400)
                # What it says goes before Host, which it replaces (RFC 9112, 3.2.2).
                host = (b"host", absolute[1])  # type: ignore[index]
                self._headers = [host, *(header for header in self._headers if header[0] != b"host")]
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
        self._parts += 1
        self._head_size = -_SLICE_OF_BODY  # what is parsed at once may be this body's to its last byte
        request = self.parsing
        if request is None:
            return
        if request.complete:
            self.unwanted += len(data)
            if self.unwanted > _MOST_UNWANTED:
                self.parsing = None
                if request is self.current or self.current is None:
                    self.linger()
        elif request.feed(data):
            self.pause()

    def on_message_complete(self) -> None:
        if self._upgrading or self.websocket is not None or self.closing:
            return
        request = self.parsing
        self.parsing = None
        self.state = PARSED
        self.unwanted = 0
        if request is not None:
            request.end_of_body()
            if request.complete and self.current is None:
                self.rest()

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not self.closing and self.unread is None:
            self.paused = False
            self.transport.resume_reading()


def _new_lower(name: bytes) -> bytes:
    lower = name.lower()
    if len(_LOWER) < _MOST_LOWER and len(name) <= _LONGEST_LOWER:
        _LOWER[name] = lower
    return lower


def _says_close(headers: list[tuple[bytes, bytes]]) -> bool:
    """Beside a keep-alive, which decides for llhttp in HTTP/1.0."""
    return any(
        b"close" in [token.strip(b" \t") for token in value.lower().split(b",")]
        for name, value in headers
        if name == b"connection"
    )
