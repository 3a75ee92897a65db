"""The PROXY protocol, versions 1 and 2: what a proxy that passes bytes on says of its client, before the first of them. Pure.

    PROXY TCP4 192.0.2.60 203.0.113.43 56324 443\\r\\n

Version 2 says the same in binary, and more in vectors (type, length, value), of which one is read: whether the client spoke TLS
with the proxy. https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt is the specification.

A proxy also speaks for itself, to see whether a server is there: LOCAL, and UNKNOWN in version 1. Then the connection is its
own.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LONGEST = 4_096  # bytes of a header; of version 1 it is 107

_LONGEST_1 = 107
_HEAD_2 = struct.Struct("!12sBBH")
_ADDRESSES = {0x11: (4, ipaddress.IPv4Address), 0x21: (16, ipaddress.IPv6Address)}  # of TCP; the length of one
_UNIX = 0x31
_PP2_TYPE_SSL = 0x20
_PP2_CLIENT_SSL = 0x01

Address = tuple[str, int]


class NoHeader(Exception):
    """What has come is none. Its message says why."""


class Header(NamedTuple):
    """size: in bytes. client, server: None if it does not say who they are. is_tls: whether the client spoke TLS."""

    size: int
    client: Address | None = None
    server: Address | None = None
    is_tls: bool = False


def parse(data: bytes) -> Header | None:
    """The header that a connection begins with; None: it is not complete yet. Raises NoHeader."""
    if data[:1] == b"P":
        return _parse_1(data)
    if SIGNATURE.startswith(data[:12]):
        return _parse_2(data)
    raise NoHeader("it begins otherwise")


def _parse_1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, _LONGEST_1)
    if end < 0:
        if len(data) >= _LONGEST_1 or not b"PROXY ".startswith(data[:6]):
            raise NoHeader("no line of version 1")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
        if words[0] != "PROXY":
            raise ValueError
        if words[1] == "UNKNOWN":
            return Header(end + 2)
        kind = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}[words[1]]
        _, _, source, destination, source_port, destination_port = words
        client = str(kind(source)), _port(source_port)
        server = str(kind(destination)), _port(destination_port)
    except (ValueError, IndexError, KeyError):
        raise NoHeader(f"the line {data[:end]!r}") from None
    return Header(end + 2, client, server)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65_535:
        raise ValueError
    return int(text)


def _parse_2(data: bytes) -> Header | None:
    if len(data) < _HEAD_2.size:
        return None
    _, command, family, length = _HEAD_2.unpack_from(data)
    size = _HEAD_2.size + length
    if command not in (0x20, 0x21):
        raise NoHeader(f"version and command {command:#x}")
    if size > LONGEST:
        raise NoHeader(f"{size} bytes")
    if len(data) < size:
        return None
    body = data[_HEAD_2.size : size]
    if command == 0x20:  # LOCAL
        return Header(size)
    if family == _UNIX:
        addresses = 216
    elif family in _ADDRESSES:
        addresses = 2 * _ADDRESSES[family][0] + 4
    else:
        return Header(size)  # of another kind of socket, or none that it knows
    if length < addresses:
        raise NoHeader(f"{length} bytes of addresses")
    is_tls = _spoke_tls(body[addresses:])
    if family == _UNIX:
        return Header(size, is_tls=is_tls)
    each, kind = _ADDRESSES[family]
    ports = struct.unpack_from("!HH", body, 2 * each)
    client = str(kind(body[:each])), int(ports[0])
    server = str(kind(body[each : 2 * each])), int(ports[1])
    return Header(size, client, server, is_tls)


def _spoke_tls(vectors: bytes) -> bool:
    at = 0
    while at + 3 <= len(vectors):
        kind, length = struct.unpack_from("!BH", vectors, at)
        value = vectors[at + 3 : at + 3 + length]
        if len(value) < length:
            raise NoHeader("a vector that ends behind it")
        if kind == _PP2_TYPE_SSL and value:
            return bool(value[0] & _PP2_CLIENT_SSL)
        at += 3 + length
    return False
