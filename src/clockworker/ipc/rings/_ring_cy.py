# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""The ring: frames from one process to one other, in shared memory, without locks.

One producer, one consumer, a power of two of bytes. `tail` is how many bytes were ever written, `head` how many were ever
read; both only grow, and each has one writer. The producer writes the body and the header, then publishes them by one
release store of the tail. That store is the only act of publication: killed one instruction before it, nothing was sent.
The consumer loads the tail (acquire), so that what it finds below it is complete; copies the frame out; and gives the room
back by a release store of the head, after which the producer may overwrite it: its acquire load of the head keeps its
stores behind our reads.

Neither trusts the other. Positions and lengths are copied once into private variables, then checked, then used; a ring that
breaks the rules raises `PoisonedRing` and is dropped by both sides. A dead process's ring is never resumed.

A producer that finds no room says so in `stalls` (a count, its only writer is the producer), then looks once more, with a
full fence between. The consumer, having moved the head, fences and reads `stalls`: in every order at least one of the two
sees the other, so that a stalled producer is always told of room, by the doorbell.

It does so only where that is possible. No frame needs more than half of the ring, so a producer that waits for room has seen
a head that lies more than half of the ring behind its tail. The head at which the consumer last fenced was visible to whoever
has stalled since. So while the tail is no more than half of the ring beyond that one, nobody waits, or has published more
than the consumer has seen, and then there will be news. A ring that is not half full is read without a fence.

A frame is a header of three words, and a body padded to eight bytes. Both may wrap around the end; words never do.

    word 0   length of the body (bits 0-31), kind (32-39), the body goes on in the next frame (40), a skip (41); others: zero
    word 1   queue (bits 0-31), method (32-63)
    word 2   call; in a frame whose body goes on, the bytes of the body from this frame on

A body over a quarter of the ring goes in chunks, and no other frame comes between them. The first says how long the whole is,
so the consumer makes room for it once, and every byte is copied once in and once out. Chunks are much smaller than the ring,
so that one side copies in while the other copies out.

A ring that is walked around touches all of its pages, and they leave the cache. So the producer, when it is in the last
three quarters and the ring is empty, goes back to the beginning: it writes a skip, a header whose body is what lies before
the end, and publishes it with the next frame, by the same store. A ring whose reader keeps up uses little more than a
quarter. Earlier would be tighter, but what was skipped is no room until the reader has woken: this leaves a quarter to the
next burst. It looks every few thousandths of the ring, for the head is in the other core's cache, and at uneven distances,
so as not to keep step with batches. Positions still only grow.

Orderings, who pairs with whom, and what aarch64 makes of them (on x86-64 all but the fences are plain moves):

    tail    store-release after the frame (stlr)      load-acquire before reading it (ldar): the frame is seen whole
    head    store-release after copying out (stlr)    load-acquire before writing (ldar): nothing is written over what is read
    stalls  store, full fence (dmb ish), load head    store head, full fence (dmb ish), load stalls: not both see the old

The tail and the head need no more: what is published is always found by a later look, and nobody decides to sleep on them.
Stalls do, and a release store may pass a later load even in stlr and ldapr, which is why the fence is written out. The words
of the header are stored with release too, which is more than they need, and costs nothing on x86-64. models/ring.pml
takes only this much for granted, with -DWEAK.

Rejected: a slot per message (a size for all is wrong for all), a shared read-modify-write (one writer a word needs none),
and padding to the end instead of wrapping (a frame of a quarter of the ring could then need half).
"""

from __future__ import annotations

from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ClockworkerError
from clockworker.ipc.rings._memory_cy import SharedMemory, create_memory

if cython.compiled:
    from cython.cimports.clockworker.ipc.rings._memory_cy import new_bytes
else:
    from clockworker.ipc.rings._memory_cy import new_bytes

# Byte offsets. Each word that has a different writer is in a cache line of its own.
_MAGIC_AT = 0
_CAPACITY_AT = 8
_TAIL_AT = 64
_STALLS_AT = 72
_HEAD_AT = 128
_DATA_AT = 4096

_MAGIC = 0x32_474E_4952_5743  # "CWRING2"
_HEADER = 24
_LOW = 0xFFFFFFFF  # the lower half of a word
_GOES_ON = 1 << 8  # in the upper half of word 0, beside the kind
_SKIP = 1 << 9
_LARGEST_CHUNK = 1 << 16
MAX_MESSAGE = 1 << 24  # bytes of a body in chunks, unless the consumer is told otherwise
MIN_CAPACITY = 4096
MAX_CAPACITY = 1 << 30


class PoisonedRing(ClockworkerError):
    """The other side has broken the ring's rules."""


def create_ring(capacity: int) -> int:
    """The descriptor of a new ring for `capacity` bytes of frames, a power of two from 4 KiB to 1 GiB. ValueError for
    another."""
    if not MIN_CAPACITY <= capacity <= MAX_CAPACITY or capacity & (capacity - 1):
        raise ValueError(
            f"ring capacity is {capacity!r}; it must be a power of two from {MIN_CAPACITY} to {MAX_CAPACITY}"
        )
    descriptor = create_memory("ring", _DATA_AT + capacity)
    memory = SharedMemory(descriptor)
    memory.store(_CAPACITY_AT, capacity)
    memory.store(_MAGIC_AT, _MAGIC)
    memory.close()
    return descriptor


class _RingEnd:
    """What both ends keep: the memory, its geometry, and the last positions known."""

    def __init__(self, descriptor: int) -> None:
        self._memory = SharedMemory(descriptor)
        capacity = self._memory.load(_CAPACITY_AT) if self._memory.size > _DATA_AT else 0
        if self._memory.size != _DATA_AT + capacity or self._memory.load(_MAGIC_AT) != _MAGIC:
            self._memory.close()
            raise PoisonedRing("the descriptor is not that of a ring of this version")
        self.capacity = capacity
        self._mask = capacity - 1
        self._tail = self._memory.load(_TAIL_AT)
        self._head = self._memory.load(_HEAD_AT)
        # The peer may have been here first, and words are read at these positions: aligned, or they cross the end of the map.
        if self._tail < self._head or self._tail - self._head > capacity or (self._tail | self._head) & 7:
            self._memory.close()
            raise PoisonedRing(f"tail {self._tail} and head {self._head} are not positions in this ring")

    def close(self) -> None:
        """Unmap; the end must not be used afterwards."""
        self._memory.close()


@cython.final
@cython.cclass
class RingProducer(_RingEnd):
    """The end that writes."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._stalls = self._memory.load(_STALLS_AT)
        self._rewind_at = 0
        self._unfinished: bytes | None = None  # a body of which `_sent` bytes are in the ring
        self._sent = 0

    def push(self, kind: int, queue: int, method: int, call: int, body: bytes) -> bool:
        """Publish a frame. False if there is no room for it now.

        A body over a quarter of the capacity may be left with a part of it published, of which the other side should be told.
        The next frame to push must then be the same again, with the same body, until True; another is a ValueError.
        """
        left = len(body)
        if left > self.capacity >> 2 or self._unfinished is not None:
            if not self._push_chunks(kind, queue, method, body):
                return False
            left -= self._sent
            if not self._put(kind, queue, method, call, body, self._sent, left):
                return False
            self._unfinished = None
            self._sent = 0
            return True
        return self._put(kind, queue, method, call, body, 0, left)

    def published(self) -> int:
        """How many bytes were ever published: when it grows, the other side has something to look at, be it a part."""
        return self._tail

    def _push_chunks(self, kind: int, queue: int, method: int, body: bytes) -> bool:
        """All of the body but what the last frame takes, from where it was left."""
        if self._unfinished is None:
            self._unfinished = body
        elif self._unfinished is not body:
            raise ValueError(f"a body of {len(self._unfinished)} bytes is not all in the ring; push it again first")
        chunk = min(_LARGEST_CHUNK, self.capacity >> 2)
        while len(body) - self._sent > chunk:
            left = len(body) - self._sent
            if not self._put(kind | _GOES_ON, queue, method, left, body, self._sent, chunk):
                return False
            self._sent += chunk
        return True

    def _put(self, kind: int, queue: int, method: int, call: int, body: bytes, start: int, length: int) -> bool:
        """One frame, with `length` bytes of the body."""
        needed = _HEADER + ((length + 7) & ~7)
        tail = self._tail
        if tail >= self._rewind_at:
            tail = self._rewind(tail, needed)
        if needed > self.capacity - (tail - self._head):
            self._load_head()
            if needed > self.capacity - (tail - self._head):
                return False
        self._put_word(tail, length | kind << 32)
        self._put_word(tail + 8, queue | method << 32)
        self._put_word(tail + 16, call)
        offset = (tail + _HEADER) & self._mask
        first = min(length, self.capacity - offset)
        self._memory.write(_DATA_AT + offset, body, start, first)
        if first < length:
            self._memory.write(_DATA_AT, body, start + first, length - first)
        self._tail = tail + needed
        self._memory.store(_TAIL_AT, self._tail)
        return True

    def used(self) -> int:
        """Bytes that the consumer has not read yet."""
        return self._tail - self._memory.load(_HEAD_AT)

    def _rewind(self, tail: int, needed: int) -> int:
        """Where the next frame goes: the beginning if the ring is empty and far advanced, else the tail. Publishes nothing."""
        offset = tail & self._mask
        to_end = self.capacity - offset
        if offset < self.capacity >> 2:
            self._rewind_at = tail + (self.capacity >> 2) - offset
            return tail
        self._rewind_at = tail + (self.capacity >> 10) + ((tail * 0x9E37_79B9 >> 8) & ((self.capacity >> 9) - 1))
        if needed > self.capacity >> 4 or to_end < _HEADER:
            return tail
        self._load_head()
        if self._head != tail:
            return tail
        self._put_word(tail, (to_end - _HEADER) | _SKIP << 32)
        return tail + to_end

    def _load_head(self) -> None:
        head = self._memory.load(_HEAD_AT)
        if head < self._head or head > self._tail:
            raise PoisonedRing(f"head {head} is not between {self._head} and the tail {self._tail}")
        self._head = head

    def stall(self) -> None:
        """Ask to be told when there is room. The caller must try once more afterwards, before it relies on being told."""
        self._stalls += 1
        self._memory.store(_STALLS_AT, self._stalls)
        self._memory.fence()

    def _put_word(self, position: int, value: int) -> None:
        self._memory.store(_DATA_AT + (position & self._mask), value)


@cython.final
@cython.cclass
class RingConsumer(_RingEnd):
    """The end that reads. After `pop`, the fields `kind`, `queue`, `method` and `call` are those of the frame. While a body in
    chunks has come in part (`has_part`), the first three are that body's.

    max_message: bytes of the largest body in chunks; a peer that sends more breaks the rules.
    """

    def __init__(self, descriptor: int, max_message: int = MAX_MESSAGE) -> None:
        super().__init__(descriptor)
        self.kind = 0
        self.queue = 0
        self.method = 0
        self.call = 0
        self._stalls_seen = 0
        self._looked_at = self._head  # where the head was when we last looked for a stall, after a fence
        self._max_message = max_message
        self._message: Any = None  # a body of which `_received` bytes have come in chunks
        self._expected = 0
        self._received = 0
        self._until = 1 << 63

    def allow(self, count: int) -> None:
        """Let `pop` take `count` bytes of frames from here on, headers included, and the rest of the last frame; of a body in
        chunks that is a chunk. Without this there is no limit."""
        self._until = self._head + count

    def is_spent(self) -> bool:
        """Whether `pop` takes no more, because it has taken what it was allowed to."""
        return self._head >= self._until

    def has_part(self) -> bool:
        """Whether a part of a body has been taken."""
        return self._message is not None

    def pop(self) -> bytes | None:
        """The body of the next frame, or None if there is none, or it is not allowed now. Of one in chunks nothing is seen
        before it is whole."""
        if self._head >= self._until:
            return None
        skipped = False
        while True:
            head = self._head
            if head == self._tail:
                tail = self._memory.load(_TAIL_AT)
                if tail == head:
                    return None
                if tail < head or tail - head > self.capacity:
                    raise PoisonedRing(f"tail {tail} is not within {self.capacity} bytes of the head {head}")
                self._tail = tail
            available = self._tail - head
            if available < _HEADER:
                raise PoisonedRing(f"{available} bytes are left of a frame's header")
            word = self._word(head)
            length = word & _LOW
            needed = _HEADER + ((length + 7) & ~7)
            kind = word >> 32
            if kind == _SKIP and needed < available and not skipped:
                skipped = True
                self._until += needed
                self._release(head + needed)
                continue
            if kind >= _SKIP:
                raise PoisonedRing(f"a frame's first word is {word:#x}, and {available} bytes were published")
            if length > self.capacity >> 2 or needed > available:
                raise PoisonedRing(f"a frame claims {length} bytes, and {available} were published")
            word = self._word(head + 8)
            call = self._word(head + 16)
            if kind & _GOES_ON or self._message is not None:
                self._take_chunk(head, kind, call, length)
                self._release(head + needed)
                if kind & _GOES_ON:
                    self.kind = kind & ~_GOES_ON
                    self.queue = word & _LOW
                    self.method = word >> 32
                    if self._head >= self._until:
                        return None
                    continue
                body = self._message if cython.compiled else bytes(self._message)
                self._message = None
            else:
                offset = (head + _HEADER) & self._mask
                if length <= self.capacity - offset:
                    body = self._memory.read(_DATA_AT + offset, length)
                else:
                    whole = new_bytes(length)
                    self._copy(whole, 0, offset, length)
                    body = whole if cython.compiled else bytes(whole)
                self._release(head + needed)
            self.kind = kind
            self.queue = word & _LOW
            self.method = word >> 32
            self.call = call
            return body

    def _take_chunk(self, head: int, kind: int, call: int, length: int) -> None:
        """Copy a part of a body in chunks to its place."""
        if self._message is None:
            if call > self._max_message:
                raise PoisonedRing(f"a message of {call} bytes is over the limit of {self._max_message}")
            self._expected = call
            self._received = 0
            self._message = new_bytes(call)
        left = self._expected - self._received
        if kind & _GOES_ON:
            if call != left or not 0 < length < left:
                raise PoisonedRing(
                    f"a chunk of {length} bytes says that {call} are left of a message, where {left} are"
                )
        elif length != left:
            raise PoisonedRing(f"a message ends with {length} bytes, where {left} are left of it")
        self._copy(self._message, self._received, (head + _HEADER) & self._mask, length)
        self._received += length

    def _copy(self, target: Any, at: int, offset: int, length: int) -> None:
        """Bytes that may wrap around the end."""
        first = min(length, self.capacity - offset)
        self._memory.read_into(target, at, _DATA_AT + offset, first)
        if first < length:
            self._memory.read_into(target, at + first, _DATA_AT, length - first)

    def _release(self, head: int) -> None:
        """Give back the room before it."""
        self._head = head
        self._memory.store(_HEAD_AT, head)

    def producer_stalled(self) -> bool:
        """To be asked after popping: True, once for each stall, if the producer waits to hear of room."""
        if self._tail - self._looked_at <= self.capacity >> 1:
            return False
        self._memory.fence()
        self._looked_at = self._head
        stalls = self._memory.load(_STALLS_AT)
        if stalls == self._stalls_seen:
            return False
        self._stalls_seen = stalls
        return True

    def _word(self, position: int) -> int:
        return self._memory.load(_DATA_AT + (position & self._mask))
