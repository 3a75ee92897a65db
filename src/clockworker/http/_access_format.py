"""The lines of the access log as --access-log-format asks for them, with gunicorn's atoms: only what a format has is found out.

What clients choose is escaped as in the usual line, quotes with it, so that a quoted field stays one. What there is none of is
`-`."""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from clockworker.http._environ import environ_of
from clockworker.shards.config._access_format import atoms_of

_VERSIONS = {10: "1.0", 11: "1.1", 20: "2"}


class Done(NamedTuple):
    """A request that is. status: 0 if it was not answered; sent: bytes of the response's body. at: seconds since the epoch."""

    request: Any
    status: int
    sent: int
    elapsed_ns: int
    queue: str
    group: str | None
    at: float


class AccessFormat:
    """text: a format that is valid (`parse_access_log_format`). shard: its number."""

    def __init__(self, text: str, shard: int) -> None:
        self._text = text
        self._atoms = [(atom, _finder(atom, shard)) for atom in atoms_of(text)]

    def render(self, done: Done) -> str:
        """The line, without its end."""
        return self._text % {atom: find(done) for atom, find in self._atoms}


def is_plain(text: str) -> bool:
    """Whether it may stand in quotes as it is."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def escaped(text: str) -> str:
    """In ASCII, so that it can stand in quotes and on one line."""
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def _finder(atom: str, shard: int) -> Callable[[Done], object]:
    if atom == "shard":
        return lambda done: shard
    if atom == "p":
        process = f"<{os.getpid()}>"
        return lambda done: process
    if atom.startswith("{"):
        name, kind = atom[1:-2], atom[-1]
        if kind == "e":
            return lambda done: _safe(environ_of(done.request.scope).get(name))
        key = name.lower().encode("latin-1", "replace")
        if kind == "i":
            return lambda done: _header(done.request.scope["headers"], key)
        return lambda done: _header(done.request.response_headers or (), key)
    return _FINDERS[atom]


def _safe(value: object) -> str:
    if value is None or value == "":
        return "-"
    text = str(value)
    return text if is_plain(text) else escaped(text)


def _header(headers: Iterable[Any], wanted: bytes) -> str:
    """All of them, joined as one. An iterator that was sent has been used up."""
    if not isinstance(headers, list | tuple):
        return "-"
    found = [bytes(value).decode("latin-1") for name, value in headers if bytes(name).lower() == wanted]
    return _safe(",".join(found))


def _client(done: Done) -> str:
    client = done.request.scope["client"]
    return "-" if client is None else _safe(client[0])


def _user(done: Done) -> str:
    for name, value in done.request.scope["headers"]:
        if name == b"authorization" and value[:6].lower() == b"basic ":
            try:
                return _safe(base64.b64decode(value[6:].strip(), validate=True).partition(b":")[0].decode("latin-1"))
            except binascii.Error:
                return "-"
    return "-"


def _target(done: Done) -> str:
    query = done.request.scope["query_string"]
    raw: bytes = done.request.raw_path
    return (raw + b"?" + query if query else raw).decode("latin-1")


def _version(done: Done) -> str:
    return f"HTTP/{_VERSIONS[done.request.version]}"


def _time(done: Done) -> str:
    return time.strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(done.at))


_FINDERS: dict[str, Callable[[Done], object]] = {
    "h": _client,
    "l": lambda done: "-",
    "u": _user,
    "t": _time,
    "r": lambda done: f"{done.request.method} {_safe(_target(done))} {_version(done)}",
    "m": lambda done: done.request.method,
    "U": lambda done: _safe(done.request.raw_path.decode("latin-1")),
    "q": lambda done: _safe(done.request.scope["query_string"].decode("latin-1")),
    "H": _version,
    "s": lambda done: done.status,
    "B": lambda done: done.sent,
    "b": lambda done: done.sent or "-",
    "f": lambda done: _header(done.request.scope["headers"], b"referer"),
    "a": lambda done: _header(done.request.scope["headers"], b"user-agent"),
    "T": lambda done: done.elapsed_ns // 1_000_000_000,
    "M": lambda done: done.elapsed_ns // 1_000_000,
    "D": lambda done: done.elapsed_ns // 1_000,
    "L": lambda done: f"{done.elapsed_ns / 1e9:.6f}",
    "queue": lambda done: _safe(done.queue),
    "group": lambda done: _safe(done.group),
}
