"""Heads in HTTP/2: what of a request's head is a request, and a response's as h2 takes it.

h2 can check heads by itself, and ends the connection over one that is malformed. A proxy sends requests of many clients over
one connection, so here only their stream is reset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from clockworker.http._head import BESIDE_TARGET, CONTROL, HOST, TOKEN
from clockworker.shards.config._http import HttpConfig

Fields = list[tuple[bytes, bytes]]

_MOST_NAMES = 1_024
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]\Z")
_TARGET = re.compile(rb"[!-~]+")
_PSEUDO = (b":method", b":path", b":scheme", b":authority")
_OF_CONNECTIONS = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))

_known: set[bytes] = set()  # names that are valid
_sent: dict[bytes, bytes] = {}  # names that applications have sent, and as they are written


class Malformed(Exception):
    """A head that is no request's."""


class TooLarge(Exception):
    """status: that says so."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Head(NamedTuple):
    """Of a request. path: decoded; raw_path: as sent, without query."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Fields
    expects: bool


def read_head(fields: Iterable[tuple[bytes, bytes]], config: HttpConfig) -> Head:
    """Raises Malformed, TooLarge. The authority comes first among the headers, as `host`; parts of cookies are one again."""
    pseudo: dict[bytes, bytes] = {}
    headers: Fields = []
    cookie = -1  # its place
    hosts: list[bytes] = []
    length: bytes | None = None
    expects = False
    status = 0
    for name, value in fields:
        if len(name) + len(value) + 4 > config.limit_request_field_size and name != b":path":
            status = 431
        if name[:1] == b":":
            if headers or name in pseudo or name not in _PSEUDO or _BAD_VALUE.search(value) is not None:
                raise Malformed(f"{name!r}: {value!r}")
            pseudo[name] = value
            continue
        if name not in _known:
            _check_name(name)
        if _BAD_VALUE.search(value) is not None:
            raise Malformed(f"{name!r}: {value!r}")
        if name == b"cookie":
            if cookie >= 0:
                value = headers[cookie][1] + b"; " + value
                if len(value) + 10 > config.limit_request_field_size:
                    status = 431
                headers[cookie] = name, value
                continue
            cookie = len(headers)
        elif name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 18:
                raise Malformed(f"content-length: {value!r}")
            length = value
        elif name == b"expect":
            expects = value.lower() == b"100-continue"
        elif name in _OF_CONNECTIONS or (name == b"te" and value.lower() != b"trailers"):
            raise Malformed(f"{name!r} is for connections of HTTP/1.1")
        headers.append((name, value))
    method = pseudo.get(b":method", b"")
    if TOKEN.fullmatch(method) is None or method == b"CONNECT" or not pseudo.get(b":scheme"):
        raise Malformed(f"method {method!r}, scheme {pseudo.get(b':scheme')!r}")
    _take_authority(pseudo.get(b":authority"), hosts, headers)
    target = pseudo.get(b":path", b"")
    if len(method) + len(target) + BESIDE_TARGET - 3 > config.limit_request_line:
        status = 414
    elif len(headers) > config.limit_request_fields:
        status = 431
    if status:
        raise TooLarge(status)
    if _TARGET.fullmatch(target) is None or not (target[:1] == b"/" or (target == b"*" and method == b"OPTIONS")):
        raise Malformed(f"path {target!r}")
    raw_path, _, query = target.partition(b"#")[0].partition(b"?")
    path = raw_path.decode("ascii")
    return Head(method.decode("ascii"), unquote(path) if "%" in path else path, raw_path, query, headers, expects)


def _take_authority(authority: bytes | None, hosts: list[bytes], headers: Fields) -> None:
    if authority is not None:
        if hosts:
            headers[:] = [header for header in headers if header[0] != b"host"]
        headers.insert(0, (b"host", authority))
    said = {*hosts, authority} - {None}
    if len(hosts) > 1 or len(said) != 1 or HOST.fullmatch(headers[0][1] if authority is not None else hosts[0]) is None:
        raise Malformed(f"authority {authority!r}, host {hosts!r}")


def _check_name(name: bytes) -> None:
    if _NAME.fullmatch(name) is None:
        raise Malformed(f"name {name!r}")
    if len(_known) < _MOST_NAMES:
        _known.add(name)


class Defaults:
    """The headers that each response begins with, as pairs; they are rendered for HTTP/1.1, and anew each second."""

    def __init__(self) -> None:
        self._rendered = b""
        self._fields: Fields = []

    def of(self, rendered: bytes) -> Fields:
        if rendered is not self._rendered:
            pairs = (line.partition(b": ") for line in rendered.split(b"\r\n") if line)
            self._rendered, self._fields = rendered, [(name, value) for name, _, value in pairs]
        return self._fields


def write_head(status: int, headers: Iterable[Any], defaults: Fields) -> tuple[Fields, int]:
    """A response's head, and its content-length; below 0: it says nothing of it. Raises RuntimeError for what cannot be sent.

    What is said of the connection is dropped, for in HTTP/2 it is not the response that does.
    """
    if not isinstance(status, int) or not 200 <= status <= 999:
        raise RuntimeError(f"the status of a response is {status!r}; give a number from 200 to 999")
    fields: Fields = [(b":status", b"%d" % status)]
    own: Fields = []
    length = -1
    said = set()
    for name, value in headers:
        known = _sent.get(name)
        if known is None:
            known = _new_name(name)
        if type(value) is not bytes:
            value = bytes(value)
        if CONTROL.search(value) is not None:
            raise RuntimeError(f"Invalid HTTP header value {value!r} of {bytes(name)!r}.")
        if known == b"content-length":
            if length >= 0 and length != int(value):
                raise RuntimeError("Content-Length is given twice, and differs")
            length = int(value)
        elif known == b"date" or known == b"server":
            said.add(known)
        elif known in _OF_CONNECTIONS:
            continue
        own.append((known, value.strip(b" \t")))
    fields += [default for default in defaults if default[0] not in said] if said else defaults
    return fields + own, length


def _new_name(name: Any) -> bytes:
    plain = bytes(name)
    if TOKEN.fullmatch(plain) is None:
        raise RuntimeError(f"Invalid HTTP header name {plain!r}.")
    if len(_sent) < _MOST_NAMES:
        _sent[plain] = plain.lower()
    return plain.lower()
