"""Frames: the kinds of message that rings carry, and what may travel in front of a call's arguments. Policy only.

Most calls have neither deadline nor group and are part of no other, and pay nothing for them: only a frame whose kind has the
flag `ENVELOPE` begins with one.

    bytes 0-7     deadline, nanoseconds of CLOCK_MONOTONIC, which is the same for all processes of a machine; 0: none
    bytes 8-15    the shards that wait for it, beside the sender: bit n is set for shard n, modulo 64
    byte 16       depth: how many calls it is made within, of which each waits for the next (`_credit_cy`)
    bytes 17-18   length of the group's key
    then          the group's key, msgpack; then the arguments
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Hashable
from enum import IntEnum
from typing import Any

import msgspec


class Kind(IntEnum):
    """What a frame is. Zero is none, so that unwritten memory is not a frame."""

    REQUEST = 1  # call: the caller's number for it; queue: where it should run, and whose credit it has
    REPLY = 2  # call: that of the request
    ERROR = 3  # instead of a reply; the body is a Failure, or empty: the deadline had passed
    CANCEL = 4  # the caller of `call` no longer wants it
    ONE_WAY = 6  # a request that wants no reply
    CREDIT = 7  # so many (call) one-way requests of `queue` and depth (method) are done
    ITEM = 8  # of the stream that `call` asked for
    ACK = 9  # so many (method) items of the stream `call` have been used
    SCHEMA = 10  # what the sender means by the methods of a service
    BEGUN = 11  # the stream that `call` asked for has been begun with
    LEAVING = 12  # instead of a reply: the shard is leaving; without a body nothing was run


ENVELOPE = 128  # a flag on REQUEST and ONE_WAY

_ENVELOPE = struct.Struct("<QQBH")
_LONGEST_GROUP = 0xFFFF
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def queue_identifier(key: Hashable) -> int:
    """What stands for a queue key in a frame; 0 is none."""
    return zlib.crc32(repr(key).encode()) or 1


def pack_envelope(deadline_ns: int, group: Hashable, depth: int, through: int, sender: int, arguments: bytes) -> bytes:
    """The body of a request with a deadline, or a group, or within others; each may be missing (0, None, 0).

    A group whose key is text, bytes, a number or a tuple of these travels as itself. Any other key means something in the
    sender's process only; for it stands (sender, hash): still a group of its own.
    """
    key = b""
    if group is not None:
        key = _encoder.encode(group if _travels(group) else (sender, hash(group)))
        if len(key) > _LONGEST_GROUP:
            key = _encoder.encode((sender, hash(group)))
    return _ENVELOPE.pack(deadline_ns, through, depth, len(key)) + key + arguments


def unpack_envelope(body: bytes) -> tuple[int, Hashable, int, int, memoryview]:
    """Deadline, group, depth, the shards that wait, and arguments. Raises ValueError, or whatever msgspec does, for what is no
    envelope."""
    if len(body) < _ENVELOPE.size:
        raise ValueError("the envelope is cut short")
    deadline_ns, through, depth, length = _ENVELOPE.unpack_from(body)
    view = memoryview(body)
    start = _ENVELOPE.size + length
    group = _hashable(_decoder.decode(view[_ENVELOPE.size : start])) if length else None
    return deadline_ns, group, depth, through, view[start:]


def _travels(group: Hashable) -> bool:
    if type(group) is tuple:
        return all(map(_travels, group))
    return isinstance(group, str | bytes | float | None) or (isinstance(group, int) and -(2**63) <= group < 2**64)


def _hashable(group: Any) -> Hashable:
    return tuple(map(_hashable, group)) if isinstance(group, list) else group
