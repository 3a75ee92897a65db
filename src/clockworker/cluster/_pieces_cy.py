# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The stream of frames between two shards, in pieces of messages. Policy only.

A frame is a head of 21 bytes, `<BIIQI` (kind, queue, method, call, length), and a body. As many as are there make one message,
up to a limit; one that is larger than that is cut, but never in its head. What has come is taken in in bounded turns, so that a
flood of one peer leaves room for all else; what is under way is counted in bytes of these pieces, when they are taken in.

Deadlines are of a machine's own clock, so what travels is the time that is left. It is looked at when a frame leaves, not when
it begins to wait for room; the way itself counts for nobody: the caller's own clock goes on.

Small frames are written as they travel when they are put, and taken in one copy. In Python, and as objects until they left,
that was a third of what a far call cost.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.ipc.calls._frames import ENVELOPE, KEYED
from clockworker.ipc.calls._owners import KEY_SIZE

if cython.compiled:
    from cython.cimports.clockworker.cluster._heads import cw_get_u32, cw_get_u64, cw_put_head
    from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_Resize
    from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
    from cython.cimports.libc.string import memcpy

Frame = tuple[int, int, int, int, bytes]  # kind, queue, method, call, body
Buffer = bytes | memoryview

_HEAD = struct.Struct("<BIIQI")
HEAD_SIZE = _HEAD.size
_TIME = struct.Struct("<Q")
_LONGEST_NS = 1 << 62

_HEAD_BYTES = HEAD_SIZE  # C globals when compiled
_ENVELOPE = ENVELOPE
_KEYED = KEYED
_MOST_CALL = (1 << 63) - 1
_SMALL = 4_096  # bytes of a body that is copied together with its neighbours; one that is larger is a part of its own
_KEPT = 256 * 1024  # bytes of memory that are kept for what comes


class AgainstTheRules(Exception):
    """A peer sends what no shard does. The message says what."""


@cython.final
@cython.cclass
class Run:
    """Small frames behind each other, as they travel: in `data` from `at` to `end`."""

    data: bytearray
    at: int
    end: int
    fitting: int

    def __init__(self) -> None:
        self.data = bytearray()
        self.at = 0
        self.end = 0
        self.fitting = 0

    def put(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        length = len(body)
        end = self.end + _HEAD_BYTES + length
        if cython.compiled:
            if end > len(self.data):
                PyByteArray_Resize(self.data, max(2 * len(self.data), end, 1_024))
            to = PyByteArray_AS_STRING(self.data) + self.end
            cw_put_head(to, kind, queue, method, call, length)
            memcpy(to + _HEAD_BYTES, PyBytes_AS_STRING(body), length)
        else:
            self.data[self.end :] = _HEAD.pack(kind, queue, method, call, length) + body
        self.end = end

    def fit(self, most: int, now_ns: int) -> int:
        """How many bytes the whole frames are that fit, and in `fitting` how many frames. Their deadlines become what is
        left."""
        at = self.at
        self.fitting = 0
        while at < self.end:
            length = self._length(at)
            if at + _HEAD_BYTES + length - self.at > most:
                break
            kind = self.data[at]
            if kind & _ENVELOPE:
                self._leaves(at, KEY_SIZE if kind & _KEYED else 0, length, now_ns)
            at += _HEAD_BYTES + length
            self.fitting += 1
        return at - self.at

    def _length(self, at: int) -> int:
        """Of the body of the frame there."""
        length: int
        if cython.compiled:
            length = cw_get_u32(PyByteArray_AS_STRING(self.data) + at + 17)
        else:
            length = _HEAD.unpack_from(self.data, at)[4]
        return length

    def _leaves(self, at: int, key_size: int, length: int, now_ns: int) -> None:
        if length >= key_size + _TIME.size:
            at += _HEAD_BYTES + key_size
            (deadline_ns,) = _TIME.unpack_from(self.data, at)
            if deadline_ns:
                _TIME.pack_into(self.data, at, max(1, deadline_ns - now_ns))

    def take(self, size: int) -> bytes:
        """The next so many bytes."""
        taken: bytes
        if cython.compiled:
            taken = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(self.data) + self.at, size)
        else:
            taken = bytes(self.data[self.at : self.at + size])
        self.at += size
        if self.at == self.end:
            self.at = 0
            self.end = 0
            if len(self.data) > _KEPT:
                self.data = bytearray()
        return taken

    def take_first(self) -> Frame:
        """The next frame, as it was put."""
        kind, queue, method, call, length = _HEAD.unpack_from(self.data, self.at)
        return kind, queue, method, call, self.take(_HEAD_BYTES + length)[_HEAD_BYTES:]


@cython.final
@cython.cclass
class Outgoing:
    """Frames that wait to be sent. size: bytes of them, heads included. count: of those that have not begun to leave."""

    size: int
    count: int
    _line: list[Run | Frame]  # large frames, and the small ones between them
    _last: Run | None  # at the end of the line
    _rest: memoryview | None  # of the body of the frame that was cut

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.size = 0
        self.count = 0
        self._line = []
        self._last = None
        self._rest = None

    def put(self, kind: int, queue: int, method: int, call: int, body: bytes) -> None:
        self.size += _HEAD_BYTES + len(body)
        self.count += 1
        if len(body) > _SMALL:
            self._line.append((kind, queue, method, call, body))
            self._last = None
            return
        run = self._last
        if run is None:
            run = self._last = Run()
            self._line.append(run)
        run.put(kind, queue, method, call, body)

    def take(self, most: int, now_ns: int) -> list[Buffer]:
        """The next piece, of at most so many bytes, in parts; nothing, if nothing waits, or not a head would fit."""
        parts: list[Buffer] = []
        left = most
        if self._rest is not None:
            left = self._take_body(parts, self._rest, left)
        while self._line and left > _HEAD_BYTES and self._rest is None:
            first: Any = self._line[0]
            if type(first) is Run:
                run: Run = first
                left = self._take_run(parts, run, left, now_ns)
                if run.at == run.end:
                    if run is self._last and len(self._line) == 1:
                        break  # it is kept for what comes
                    del self._line[0]
                    continue
                length = run._length(run.at)
                if left <= _HEAD_BYTES or (left < most and _HEAD_BYTES + length <= most):
                    break
                frame = run.take_first()
            else:
                frame = first
                length = len(frame[4])
                if _HEAD_BYTES + length > left and left < most and _HEAD_BYTES + length <= most:
                    break
                del self._line[0]
            left = self._take_frame(parts, frame, left, now_ns)
        self.size -= most - left
        return parts

    def _take_run(self, parts: list[Buffer], run: Run, left: int, now_ns: int) -> int:
        size = run.fit(left, now_ns)
        self.count -= run.fitting
        if size:
            parts.append(run.take(size))
        return left - size

    def _take_frame(self, parts: list[Buffer], frame: Frame, left: int, now_ns: int) -> int:
        kind, queue, method, call, body = frame
        if kind & ENVELOPE:
            body = _with_time_left(body, KEY_SIZE if kind & KEYED else 0, now_ns)
        self.count -= 1
        parts.append(_HEAD.pack(kind, queue, method, call, len(body)))
        left -= _HEAD_BYTES
        if len(body) > left:
            return self._take_body(parts, memoryview(body), left)
        parts.append(body)
        return left - len(body)

    def _take_body(self, parts: list[Buffer], body: memoryview, left: int) -> int:
        parts.append(body[:left])
        rest = body[left:]
        self._rest = rest if len(rest) else None
        return left - len(parts[-1])


@cython.final
@cython.cclass
class Incoming:
    """Pieces that have come, and are not taken in. longest: bytes of a frame's body, at most. waiting: how many pieces."""

    waiting: int
    _pieces: deque[tuple[bytes, int]]  # behind the first, each with where it begins
    _piece: bytes  # the first
    _at: int  # where that is taken in up to
    _head: tuple[int, int, int, int] | None  # of a frame that was cut
    _parts: list[bytes]
    _tail: bytes  # of a head that was cut

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._pieces = deque()
        self.clear()

    def put(self, message: bytes, at: int = 0) -> None:
        """The piece is what the message has from there on."""
        if not 0 <= at < len(message):
            return
        if self.waiting:
            self._pieces.append((message, at))
        else:
            self._piece = message
            self._at = at
        self.waiting += 1

    def clear(self) -> None:
        self._pieces.clear()
        self.waiting = 0
        self._piece = b""
        self._at = 0
        self._head = None
        self._parts = []
        self._missing = 0
        self._tail = b""

    def take(self, most: int, most_bytes: int, now_ns: int) -> tuple[list[Frame], int]:
        """As many frames, of so many bytes together and the rest of the one that exceeds them; and how many bytes of pieces
        that were. Raises `AgainstTheRules`."""
        frames: list[Frame] = []
        taken = 0
        while self.waiting and len(frames) < most and taken < most_bytes:
            piece = self._piece
            at = self._at
            end = len(piece)
            while at < end and len(frames) < most and taken < most_bytes:
                start = at
                if self._head is not None:
                    at = min(end, at + self._missing)
                    self._parts.append(piece[start:at])
                    self._missing -= at - start
                    if not self._missing:
                        kind, queue, method, call = self._head
                        frames.append(_frame(kind, queue, method, call, b"".join(self._parts), now_ns))
                        self._head, self._parts = None, []
                    taken += at - start
                    continue
                if self._tail or end - at < _HEAD_BYTES:
                    at = min(end, at + _HEAD_BYTES - len(self._tail))
                    self._tail += piece[start:at]
                    taken += at - start
                    if len(self._tail) < _HEAD_BYTES:
                        continue
                    kind, queue, method, call, length = _HEAD.unpack(self._tail)
                    self._tail = b""
                elif cython.compiled:
                    base = PyBytes_AS_STRING(piece) + at
                    kind = cython.cast(cython.uchar, base[0])
                    queue = cw_get_u32(base + 1)
                    method = cw_get_u32(base + 5)
                    call = cw_get_u64(base + 9)
                    length = cw_get_u32(base + 17)
                    at += _HEAD_BYTES
                    taken += _HEAD_BYTES
                else:
                    kind, queue, method, call, length = _HEAD.unpack_from(piece, at)
                    at += _HEAD_BYTES
                    taken += _HEAD_BYTES
                if call > _MOST_CALL:
                    raise AgainstTheRules(f"a frame of call {call}")
                if length > self._longest:
                    raise AgainstTheRules(f"a frame of {length:,} bytes; max_message is {self._longest:,}")
                body_end = at + length
                if body_end > end:
                    self._head = (kind, queue, method, call)
                    self._missing = length
                    continue
                if cython.compiled:
                    body = PyBytes_FromStringAndSize(PyBytes_AS_STRING(piece) + at, length)
                else:
                    body = piece[at:body_end]
                if kind & _ENVELOPE:
                    body = _with_deadline(body, KEY_SIZE if kind & _KEYED else 0, now_ns)
                frames.append((kind, queue, method, call, body))
                at = body_end
                taken += length
            if at == end:
                self.waiting -= 1
                if self._pieces:
                    self._piece, at = self._pieces.popleft()
                else:
                    self._piece = b""
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
