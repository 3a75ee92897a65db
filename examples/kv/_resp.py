"""Replies: what a command answers with, and its bytes in RESP2 and RESP3.

A reply is a plain value where there is one: bytes is a bulk string, None the null, and lists nest. The two protocols
differ only in the null, in maps and in verbatim strings; a map is a flat array in RESP2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec


class Simple(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A simple string, as in +OK. No str: on the wire between shards, msgspec could not tell it from bytes."""

    text: bytes


class Error(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An error reply; the message begins with its code, as in b"ERR syntax error"."""

    message: bytes


class Map(msgspec.Struct, frozen=True):
    items: list[tuple[bytes, Reply]]


class Verbatim(msgspec.Struct, frozen=True):
    text: bytes


Scalar: TypeAlias = int | bytes | Simple | Error | None
"""What a command on keys answers with: these are the replies that cross between shards."""

Reply: TypeAlias = "Scalar | Map | Verbatim | Sequence[Reply]"
"""A sequence is always a list. It is called by what it is used as, so that a list[bytes] is one too."""

OK = Simple(b"OK")
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")


def encode(reply: Reply, protocol: int) -> bytes:
    """The bytes of `reply` in RESP `protocol`, 2 or 3."""
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, Simple):
        return b"+%b\r\n" % reply.text
    if reply is None:
        return b"_\r\n" if protocol == 3 else b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, list):
        return b"*%d\r\n%b" % (len(reply), b"".join([encode(item, protocol) for item in reply]))
    if isinstance(reply, Error):
        # An argument quoted in the message must not end the line.
        return b"-%b\r\n" % reply.message.translate(_ONE_LINE)
    if isinstance(reply, Verbatim):
        return b"=%d\r\ntxt:%b\r\n" % (len(reply.text) + 4, reply.text) if protocol == 3 else encode(reply.text, 2)
    assert isinstance(reply, Map)
    header = b"%%%d\r\n" % len(reply.items) if protocol == 3 else b"*%d\r\n" % (2 * len(reply.items))
    return header + b"".join([encode(key, protocol) + encode(value, protocol) for key, value in reply.items])
