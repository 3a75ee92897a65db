"""A shard's counters, in memory that the supervisor reads without the shard's help: while it is stuck, after it died.

The memory is a memfd of 64-bit words: version, number of slots, sequence, then the slots. One process writes. It makes
the sequence odd, stores the slots and makes it even again; a reader copies the slots between two looks at the sequence
and takes the copy only if both were equal and even (a sequence lock, as in the kernel's vDSO clock). A writer killed
half-way leaves the sequence odd for ever: a reader then gets what is there after a bounded number of attempts, since
each slot by itself is stored whole.

Aligned 64-bit stores through a memoryview are single moves in CPython. Their order is the program's on x86; elsewhere a
torn set of counters is possible, a torn counter is not.
"""

from __future__ import annotations

import mmap
import os

import msgspec

VERSION = 1
_HEADER = 3
_SEQUENCE = 2
_ATTEMPTS = 1000


class Counts(msgspec.Struct, frozen=True):
    """One reading. Everything counts from the start of this incarnation of the shard, except for `*_open` and `*_ns`
    that name a moment. `written_ns` is the monotonic clock's time of the writing, 0 if there was none yet."""

    written_ns: int = 0
    connections_accepted: int = 0
    connections_open: int = 0
    handler_errors: int = 0
    polls: int = 0
    busy_ns: int = 0
    calls_local: int = 0
    calls_sent: int = 0
    calls_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    missed_wakeups: int = 0

    def summary(self) -> str:
        return (
            f"{self.connections_accepted} connections ({self.connections_open} open), {self.polls} polls, "
            f"{self.busy_ns / 1e9:.1f} s busy, calls: {self.calls_local} local, {self.calls_sent} sent, "
            f"{self.calls_received} received, missed wake-ups: {self.missed_wakeups}"
        )


SLOTS = Counts.__struct_fields__
_SIZE = 8 * (_HEADER + len(SLOTS))


def create_counters() -> int:
    """New counters, all zero: a memfd, close-on-exec."""
    descriptor = os.memfd_create("clockworker-counters", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _SIZE)
    with mmap.mmap(descriptor, _SIZE) as memory:
        words = memoryview(memory).cast("Q")
        words[0], words[1] = VERSION, len(SLOTS)
        words.release()
    return descriptor


class CounterWriter:
    """The shard's side: the only writer. Maps the descriptor, which stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._words = memoryview(self._memory).cast("Q")

    def write(self, counts: Counts) -> None:
        words = self._words
        words[_SEQUENCE] |= 1
        for index, value in enumerate(msgspec.structs.astuple(counts), _HEADER):
            words[index] = value
        words[_SEQUENCE] += 1

    def close(self) -> None:
        self._words.release()
        self._memory.close()


class CounterReader:
    """The supervisor's side. Maps the descriptor for reading only; it stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE, prot=mmap.PROT_READ)
        self._words = memoryview(self._memory).cast("Q")

    def read(self) -> Counts:
        words = self._words
        for _ in range(_ATTEMPTS):
            before = words[_SEQUENCE]
            counts = Counts(*words[_HEADER : _HEADER + len(SLOTS)])
            if before == words[_SEQUENCE] and not before & 1:
                break
        return counts

    def close(self) -> None:
        self._words.release()
        self._memory.close()
