"""Requests: bytes of a connection in, commands out.

The whole, canonical requests at the start of a chunk are taken apart by `bytes.split` and slices. What comes after
them (the tail of a chunk, an inline command, a value with CR LF in it, a malformed header) goes through a state machine
that follows Redis's own reader step by step, its limits and its error texts included.

hiredis was tried and left out. It reads *replies*: it takes `+PING`, `:1`, nested arrays and maps for arguments, and
allocates an array of the length that a header merely announces (`*4000000000` is 32 GB). Making sure that what it read
was a request (encoding it again and comparing) costs more than it saves: 0.70-0.85 µs a command against 0.88-1.01 for
the split with 16 pipelined commands, 2.7 against 1.2 with one.
"""

from __future__ import annotations

import re

MAX_BULK = 8 << 20
"""Redis's proto-max-bulk-len: the longest argument, and the longest value that APPEND may make. Bytes."""
MAX_ARGUMENTS = 1 << 20
MAX_REQUEST = 12 << 20
"""All arguments of a request together, in bytes. With its overhead it fits in one message between shards (16 MiB)."""
MAX_LINE = 64 << 10
"""Redis's PROTO_INLINE_MAX_SIZE: how far to look for the end of a line. Bytes."""

_COUNTS = {b"*%d" % number: number for number in range(1, 1025)}
# Of every argument that fits in a chunk: looking a header up takes half as long as formatting it.
_HEADERS = [b"$%d" % number for number in range(64 << 10)]
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


class RequestError(Exception):
    """The client broke the protocol; the text is Redis's."""


def parse_integer(text: bytes) -> int | None:
    """A signed 64-bit integer in the one spelling that Redis takes: no plus sign, no leading zeros, no spaces."""
    if _INTEGER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if -(1 << 63) <= number < 1 << 63 else None


class RequestReader:
    """Reads the requests of one connection. Once `error` is set the connection has to be closed."""

    def __init__(self) -> None:
        self.error: str | None = None
        self._pending = bytearray()  # not yet understood; never a complete request
        self._arguments: list[bytes] = []  # of the request that is being read
        self._missing = 0  # arguments that it still lacks
        self._size = 0  # bytes in `_arguments`
        self._bulk = -1  # length of the argument being read; -1 when its header has not come

    def feed(self, data: bytes) -> list[list[bytes]]:
        """The requests that `data` completes, in order: if `error` is set now, those before the mistake."""
        requests: list[list[bytes]] = []
        try:
            if self._pending or self._missing:
                self._pending += data
                self._read(requests, 1)
                if not requests:
                    return requests
                data = bytes(self._pending)
                self._pending.clear()
            # Once a chunk: splitting what follows each odd request again would take quadratic time.
            self._pending += _split(data, requests)
            self._read(requests, len(data))
        except RequestError as error:
            self.error = str(error)
        return requests

    def _read(self, requests: list[list[bytes]], limit: int) -> None:
        """Move no more than `limit` requests from what is pending.

        Redis's processInputBuffer, processInlineBuffer and processMultibulkBuffer in one.
        """
        buffer, position = self._pending, 0
        limit += len(requests)
        try:
            while position < len(buffer) and len(requests) < limit:
                if not self._missing:
                    if buffer[position] != ord("*"):
                        if (end := _find(buffer, b"\n", position)) < 0:
                            return _check_line(buffer, position, "too big inline request")
                        line = bytes(buffer[position:end])
                        position = end + 1
                        if arguments := split_inline(line.removesuffix(b"\r")):
                            requests.append(arguments)
                        continue
                    if (end := _line_end(buffer, position)) < 0:
                        return _check_line(buffer, position, "too big mbulk count string")
                    count = parse_integer(bytes(buffer[position + 1 : end]))
                    if count is None or count > MAX_ARGUMENTS:
                        raise RequestError("invalid multibulk length")
                    position = end + 2
                    self._missing = max(count, 0)
                    continue
                if self._bulk < 0:
                    if (end := _line_end(buffer, position)) < 0:
                        return _check_line(buffer, position, "too big bulk count string")
                    if buffer[position] != ord("$"):
                        raise RequestError(f"expected '$', got '{chr(buffer[position])}'")
                    length = parse_integer(bytes(buffer[position + 1 : end]))
                    if length is None or not 0 <= length <= MAX_BULK:
                        raise RequestError("invalid bulk length")
                    self._size += length
                    if self._size > MAX_REQUEST:
                        raise RequestError("too big request")
                    position = end + 2
                    self._bulk = length
                end = position + self._bulk
                if len(buffer) < end + 2:
                    return None
                self._arguments.append(bytes(memoryview(buffer)[position:end]))
                position = end + 2
                self._bulk = -1
                self._missing -= 1
                if not self._missing:
                    requests.append(self._arguments)
                    self._arguments = []
                    self._size = 0
        finally:
            del buffer[:position]


def _split(data: bytes, requests: list[list[bytes]]) -> bytes:
    """Move the whole requests in canonical form at the start of `data` to `requests`; the rest is returned.

    An argument's own length must be the one that its header announces, so a CR LF inside an argument, which splits it
    in two, can't pass for anything else.
    """
    if len(data) > len(_HEADERS):
        return data
    lines = data.split(b"\r\n")
    position, last = 0, len(lines) - 1
    while position < last:
        end = position + 1 + 2 * _COUNTS.get(lines[position], last)
        if end > last:
            break
        arguments = lines[position + 2 : end : 2]
        if [_HEADERS[len(argument)] for argument in arguments] != lines[position + 1 : end : 2]:
            break
        requests.append(arguments)
        position = end
    return b"\r\n".join(lines[position:])


def _find(buffer: bytearray, byte: bytes, position: int) -> int:
    """Where `byte` is next, or -1. As strchr, which Redis uses: a NUL hides what comes after it."""
    end = buffer.find(byte, position)
    return -1 if end < 0 or buffer.find(b"\0", position, end) >= 0 else end


def _line_end(buffer: bytearray, position: int) -> int:
    """Where the CR of this line is, or -1 unless the byte after it, whatever it be, has come too."""
    end = _find(buffer, b"\r", position)
    return -1 if end + 2 > len(buffer) else end


def _check_line(buffer: bytearray, position: int, message: str) -> None:
    if len(buffer) - position > MAX_LINE:
        raise RequestError(message)


_TOKEN = re.compile(
    rb"""(?P<plain>[^ \n\r\t"']+)
       | "(?P<double>(?:[^"\\]|\\.)*+)"(?=\s|$)
       | '(?P<single>(?:\\'|[^'])*+)'(?=\s|$)""",
    re.VERBOSE | re.DOTALL,
)
_SPACE = re.compile(rb"[ \t\n\r\v\f]*")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)


def split_inline(line: bytes) -> list[bytes]:
    """The arguments of an inline command, as Redis's sdssplitargs finds them. RequestError if quotes are unbalanced."""
    arguments = []
    position = _skip_space(line, 0)
    while position < len(line):
        argument = b""
        while token := _TOKEN.match(line, position):
            position = token.end()
            argument += _unquote(token)
            if token.lastgroup != "plain":
                break  # a closing quote ends the argument
        if position < len(line) and line[position] in b"\"'":
            raise RequestError("unbalanced quotes in request")
        arguments.append(argument)
        position = _skip_space(line, position)
    return arguments


def _skip_space(line: bytes, position: int) -> int:
    space = _SPACE.match(line, position)
    return space.end() if space else position


def _unescape(escape: re.Match[bytes]) -> bytes:
    code, letter = escape.groups()
    return _ESCAPES.get(letter, letter) if code is None else bytes([int(code, 16)])


def _unquote(token: re.Match[bytes]) -> bytes:
    if token.lastgroup == "double":
        return _ESCAPE.sub(_unescape, token["double"])
    if token.lastgroup == "single":
        return token["single"].replace(b"\\'", b"'")
    return token["plain"]
