"""The stream of frames between two shards, in pieces of messages. Policy only.

A frame is a head of 21 bytes, `<BIIQI` (kind, queue, method, call, length), and a body. As many as are there make one message,
up to a limit; one that is larger than that is cut, but never in its head. What has come is taken in in bounded turns, so that a
flood of one peer leaves room for all else; what is under way is counted in bytes of these pieces, when they are taken in.

Deadlines are of a machine's own clock, so what travels is the time that is left. It is looked at when a frame leaves, not when
it begins to wait for room; the way itself counts for nobody: the caller's own clock goes on.
"""

from __future__ import annotations

import struct
from collections import deque

from clockworker.ipc.calls._frames import ENVELOPE, KEYED
from clockworker.ipc.calls._owners import KEY_SIZE

Frame = tuple[int, int, int, int, bytes]  # kind, queue, method, call, body
Buffer = bytes | memoryview

_HEAD = struct.Struct("<BIIQI")
HEAD_SIZE = _HEAD.size
_TIME = struct.Struct("<Q")
_LONGEST_NS = 1 << 62


class AgainstTheRules(Exception):
    """A peer sends what no shard does. The message says what."""


class Outgoing:
    """Frames that wait to be sent. size: bytes of them, heads included."""

    def __init__(self) -> None:
        self.size = 0
        self._frames: deque[Frame] = deque()
        self._rest: memoryview | None = None  # of the body of the frame that was cut

    def put(self, frame: Frame) -> None:
        self._frames.append(frame)
        self.size += HEAD_SIZE + len(frame[4])

    def clear(self) -> None:
        self.size = 0
        self._frames.clear()
        self._rest = None

    def take(self, most: int, now_ns: int) -> list[Buffer]:
        """The next piece, of at most so many bytes, in parts; nothing, if nothing waits, or not a head would fit."""
        parts: list[Buffer] = []
        left = most
        if self._rest is not None:
            left = self._take_body(parts, self._rest, left)
        frames = self._frames
        while frames and left > HEAD_SIZE and self._rest is None:
            kind, queue, method, call, body = frames[0]
            length = len(body)
            if HEAD_SIZE + length > left and parts and HEAD_SIZE + length <= most:
                break
            frames.popleft()
            if kind & ENVELOPE:
                body = _with_time_left(body, KEY_SIZE if kind & KEYED else 0, now_ns)
            parts.append(_HEAD.pack(kind, queue, method, call, length))
            left -= HEAD_SIZE
            if length <= left:
                parts.append(body)
                left -= length
            else:
                left = self._take_body(parts, memoryview(body), left)
        self.size -= most - left
        return parts

    def _take_body(self, parts: list[Buffer], body: memoryview, left: int) -> int:
        parts.append(body[:left])
        rest = body[left:]
        self._rest = rest if len(rest) else None
        return left - len(parts[-1])


class Incoming:
    """Pieces that have come, and are not taken in. longest: bytes of a frame's body, at most."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._pieces: deque[Buffer] = deque()
        self._at = 0  # where the first of them is taken in up to
        self._head: tuple[int, int, int, int, int] | None = None  # of a frame that was cut
        self._parts: list[Buffer] = []
        self._missing = 0
        self._tail = b""  # of a head that was cut

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, piece: Buffer) -> None:
        if len(piece):
            self._pieces.append(piece)

    def clear(self) -> None:
        self._pieces.clear()
        self._at = 0
        self._head = None
        self._parts = []
        self._tail = b""

    def take(self, most: int, most_bytes: int, now_ns: int) -> tuple[list[Frame], int]:
        """As many frames, of so many bytes together and the rest of the one that exceeds them; and how many bytes of pieces
        that were. Raises `AgainstTheRules`."""
        frames: list[Frame] = []
        taken = 0
        pieces = self._pieces
        while pieces and len(frames) < most and taken < most_bytes:
            piece, at = pieces[0], self._at
            end = len(piece)
            while at < end and len(frames) < most and taken < most_bytes:
                start = at
                if self._head is not None:
                    at = min(end, at + self._missing)
                    self._parts.append(piece[start:at])
                    self._missing -= at - start
                    if not self._missing:
                        kind, queue, method, call, _ = self._head
                        frames.append(_frame(kind, queue, method, call, b"".join(self._parts), now_ns))
                        self._head, self._parts = None, []
                    taken += at - start
                    continue
                if self._tail or end - at < HEAD_SIZE:
                    at = min(end, at + HEAD_SIZE - len(self._tail))
                    self._tail += bytes(piece[start:at])
                    taken += at - start
                    if len(self._tail) < HEAD_SIZE:
                        continue
                    head, self._tail = self._tail, b""
                    kind, queue, method, call, length = _HEAD.unpack(head)
                else:
                    kind, queue, method, call, length = _HEAD.unpack_from(piece, at)
                    at += HEAD_SIZE
                    taken += HEAD_SIZE
                if length > self._longest:
                    raise AgainstTheRules(f"a frame of {length:,} bytes; max_message is {self._longest:,}")
                body_end = at + length
                if body_end <= end:
                    frames.append(_frame(kind, queue, method, call, bytes(piece[at:body_end]), now_ns))
                    at = body_end
                    taken += length
                else:
                    self._head, self._missing = (kind, queue, method, call, length), length
            if at == end:
                pieces.popleft()
                at = 0
            self._at = at
        return frames, taken


def _frame(kind: int, queue: int, method: int, call: int, body: bytes, now_ns: int) -> Frame:
    if kind & ENVELOPE:
        body = _with_deadline(body, KEY_SIZE if kind & KEYED else 0, now_ns)
    return kind, queue, method, call, body


def _with_time_left(body: bytes, at: int, now_ns: int) -> bytes:
    """The body of a request that leaves: its deadline becomes what is left until then."""
    if len(body) < at + _TIME.size:
        return body
    (deadline_ns,) = _TIME.unpack_from(body, at)
    return body if not deadline_ns else _replaced(body, at, max(1, deadline_ns - now_ns))


def _with_deadline(body: bytes, at: int, now_ns: int) -> bytes:
    """The body of one that has come: what is left becomes a deadline of our own clock."""
    if len(body) < at + _TIME.size:
        return body  # no envelope, which is said where it is read
    (left_ns,) = _TIME.unpack_from(body, at)
    return body if not left_ns else _replaced(body, at, now_ns + min(left_ns, _LONGEST_NS))


def _replaced(body: bytes, at: int, value: int) -> bytes:
    return b"".join((body[:at], _TIME.pack(value), memoryview(body)[at + _TIME.size :]))
