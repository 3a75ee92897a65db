"""Frames: the kinds of message that rings carry, and the chunks of those that are too large for one frame. Policy only."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum


class Kind(IntEnum):
    """What a frame is. Zero is none, so that unwritten memory is not a frame."""

    REQUEST = 1  # call: the caller's number for it
    REPLY = 2  # call: that of the request
    ERROR = 3  # instead of a reply; the body is a Failure
    CANCEL = 4  # the caller of `call` no longer wants it
    CHUNK = 5  # a piece of the body of the next frame that is not a chunk


def pieces(body: bytes, largest: int) -> Iterator[tuple[bool, bytes]]:
    """The body in pieces of at most `largest` bytes, each with whether it is the last."""
    for start in range(0, len(body), largest):
        yield start + largest >= len(body), body[start : start + largest]


class Reassembly:
    """Puts chunks together. What one peer may make us hold is bounded by `max_message`."""

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._pieces: list[bytes] = []
        self._length = 0

    def add(self, piece: bytes) -> bool:
        """Keep a chunk. False if the message has grown past `max_message`, which a peer that keeps the rules never sends."""
        self._length += len(piece)
        self._pieces.append(piece)
        return self._length <= self._max_message

    def complete(self, last: bytes) -> bytes:
        """The whole body, of which `last` is the end."""
        if not self._pieces:
            return last
        self._pieces.append(last)
        body = b"".join(self._pieces)
        self._pieces.clear()
        self._length = 0
        return body
