# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What goes out of a connection of HTTP/1.1: the head of a response, checked and rendered, and the framing of its body."""

from __future__ import annotations

from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.http._head import STATUS_LINES, TOKEN, accepts_trailers, lines_of, trailers_of
from clockworker.http._incoming_cy import Incoming
from clockworker.http._request_cy import Request

_STATUS_LINES = STATUS_LINES
_TOKEN = TOKEN
_NAMES: dict[bytes, bytes] = {}  # of headers that applications have sent, as they are written
_MOST_NAMES = 1_024


@cython.cclass
class Outgoing(Incoming):
    """A connection that writes responses, one after the other."""

    def _completed(self, request: Request) -> None:
        """All of the response has been written. What that means is the subclass's."""
        raise NotImplementedError

    def begin_response(self, request: Request, status: int, headers: Any) -> None:
        line = _STATUS_LINES.get(status)
        if line is None or (status < 200 and (status != 101 or request.scope["type"] != "websocket")):
            raise RuntimeError(f"the status of a response is {status!r}; give a number from 200 to 999")
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
                    if not value.isdigit() or (length >= 0 and length != int(value)):
                        raise RuntimeError(f"Content-Length is {bytes(value)!r}; give one number of bytes")
                    if length >= 0 or status == 204:  # of which it must not be said (RFC 9110, 8.6)
                        continue
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
        if closes or self.rules.stopping or (request.expects and request.more_body):
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

    def send_trailers(self, request: Request, fields: list[tuple[bytes, bytes]]) -> None:
        if request.remaining > 0:
            raise RuntimeError("Response content shorter than Content-Length")
        parts = trailers_of(fields)
        if request.chunked:
            if not accepts_trailers(request.headers):
                parts = []
            self._write(b"0\r\n" + lines_of(parts))
        self._completed(request)

    def send_hint(self, request: Request, links: list[bytes]) -> None:
        for link in links:
            if not is_value(link):
                raise RuntimeError(f"Invalid HTTP header value {link!r} of b'link'.")
        if request.version == 11 and links:
            self._write(_STATUS_LINES[103] + lines_of([(b"link", link) for link in links]))

    def announce(self, request: Request, size: int) -> None:
        if request.remaining == -1 and request.head is not None:
            request.head.append(b"content-length: %d\r\n" % size)
            request.remaining = size
        elif request.method == "HEAD" and request.head is not None and not _has_length(request.head):
            request.head.append(b"content-length: %d\r\n" % size)

    def _write(self, data: Any) -> None:
        if data and not self.closing:
            self.transport.write(data)


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
    for byte in text:  # noqa: SIM110  # a loop in C
        if (byte < 32 and byte != 9) or byte == 127:
            return False
    return True
