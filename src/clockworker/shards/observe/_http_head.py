"""The head of an HTTP/1.1 request (RFC 9112): bytes in, a request or an error out.

A probe of a load balancer must be answered where none of our extras is installed, and it needs no more of HTTP than this:
pages that are read by GET and HEAD. So bodies are never read. A request that announces one is answered at once, which RFC
9110 (10.1.1) allows even where the client waits to be told to go on, and the connection is closed behind the answer.
"""

from __future__ import annotations

import re

import msgspec

MAX_HEAD = 8 * 1024  # bytes

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_END = re.compile(rb"\r?\n\r?\n")
_EMPTY_LINES = re.compile(rb"(?:\r?\n)+")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/(\d)\.(\d)")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_QUOTED = re.compile(rb"%([46][1-9A-Fa-f]|[57][0-9Aa]|3[0-9]|2[DdEe]|5[Ff]|7[Ee])")  # of what needs no quoting
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class BadRequest(Exception):
    """status: what to answer. The connection cannot be used any more."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Request(msgspec.Struct, frozen=True):
    """path: without the query, and without scheme and host where the target had them. keeps: whether the client may ask
    once more on this connection."""

    method: str
    path: str
    accept: str
    keeps: bool


def take(received: bytearray) -> Request | None:
    """The first request in `received`, which is taken out of it; None if its head is not complete. Raises `BadRequest`."""
    if empty := _EMPTY_LINES.match(received):
        del received[: empty.end()]  # some clients end a body by one that they do not count (RFC 9112, 2.2)
    end = _END.search(received)
    if end is None or end.end() > MAX_HEAD:
        if len(received) > MAX_HEAD:
            raise BadRequest(431, f"the head of a request has at most {MAX_HEAD} bytes here")
        return None
    head = bytes(received[: end.start()])
    del received[: end.end()]
    return _parse(head)


def _parse(head: bytes) -> Request:
    first, *rest = head.replace(b"\r\n", b"\n").split(b"\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequest(400, "the first line is no request line of HTTP/1.1")
    method, target, major, minor = line.groups()
    if major != b"1":
        raise BadRequest(505, "HTTP/1.1 is spoken here")
    fields: dict[bytes, list[bytes]] = {}
    for text in rest:
        field = _FIELD.fullmatch(text)
        if field is None:
            raise BadRequest(400, "a line of the head is no header field")
        fields.setdefault(field[1].lower(), []).append(field[2])
    if minor != b"0" and len(fields.get(b"host", ())) != 1:
        raise BadRequest(400, "a request of HTTP/1.1 has one Host field")
    return Request(
        method.decode(),
        _path(target),
        b", ".join(fields.get(b"accept", ())).decode("latin-1"),
        _keeps(minor, fields) and not _has_body(fields),
    )


def _path(target: bytes) -> str:
    if absolute := _ABSOLUTE.match(target):  # as a proxy sends it
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    path = re.split(rb"[?#]", target, maxsplit=1)[0]
    return _QUOTED.sub(lambda quoted: bytes.fromhex(quoted[1].decode()), path).decode("ascii", "replace")


def _keeps(minor: bytes, fields: dict[bytes, list[bytes]]) -> bool:
    options = {option.strip().lower() for value in fields.get(b"connection", ()) for option in value.split(b",")}
    return b"close" not in options and (minor != b"0" or b"keep-alive" in options)


def _has_body(fields: dict[bytes, list[bytes]]) -> bool:
    """A length that cannot be read, or that is given twice, is one: nothing behind this head is taken for a request."""
    return b"transfer-encoding" in fields or fields.get(b"content-length", [b"0"]) != [b"0"]
