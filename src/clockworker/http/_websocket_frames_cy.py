# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Frames of WebSockets, to and from messages.

Most frames are whole messages that are not compressed. These are framed here, in both directions, which takes far less. The
others go to the protocol of `websockets`, frame by frame, so that it is always at the beginning of one; it also answers pings
and closes. Fragments are joined as they come, and what is compressed is inflated here, piece by piece.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from clockworker.http._websocket_deflate import EMPTY_BLOCK, OFFERED, Deflate

if cython.compiled:
    from cython.cimports.clockworker.http._mask import xor

PLAIN_TEXT, PLAIN_BINARY = 0x81, 0x82  # how a frame begins that is a whole message, as it is
AT_ONCE = 256  # plain messages that are parsed in one go
_AT_ONCE = AT_ONCE  # for C
_DEAR = 16  # a frame that goes to the protocol takes as long as so many
_INFLATED = 65_536  # bytes at once
_A_MESSAGE = 1_024  # inflated bytes that take as long as one
_LONGEST = 1 << 62  # bytes: a client may name up to 2^64, which the protocol refuses whatever its limit
_SHORT_TEXT = [bytes((PLAIN_TEXT, size)) for size in range(126)]
_SHORT_BINARY = [bytes((PLAIN_BINARY, size)) for size in range(126)]
_CONT, _TEXT, _BINARY, _PONG = Opcode.CONT, Opcode.TEXT, Opcode.BINARY, Opcode.PONG

# What `websockets` itself has to say: each frame if this is set to DEBUG. That connections open and close is said elsewhere.
_frames = logging.getLogger("clockworker.websocket.frames")
if _frames.level == logging.NOTSET:
    _frames.setLevel(logging.WARNING)


def new_protocol(most: int, deflate: bool) -> ServerProtocol:
    """Of an open WebSocket. most: bytes of a message. deflate: whether it may be compressed, if the client offers that."""
    return ServerProtocol(state=OPEN, extensions=OFFERED if deflate else None, max_size=most, logger=_frames)


@cython.final
@cython.cclass
class FrameReader:
    """What a client sends, as messages.

    take(message) is called with each, as text or bytes; pong(data) for each pong; answer(writes) with what the protocol has to
    say itself: a pong, or the end. All three from within `feed`.

    most: bytes of a message. effort: what has been parsed, in plain messages; who feeds sets it back. At `AT_ONCE` it stops,
    and `has_more` says so: `feed` goes on, with nothing new as well. rest: bytes still to come of a frame of which
    the protocol has the beginning. wanted: whether messages are still passed on. ended: nothing more is parsed.
    """

    effort: int
    has_more: bool
    rest: int
    wanted: bool
    ended: bool
    parts: bytearray | None
    _protocol: ServerProtocol
    _most: int
    _take: Callable[[str | bytes], None]
    _pong: Callable[[bytes], None]
    _answer: Callable[[list[bytes]], None]
    _is_text: bool
    _deflated: bytes  # of a frame, what is not inflated yet
    _inflates: bool  # has one of which something is not inflated
    _is_last: bool  # the frame that is inflated is its message's last
    _head: bytes  # what is not parsed yet: the beginning of a frame, which does not say how long it is; or more

    def __init__(
        self,
        protocol: ServerProtocol,
        most: int,
        *,
        take: Callable[[str | bytes], None],
        pong: Callable[[bytes], None],
        answer: Callable[[list[bytes]], None],
    ) -> None:
        self.effort = 0
        self.has_more = False
        self.rest = 0
        self.wanted = True
        self.ended = False
        self.parts = None
        self._protocol = protocol
        self._most = most
        self._take = take
        self._pong = pong
        self._answer = answer
        self._is_text = False
        self._deflated = b""
        self._inflates = False
        self._is_last = False
        self._head = b""

    def release(self) -> None:
        """Nothing is called any more. Not from within `feed`."""
        self.ended = True
        self._take = self._pong = self._answer = _nobody
        self._deflated = self._head = b""
        self.parts = None
        self._protocol.parser.close()  # its generator holds the protocol, as does what ended it
        self._protocol.parser_exc = None

    def feed(self, data: bytes) -> None:
        """What has come, which may begin and end anywhere."""
        if self._head:
            data = self._head + data
            self._head = b""
        self.has_more = False
        if self._inflates:
            self._inflate()
            if self._inflates:
                self._head = data
                self.has_more = True
                return
        size = len(data)
        at = 0
        if self.rest:
            at = min(self.rest, size)
            self.rest -= at
            self._pass_on(data[:at])
        while at < size and not self.ended:
            if self._inflates or self.effort >= _AT_ONCE:
                self._head = data[at:]
                self.has_more = True
                return
            first = data[at]
            second = data[at + 1] if at + 2 <= size else 0
            length = second & 127
            body = at + (6 if length < 126 else 8 if length == 126 else 14)
            if body > size:
                self._head = data[at:]
                return
            if length == 126:
                length = (data[at + 2] << 8) + data[at + 3]
            elif length == 127:
                length = min(int.from_bytes(data[at + 2 : at + 10], "big"), _LONGEST)
            end = body + length
            if (
                first in (0x81, 0x82)  # PLAIN_TEXT, PLAIN_BINARY: numbers, so that C compares them
                and second >= 128
                and length <= self._most  # first: `end` has no meaning for what no frame can have
                and end <= size
                and self.parts is None
            ):
                self.effort += 1
                self._is_text = first == 0x81
                self._complete(unmasked(data, body, end))
            else:
                self.effort += _DEAR
                if end > size:
                    self.rest = end - size
                    end = size
                self._pass_on(data[at:end])
            at = end
        self.has_more = self._inflates

    def _pass_on(self, data: bytes) -> None:
        """To the protocol."""
        protocol = self._protocol
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            opcode = frame.opcode
            if opcode is _TEXT or opcode is _BINARY:
                self._is_text = opcode is _TEXT
                if self._is_deflated():
                    self.parts = bytearray()
                    self._begin_to_inflate(frame)
                elif frame.fin:
                    self._complete(frame.data)
                else:
                    self.parts = bytearray(frame.data)
            elif opcode is _CONT:
                assert self.parts is not None
                if self._is_deflated():
                    self._begin_to_inflate(frame)
                    continue
                self.parts += frame.data
                if frame.fin:
                    whole, self.parts = self.parts, None
                    self._complete(whole)
            elif opcode is _PONG:
                self._pong(bytes(frame.data))
        if writes := protocol.data_to_send():
            self._answer(writes)

    def _is_deflated(self) -> bool:
        extensions = self._protocol.extensions
        return bool(extensions) and extensions[0].is_deflated  # type: ignore[attr-defined]

    def _begin_to_inflate(self, frame: Any) -> None:
        if self.wanted:
            self._is_last = frame.fin
            self._deflated = bytes(frame.data) + EMPTY_BLOCK if frame.fin else bytes(frame.data)
            self._inflates = True
            self._inflate()

    def _inflate(self) -> None:
        """What may be done in one go."""
        deflate: Deflate = self._protocol.extensions[0]  # type: ignore[assignment]
        decoder = deflate.decoder
        parts = self.parts
        assert parts is not None
        while True:
            try:
                piece = decoder.decompress(self._deflated, _INFLATED)
            except zlib.error:
                self._fail(CloseCode.PROTOCOL_ERROR, "decompression failed")
                return
            self._deflated = decoder.unconsumed_tail
            size = len(piece)
            parts += piece
            if len(parts) > self._most:
                self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message of more than {self._most} bytes")
                return
            self.effort += size // _A_MESSAGE
            if size < _INFLATED and not self._deflated:
                break
            if self.effort >= _AT_ONCE:
                return
        self._inflates = False
        if self._is_last:
            deflate.end()
            self.parts = None
            self._complete(parts)

    def _fail(self, code: CloseCode, reason: str) -> None:
        self._inflates = False
        self._deflated = b""
        self.parts = None
        self._protocol.fail(code, reason)
        self._answer(self._protocol.data_to_send())

    def _complete(self, data: Any) -> None:
        """A message, in one frame or in many."""
        if not self.wanted:
            return
        message: str | bytes
        if self._is_text:
            try:
                message = str(data, "utf-8")
            except UnicodeDecodeError as error:
                self._fail(CloseCode.INVALID_DATA, f"{error.reason} at position {error.start}")
                return
        else:
            message = bytes(data)
        self._take(message)


def _nobody(what: object) -> None:
    pass


def plain_frame(first: int, data: bytes) -> bytes:
    """A whole message as it is. first: PLAIN_TEXT or PLAIN_BINARY."""
    size = len(data)
    if size < 126:
        return (_SHORT_TEXT if first == 0x81 else _SHORT_BINARY)[size] + data
    if size < 65_536:
        return bytes((first, 126, size >> 8, size & 255)) + data
    return bytes((first, 127)) + size.to_bytes(8, "big") + data


def unmasked(data: bytes, at: int, end: int) -> bytes:
    """What a client has sent from `at` to `end`, which it has to mask, by the four bytes before."""
    if cython.compiled:
        return xor(data, at, end)  # type: ignore[no-any-return]
    size = end - at
    key = (data[at - 4 : at] * (size // 4 + 1))[:size]
    return (int.from_bytes(data[at:end], "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
