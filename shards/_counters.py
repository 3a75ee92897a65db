"""A shard's counters, in memory that the supervisor reads without the shard's help: while it is stuck, after it died.

The memory is a memfd of 64-bit words: version, number of slots, sequence, then two sets of slots. One process writes.
It fills the set that the sequence does not point at (by its lowest bit) and then adds one to the sequence, which is the
only act of publication. A reader copies the set pointed at, and takes the copy if the sequence is still the same: the
writer cannot have touched that set meanwhile. This is the kernel's `seqcount_latch`. With a plain sequence lock, which
was tried, a writer that is killed or merely not running half-way leaves readers without a whole set; here the one
before is always there.

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
_SIZE = 8 * (_HEADER + 2 * len(SLOTS))


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
        sequence = words[_SEQUENCE] + 1
        for index, value in enumerate(msgspec.structs.astuple(counts), _first_slot(sequence)):
            words[index] = value
        words[_SEQUENCE] = sequence

    def close(self) -> None:
        self._words.release()
        self._memory.close()


class CounterReader:
    """The supervisor's side. Maps the descriptor for reading only; it stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE, prot=mmap.PROT_READ)
        self._words = memoryview(self._memory).cast("Q")

    def read(self) -> Counts:
        """The newest set. A failed attempt means that another set was published during it; a writer that does nothing
        else is not waited for without end."""
        words = self._words
        for _ in range(_ATTEMPTS):
            sequence = words[_SEQUENCE]
            first = _first_slot(sequence)
            counts = Counts(*words[first : first + len(SLOTS)])
            if words[_SEQUENCE] == sequence:
                break
        return counts

    def close(self) -> None:
        self._words.release()
        self._memory.close()


def _first_slot(sequence: int) -> int:
    return _HEADER + (sequence & 1) * len(SLOTS)
