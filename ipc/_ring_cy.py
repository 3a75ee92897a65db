# cython: language_level=3, annotation_typing=False, auto_pickle=False
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

A frame is a header of three words, and a body padded to eight bytes. Both may wrap around the end; words never do.

    word 0   length of the body (bits 0-31), kind (32-39); bits 40-63 are zero
    word 1   queue (bits 0-31), method (32-63)
    word 2   call

Rejected: a slot per message (a size for all is wrong for all), a shared read-modify-write (one writer a word needs none),
and padding to the end instead of wrapping (a frame of a quarter of the ring could then need half).
"""

from __future__ import annotations

from clockworker._errors import ClockworkerError
from clockworker.ipc._memory_cy import SharedMemory, create_memory

# Byte offsets. Each word that has a different writer is in a cache line of its own.
_MAGIC_AT = 0
_CAPACITY_AT = 8
_TAIL_AT = 64
_STALLS_AT = 72
_HEAD_AT = 128
_DATA_AT = 4096

_MAGIC = 0x31_474E_4952_5743  # "CWRING1"
_HEADER = 24
_LOW = 0xFFFFFFFF  # the lower half of a word
MIN_CAPACITY = 4096
MAX_CAPACITY = 1 << 30


class PoisonedRing(ClockworkerError):
    """The other side has broken the ring's rules."""


def create_ring(capacity: int) -> int:
    """The descriptor of a new ring for `capacity` bytes of frames, a power of two from 4 KiB to 1 GiB."""
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


class RingProducer(_RingEnd):
    """The end that writes."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._stalls = self._memory.load(_STALLS_AT)

    def push(self, kind: int, queue: int, method: int, call: int, body: bytes) -> bool:
        """Publish a frame. False if there is no room for it now. A body over a quarter of the capacity is a ValueError."""
        length = len(body)
        if length > self.capacity >> 2:
            raise ValueError(f"a body of {length} bytes is over a quarter of the ring's {self.capacity}")
        needed = _HEADER + ((length + 7) & ~7)
        tail = self._tail
        if needed > self.capacity - (tail - self._head):
            head = self._memory.load(_HEAD_AT)
            if head < self._head or head > tail:
                raise PoisonedRing(f"head {head} is not between {self._head} and the tail {tail}")
            self._head = head
            if needed > self.capacity - (tail - head):
                return False
        self._put_word(tail, length | kind << 32)
        self._put_word(tail + 8, queue | method << 32)
        self._put_word(tail + 16, call)
        offset = (tail + _HEADER) & self._mask
        first = min(length, self.capacity - offset)
        self._memory.write(_DATA_AT + offset, body, 0, first)
        if first < length:
            self._memory.write(_DATA_AT, body, first, length - first)
        self._tail = tail + needed
        self._memory.store(_TAIL_AT, self._tail)
        return True

    def stall(self) -> None:
        """Ask to be told when there is room. The caller must try once more afterwards, before it relies on being told."""
        self._stalls += 1
        self._memory.store(_STALLS_AT, self._stalls)
        self._memory.fence()

    def _put_word(self, position: int, value: int) -> None:
        self._memory.store(_DATA_AT + (position & self._mask), value)


class RingConsumer(_RingEnd):
    """The end that reads. After `pop`, the fields `kind`, `queue`, `method` and `call` are those of the frame."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.kind = 0
        self.queue = 0
        self.method = 0
        self.call = 0
        self._stalls_seen = 0

    def pop(self) -> bytes | None:
        """The body of the next frame, or None if there is none."""
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
        if length > self.capacity >> 2 or needed > available:
            raise PoisonedRing(f"a frame claims {length} bytes, and {available} were published")
        self.kind = word >> 32
        word = self._word(head + 8)
        self.queue = word & _LOW
        self.method = word >> 32
        self.call = self._word(head + 16)
        offset = (head + _HEADER) & self._mask
        first = min(length, self.capacity - offset)
        body = self._memory.read(_DATA_AT + offset, first)
        if first < length:
            body += self._memory.read(_DATA_AT, length - first)
        self._head = head + needed
        self._memory.store(_HEAD_AT, self._head)
        return body

    def producer_stalled(self) -> bool:
        """To be asked after popping: True, once for each stall, if the producer waits to hear of room."""
        self._memory.fence()
        stalls = self._memory.load(_STALLS_AT)
        if stalls == self._stalls_seen:
            return False
        self._stalls_seen = stalls
        return True

    def _word(self, position: int) -> int:
        return self._memory.load(_DATA_AT + (position & self._mask))
