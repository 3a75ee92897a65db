"""Frames: the kinds of message that connections carry. Policy only."""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from enum import IntEnum


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
    SCHEMA = 10  # what the sender means by the methods of a service, or by a function
    BEGUN = 11  # the stream that `call` asked for has been begun with
    LEAVING = 12  # instead of a reply: the shard is leaving; without a body nothing was run
    TOPIC = 13  # a message of a topic; this and what follows are the topics' own (`topics._words`)
    PASS_ON = 14
    TAKEN = 15
    INTEREST = 16
    HEARD = 17
    TOPICS = 18


# Flags on REQUEST and ONE_WAY.
ENVELOPE = 128  # the body has one (`_chain_cy`)
KEYED = (
    64  # the body begins with a key's partition and the epoch at which the caller has looked for its owner (`_owners`)
)
FLAGS = ENVELOPE | KEYED


def queue_identifier(key: Hashable) -> int:
    """What stands for a queue key in a frame; 0 is none."""
    return zlib.crc32(repr(key).encode()) or 1
