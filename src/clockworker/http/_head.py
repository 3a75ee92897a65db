"""Heads of responses: what of them is the same for all, and what is answered without asking the application."""

from __future__ import annotations

import http
import re
import time
from collections.abc import Sequence
from email.utils import formatdate

STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 1000)} | {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}

CONTINUE = STATUS_LINES[100] + b"\r\n"

# In bytes: method and version of a request line take about so much beside its target.
BESIDE_TARGET = 14

RETRY_AFTER_S = 1

# Of ASGI, beside TLS's.
EXTENSIONS: dict[str, dict[str, object]] = {
    "http.response.trailers": {},
    "http.response.early_hint": {},
    "http.response.pathsend": {},
}

# What a trailer must not be: who reads one by one has acted on it by then (RFC 9110, 6.5.1).
_NO_TRAILERS = frozenset(
    (b"connection", b"content-length", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

# What a request's Host may be, and a header's name.
HOST = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=%]*(?::[0-9]*)?|\[[0-9A-Fa-f:.]+\](?::[0-9]*)?")
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def accepts_trailers(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a client has said so."""
    return any(name == b"te" and b"trailers" in re.split(rb"[\s,;]+", value.lower()) for name, value in headers)


def trailers_of(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Trailers as they are written. Raises RuntimeError for what none can be."""
    found = []
    for name, value in fields:
        lower = name.lower()
        if TOKEN.fullmatch(name) is None or lower in _NO_TRAILERS:
            raise RuntimeError(f"Invalid HTTP trailer name {name!r}.")
        if CONTROL.search(value) is not None:
            raise RuntimeError(f"Invalid HTTP trailer value {value!r} of {name!r}.")
        found.append((lower, value.strip(b" \t")))
    return found


def lines_of(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """And the line that ends them."""
    return b"".join([b"%s: %s\r\n" % field for field in fields]) + b"\r\n"


class DefaultHeaders:
    """The headers that each response begins with, rendered; `date` is as old as the last `refresh`."""

    def __init__(self, headers: Sequence[tuple[str, str]], *, server: bool, date: bool) -> None:
        self._names = {name.lower() for name, _ in headers}
        self._own = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers).encode("latin-1")
        self._server = b"server: clockworker\r\n" if server and "server" not in self._names else b""
        self._has_date = date and "date" not in self._names

    def render(self, *, server: bool = True, date: bool = True) -> bytes:
        """server, date: whether these are wanted, of those that there are."""
        said = b"date: %s\r\n" % formatdate(time.time(), usegmt=True).encode() if self._has_date and date else b""
        return said + (self._server if server else b"") + self._own


def refusal(status: int, defaults: bytes) -> bytes:
    """All of a response to what is not passed to the application. The connection is closed after it."""
    body = STATUS_LINES[status].split(b" ", 2)[2].rstrip()
    return b"%s%scontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n%s\r\n%s" % (
        STATUS_LINES[status],
        defaults,
        len(body),
        b"retry-after: %d\r\n" % RETRY_AFTER_S if status == 503 else b"",
        body,
    )
