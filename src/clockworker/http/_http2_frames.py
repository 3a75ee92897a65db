"""The frames of an HTTP/2 client, cut and weighed before h2 reads them.

h2 knows the protocol; what a client may cost is left to whoever uses it. It waits for a frame to be whole, up to the 16 MiB
that its head may announce, answers each PING and SETTINGS, and does not mind how often a stream is opened and reset. So the
bytes are cut into frames here first: one that is too long ends the connection before it is there, as does a head in too many
parts.

Frames that ask for nothing (PING, SETTINGS, RST_STREAM, empty DATA, ...) are paid for from a purse, which answered requests,
DATA that goes out and time fill again. A client that has nothing left in it is told to calm down. So no flood needs a rule of
its own, and none takes more of the loop's time than the purse pays for.

A client's GOAWAY is kept from h2, which would send nothing more after it: streams that are under way are still to be answered.
"""

from __future__ import annotations

from h2.errors import ErrorCodes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LONGEST_FRAME = 16_384  # bytes: SETTINGS_MAX_FRAME_SIZE, as it is unless said otherwise

MOST = 1_000  # in the purse, which begins full
RESET = 5  # what a stream costs that is reset, by either side
ANSWERED = 20  # what an answered request brings
SENT = 4  # a frame of DATA sent, for which a client may send several WINDOW_UPDATEs
A_SECOND = 100

_HEAD = 9  # bytes
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY, _CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x7, 0x9
_END_STREAM, _END_HEADERS, _PADDED = 0x1, 0x4, 0x8


class Abuse(Exception):
    """The client goes too far. code: for its GOAWAY."""

    def __init__(self, code: ErrorCodes, message: str) -> None:
        super().__init__(message)
        self.code = code


class Frames:
    """Those of one connection. most_in_head: bytes of a head, as they come, compressed.

    has_goaway: the client will open no more streams.
    """

    def __init__(self, most_in_head: int) -> None:
        self.has_goaway = False
        self._most_in_head = most_in_head
        self._data = bytearray()
        self._preface: bytes | None = PREFACE
        self._is_first = True
        self._head = 0  # bytes that have come of a head whose CONTINUATIONs are awaited
        self._purse: float = MOST

    def feed(self, data: bytes) -> None:
        self._data += data

    def end(self) -> None:
        """No more is taken, and nothing kept."""
        self._data.clear()
        self._head = 0

    def next(self) -> bytes | None:
        """The next whole frame, for h2; first the preface. None: it has not come. Raises Abuse."""
        data = self._data
        if self._preface is not None:
            if not self._preface.startswith(data[: len(PREFACE)]):
                raise Abuse(ErrorCodes.PROTOCOL_ERROR, "no preface of HTTP/2")
            if len(data) < len(PREFACE):
                return None
            preface, self._preface = self._preface, None
            del data[: len(PREFACE)]
            return preface
        while len(data) >= _HEAD:
            size = _HEAD + (data[0] << 16 | data[1] << 8 | data[2])
            if size > _HEAD + LONGEST_FRAME:
                raise Abuse(ErrorCodes.FRAME_SIZE_ERROR, f"a frame of {size - _HEAD} bytes")
            if len(data) < size:
                return None
            frame = bytes(data[:size])
            del data[:size]
            if frame[3] != _GOAWAY or size < _HEAD + 8 or frame[5:9] != b"\0\0\0\0" or self._head or self._is_first:
                self._weigh(frame)
                return frame
            self.has_goaway = True
        return None

    def _weigh(self, frame: bytes) -> None:
        kind, flags, size = frame[3], frame[4], len(frame) - _HEAD
        if self._is_first:
            self._is_first = False
            if kind != _SETTINGS:
                raise Abuse(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind in (_HEADERS, _CONTINUATION):
            self._head = 0 if flags & _END_HEADERS else self._head + size + 1
            if self._head > self._most_in_head:
                raise Abuse(ErrorCodes.ENHANCE_YOUR_CALM, f"a head of more than {self._most_in_head} bytes")
        elif kind == _DATA:
            if not flags & _END_STREAM and size <= (1 + frame[_HEAD] if size and flags & _PADDED else 0):
                self.spend(1)
        elif kind == _RST_STREAM:
            self.spend(RESET)
        else:
            self.spend(1 + size // 6 if kind == _SETTINGS else 1)  # a setting has 6 bytes

    def spend(self, cost: int) -> None:
        """Raises Abuse when nothing is left."""
        self._purse -= cost
        if self._purse < 0:
            raise Abuse(ErrorCodes.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def earn(self, amount: float) -> None:
        self._purse = min(self._purse + amount, MOST)

    @property
    def has_part(self) -> bool:
        """Whether a part of a frame has come, or of a head."""
        return bool(self._data or self._head)

    @property
    def has_part_of_head(self) -> bool:
        """Of a request's, as far as that can be told yet."""
        return bool(self._head) or (
            bool(self._data) and (len(self._data) < 4 or self._data[3] in (_HEADERS, _CONTINUATION))
        )

    @property
    def stream_of_part(self) -> int:
        """Whose DATA has come in part; 0: none."""
        data = self._data
        return int.from_bytes(data[5:9]) if len(data) >= _HEAD and data[3] == _DATA else 0
