"""NATS's protocol of clients: bytes in, what the server says out. Policy only: no socket, no clock.

A line says what it is, and ends in CRLF; a message's line says how many bytes follow, and CRLF once more:

    INFO {...}                                  of the server; again whenever that changes
    MSG subject sid [reply] size                a message for the subscription with that number
    HMSG subject sid [reply] head-size size     the same, whose first bytes are lines as in a mail
    PING, PONG, +OK, -ERR 'why'

What we say is the same in its way: CONNECT {...}, PUB and HPUB, SUB, UNSUB, PING, PONG.

What is not complete waits here for more. A body that comes in many parts is put together once, at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import msgspec

LONGEST_LINE = 1 << 20  # of an INFO, with all servers that there are
CRLF = b"\r\n"

PING = b"PING\r\n"
PONG = b"PONG\r\n"


class BrokenProtocol(Exception):
    """What has come is not what a NATS server says. The message says what it was."""


class Message(NamedTuple):
    subject: str
    sid: int
    reply: str | None
    head: bytes  # empty, if it has none
    body: bytes


class Info(msgspec.Struct, frozen=True):
    """What we use of what the server says of itself."""

    version: str = ""
    max_payload: int = 1 << 20
    headers: bool = False
    auth_required: bool = False
    tls_required: bool = False
    tls_available: bool = False
    nonce: str = ""
    cluster: str = ""
    connect_urls: list[str] = []  # msgspec copies it


class Pinged:
    """It asks whether we are there."""


class Ponged:
    """It has taken all that stands before our PING."""


class Refused(msgspec.Struct, frozen=True):
    """Something of ours, or our connection."""

    why: str


Event: TypeAlias = Message | Info | Pinged | Ponged | Refused

_PINGED = Pinged()
_PONGED = Ponged()
_INFO = msgspec.json.Decoder(Info)


class Parser:
    """Of one connection, from its beginning. largest: bytes of a message, at most."""

    def __init__(self, largest: int = 64 << 20) -> None:
        self._largest = largest
        self._parts: list[bytes] = []  # of what is not complete
        self._missing = 0  # bytes at least until it is; 0: until a line has ended
        self._head: tuple[str, int, str | None, int, int] | None = None  # of the message whose body is to come

    def is_within(self) -> bool:
        """Whether something is not complete."""
        return bool(self._parts) or self._head is not None

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes complete. Raises `BrokenProtocol`."""
        if self._parts or self._missing:
            self._parts.append(data)
            if self._missing > len(data):
                self._missing -= len(data)
                return []
            data = b"".join(self._parts)
            self._parts.clear()
            self._missing = 0
        events: list[Event] = []
        at, end = 0, len(data)
        while True:
            if self._head is not None:
                subject, sid, reply, head_size, size = self._head
                body_end = at + size
                if end < body_end + 2:
                    self._missing = body_end + 2 - end
                    break
                if data[body_end : body_end + 2] != CRLF:
                    raise BrokenProtocol(f"a message to {subject} that is not of {size} bytes, as its line says")
                body_at = at + head_size
                events.append(Message(subject, sid, reply, data[at:body_at], data[body_at:body_end]))
                self._head = None
                at = body_end + 2
            if at == end:
                return events
            line_end = data.find(CRLF, at)
            if line_end < 0:
                if end - at > LONGEST_LINE:
                    raise BrokenProtocol(f"a line of more than {LONGEST_LINE:,} bytes")
                break
            event = self._line(data[at:line_end])
            if event is not None:
                events.append(event)
            at = line_end + 2
        if at < end:
            self._parts.append(data[at:] if at else data)
        return events

    def _line(self, line: bytes) -> Event | None:
        try:
            if line.startswith(b"MSG "):
                match line[4:].decode().split():
                    case subject, sid, size:
                        self._expect(subject, int(sid), None, 0, int(size))
                    case subject, sid, reply, size:
                        self._expect(subject, int(sid), reply, 0, int(size))
                    case _:
                        raise ValueError
                return None
            if line.startswith(b"HMSG "):
                match line[5:].decode().split():
                    case subject, sid, head_size, size:
                        self._expect(subject, int(sid), None, int(head_size), int(size))
                    case subject, sid, reply, head_size, size:
                        self._expect(subject, int(sid), reply, int(head_size), int(size))
                    case _:
                        raise ValueError
                return None
            if line == b"PING":
                return _PINGED
            if line == b"PONG":
                return _PONGED
            if line == b"+OK":
                return None
            if line.startswith(b"-ERR"):
                return Refused(line[4:].decode().strip().strip("'"))
            if line.startswith(b"INFO "):
                return _INFO.decode(line[5:])
        except (ValueError, msgspec.MsgspecError):
            pass
        raise BrokenProtocol(f"{line[:80]!r}, which is nothing that a NATS server says")

    def _expect(self, subject: str, sid: int, reply: str | None, head_size: int, size: int) -> None:
        if not 0 <= head_size <= size:
            raise ValueError
        if size > self._largest:
            raise BrokenProtocol(f"a message of {size:,} bytes")
        self._head = (subject, sid, reply, head_size, size)


def connect(options: Mapping[str, object]) -> bytes:
    """What a client begins with, once it has the server's INFO."""
    return b"CONNECT %b\r\n" % msgspec.json.encode(options)


def subscribe(subject: str, sid: int) -> bytes:
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    return f"UNSUB {sid}\r\n".encode()


def publish(subject: str, size: int, reply: str = "") -> bytes:
    """What stands before a body of so many bytes, behind which is CRLF."""
    return f"PUB {subject} {reply} {size}\r\n".encode() if reply else f"PUB {subject} {size}\r\n".encode()


def publish_with_head(subject: str, reply: str, head: Mapping[str, str], size: int) -> bytes:
    """The same with a head, whose lines are names and values."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    written = f"NATS/1.0\r\n{lines}\r\n".encode()
    return b"HPUB %b %b %d %d\r\n%b" % (subject.encode(), reply.encode(), len(written), len(written) + size, written)


def status_of(head: bytes) -> int:
    """What a message's head says in place of an answer: 503 if nobody has heard the question. 0: nothing."""
    first = head.partition(CRLF)[0].split()
    return int(first[1]) if len(first) > 1 and first[0].startswith(b"NATS/") and first[1].isdigit() else 0


def lines_of(head: bytes) -> dict[str, str]:
    """Its names and values; of those that are there twice, the last."""
    found = {}
    for line in head.split(CRLF)[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.decode().strip()] = value.decode().strip()
    return found
