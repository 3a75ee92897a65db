# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A session: what two shards of different nodes know of each other while they talk, from the first call to the end of all.
Policy only: no clock, no socket.

A broker carries messages at most once, and in the order of each publisher; it may lose them without a word, and either end may
be another process than a moment ago. Calls need more: that nothing is missing in between, and to know when something is. So
each end draws a random number for its session, and each message begins with 24 bytes, `<HHIIIQ`:

    version, flags     HELLO: no piece follows. BYE: the session that it names is over. CLOSE: a hello that would like to end
    it.                    HELD: one of who is about to be replaced: what is new is for its successor, which it says to all
    peers ours, theirs       the sender's session and the receiver's; theirs is 0 if it is not known yet
    number             of this message, from 1 on, modulo 2**32; of a hello, of the last one before it
    taken              how many bytes of the receiver's pieces the sender has taken in

    IDLE ──begin, or a hello──> OPENING ──a message that names our session──> OPEN ──close──> CLOSING
     ^                                                            <──a piece, or a hello──
     └────────────────────────── the end: see `Ended` ──────────────────────────────────────┘

The peer's number is adopted from a hello only. What names another session of ours is answered by a BYE, to which nobody
answers; so two ends that disagree come to rest, whatever is lost or late. A gap in the numbers, a number of bytes that was
never sent, silence, another session of the peer's: that is the end, as a broken ring is. A message that comes twice is passed
over.

Who has nothing to say says hello after a third of the time that is silence, with the number of its last message: else a message
that is lost and the last would never be missed, and its call would hang.

Who has had no call for long closes: the session ends when the peer, which has none either, says BYE; if it has one, it says
hello.

Windows: no more than `window` bytes are under way, sent and not taken in. They bound what a broker has to keep for a slow
subscriber, which it would cut off; credit, which counts calls and not bytes, does not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

if cython.compiled:
    from cython.cimports.clockworker.cluster._heads import cw_get_u16, cw_get_u32, cw_get_u64, cw_put_message_head
    from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize

VERSION = 1
HEAD = struct.Struct("<HHIIIQ")

DATA = 0
HELLO = 1
BYE = 2
CLOSE = 4 | HELLO
HELD = 8 | HELLO

IDLE = "idle"
OPENING = "opening"
OPEN = "open"
CLOSING = "closing"

# C globals when compiled.
_IDLE, _OPENING, _OPEN, _CLOSING = IDLE, OPENING, OPEN, CLOSING
_VERSION = VERSION
_DATA, _HELLO, _BYE, _CLOSE, _HELD = DATA, HELLO, BYE, CLOSE, HELD
_HEAD_BYTES = HEAD.size
_NUMBERS = (1 << 32) - 1  # messages' numbers begin again behind it
_HALF = 1 << 31

_NEXT: dict[str, frozenset[str]] = {
    IDLE: frozenset({OPENING}),
    OPENING: frozenset({OPEN, IDLE}),
    OPEN: frozenset({CLOSING, IDLE}),
    CLOSING: frozenset({OPEN, IDLE}),
}


class Ended(Exception):
    """The session is over. The message says why.

    kind: for statistics: "gap", "silence", "anew" (the peer has another session), "bye", "idle" (both wanted it), "rules",
        "version", "lost" (the broker is).
    again: whether what has come is to be heard once more, since it begins the next session.
    """

    def __init__(self, kind: str, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.again = again


@cython.final
@cython.cclass
class Session:
    """Of one shard with one other. draw: a random number from 1 to 2**32 - 1.

    state: see above. was_open: whether a piece may have reached the peer.
    owes: a hello has to go out, unless something else does. answers: messages that go out before all else.
    leaves: we are about to be replaced. is_held: the peer is.
    """

    window: int
    silence_ns: int
    state: str
    answers: list[bytes]
    leaves: bool
    is_held: bool
    owes: bool

    def __init__(self, window: int, silence_ns: int, draw: Callable[[], int]) -> None:
        self.window = window
        self.silence_ns = silence_ns
        self._draw = draw
        self.state = _IDLE
        self.answers: list[bytes] = []
        self.leaves = False
        self._reset()

    def _reset(self) -> None:
        self.ours = 0
        self.theirs = 0
        self.was_open = False
        self.is_held = False
        self.owes = False
        self.sent = 0  # the number of our last message
        self.received = 0  # and of the peer's
        self.sent_bytes = 0
        self.given_bytes = 0  # of these, taken in by the peer
        self.received_bytes = 0
        self.taken_bytes = 0  # of these, taken in by us
        self._told_bytes = 0  # of these, as the peer knows
        self.heard_ns = 0
        self.spoke_ns = 0

    def _go(self, state: str) -> None:
        if state not in _NEXT[self.state]:
            raise AssertionError(f"a session that is {self.state} does not become {state}")
        self.state = state

    # What we do

    def begin(self, now_ns: int) -> None:
        """We have something to say."""
        self._go(_OPENING)
        self._reset()
        self.ours = self._draw()
        self.heard_ns = self.spoke_ns = now_ns
        self.owes = True

    def room(self) -> int:
        """How many bytes may be sent now."""
        if self.state != _OPEN:
            return 0
        return self.window - (self.sent_bytes - self.given_bytes)

    def head(self, size: int, now_ns: int) -> bytes:
        """What a message with a piece of so many bytes begins with."""
        self.sent = (self.sent + 1) & _NUMBERS
        self.sent_bytes += size
        self._speaks(now_ns)
        return self._packed(_DATA)

    def hello(self, now_ns: int) -> bytes:
        """A message without a piece."""
        self._speaks(now_ns)
        return self._packed(_CLOSE if self.state == _CLOSING else _HELD if self.leaves else _HELLO)

    def _packed(self, flags: int) -> bytes:
        if cython.compiled:
            packed: bytes = PyBytes_FromStringAndSize(cython.NULL, _HEAD_BYTES)
            cw_put_message_head(
                PyBytes_AS_STRING(packed), _VERSION, flags, self.ours, self.theirs, self.sent, self.taken_bytes
            )
            return packed
        return HEAD.pack(_VERSION, flags, self.ours, self.theirs, self.sent, self.taken_bytes)

    def _speaks(self, now_ns: int) -> None:
        self.spoke_ns = now_ns
        self.owes = False
        self._told_bytes = self.taken_bytes

    def took(self, size: int) -> None:
        """So many bytes of the peer's have been taken in. It is told before it has to wait."""
        self.taken_bytes += size
        if self.taken_bytes - self._told_bytes >= self.window >> 2:
            self.owes = True

    def leave(self, now_ns: int) -> None:
        """We are about to be replaced, which the peer is told before all else."""
        self.leaves = True
        if self.state != _IDLE:
            self.answers.append(self.hello(now_ns))

    def close(self) -> None:
        """We should like to end it."""
        self._go(_CLOSING)
        self.owes = True

    def end(self) -> bytes | None:
        """It is over. Returns what tells the peer; None: there is nobody to be told."""
        if self.state == _IDLE:
            return None
        farewell = bye(self.theirs) if self.theirs else None
        self._over()
        return farewell

    def _over(self) -> None:
        self._go(_IDLE)
        self.ours = self.theirs = 0
        self.owes = False

    def _ended(self, kind: str, reason: str, again: bool = False, told: bool = True) -> Ended:
        """To be raised. told: the peer has to be."""
        farewell = self.end()
        if farewell is not None and told:
            self.answers.append(farewell)
        return Ended(kind, reason, again=again)

    # What time does

    def due_ns(self) -> int | None:
        """When `look` should be called next; None: nothing is waited for."""
        if self.state == _IDLE:
            return None
        return min(self.heard_ns + self.silence_ns, self.spoke_ns + self.silence_ns // 3)

    def look(self, now_ns: int) -> None:
        """Raises `Ended` if the peer has been silent for too long; else a hello may be owed."""
        if self.state == _IDLE:
            return
        if now_ns - self.heard_ns >= self.silence_ns:
            raise self._ended("silence", f"was not heard for {self.silence_ns / 1e9:g} s")
        if now_ns - self.spoke_ns >= self.silence_ns // 3:
            self.owes = True

    def slept(self, duration_ns: int) -> None:
        """We ourselves have heard nothing for so long, since we did not listen: that is no silence of the peer's."""
        self.heard_ns += duration_ns

    # What the peer does

    def hear(self, message: bytes, now_ns: int, agrees: bool = True) -> bool:
        """A message of the peer's. Returns whether what stands behind its head is a piece that is to be taken in. Raises
        `Ended`.

        agrees: whether we have no call either, should the peer want to close.
        """
        size = len(message)
        if size < _HEAD_BYTES:
            raise self._ended("rules", f"has sent a message of {size} bytes")
        if cython.compiled:
            at = PyBytes_AS_STRING(message)
            version = cw_get_u16(at)
            flags = cw_get_u16(at + 2)
            theirs = cw_get_u32(at + 4)
            ours = cw_get_u32(at + 8)
            number = cw_get_u32(at + 12)
            taken = cw_get_u64(at + 16)
        else:
            version, flags, theirs, ours, number, taken = HEAD.unpack_from(message)
        if version != _VERSION:
            raise self._ended("version", f"speaks version {version}, and we speak {_VERSION}", False, False)
        if flags == _BYE:
            if ours and ours == self.ours:
                closing = self.state == _CLOSING
                self._over()
                raise Ended("idle" if closing else "bye", "has ended its session")
            return False
        if flags not in (_DATA, _HELLO, _CLOSE, _HELD) or not theirs:
            raise self._ended("rules", f"has sent a message with flags {flags} in session {theirs}")
        if not ours:
            if flags in (_HELLO, _HELD):
                self._hear_beginning(theirs, now_ns)
                self.is_held = flags == _HELD
            return False
        if ours != self.ours:
            self.answers.append(bye(theirs))
            return False
        self._adopt(theirs, flags)
        self.heard_ns = now_ns
        if taken > self.sent_bytes:
            raise self._ended("rules", "has taken in more than was sent")
        self.given_bytes = max(self.given_bytes, taken)
        ahead = (
            number - self.received
        ) & _NUMBERS  # of a number that was heard before: more than half of all that there are
        if flags != _DATA:
            self.is_held = self.is_held or flags == _HELD
            if 0 < ahead < _HALF:
                raise self._ended("gap", f"has sent {ahead} messages that were lost")
            if flags == _CLOSE:
                if agrees and ahead == 0 and self.sent_bytes == self.given_bytes:
                    raise self._ended("idle", "has ended its session")
                self.owes = True
            elif self.state == _CLOSING:
                self._go(_OPEN)
            return False
        if ahead == 0 or ahead >= _HALF:
            return False
        if ahead != 1:
            raise self._ended("gap", f"has sent {ahead - 1} messages that were lost")
        if self.state == _CLOSING:
            self._go(_OPEN)
        self.received = number
        size -= _HEAD_BYTES
        self.received_bytes += size
        if self.received_bytes - self.taken_bytes > max(self.window, size) << 2:
            # Its own window may be another than ours, but not by so much.
            raise self._ended("rules", "has sent more than its window has room for")
        return True

    def _hear_beginning(self, theirs: int, now_ns: int) -> None:
        """The peer's hello, which knows of no session of ours."""
        if self.theirs not in (0, theirs):
            raise self._ended("anew", "has begun anew", True, False)
        if self.state == _IDLE:
            self.begin(now_ns)
        self.theirs = theirs
        self.heard_ns = now_ns
        self.owes = True

    def _adopt(self, theirs: int, flags: int) -> None:
        """It names our session: so the peer knows of it."""
        if not self.theirs:
            if flags == _DATA:
                raise self._ended("gap", "has sent a message whose hello was lost")
            self.theirs = theirs
            self.owes = True  # or the peer would not know that we know
        elif theirs != self.theirs:
            raise self._ended("anew", "has begun anew")
        if self.state == _OPENING:
            self._go(_OPEN)
            self.was_open = True


def bye(theirs: int) -> bytes:
    """What ends the peer's session."""
    return HEAD.pack(_VERSION, _BYE, 0, theirs, 0, 0)
