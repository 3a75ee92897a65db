"""Until when this node owns what its view says, in memory that all its shards see: one word, which the supervisor writes and a
shard compares when a keyed call begins. A process that was stopped, or a machine that slept, looks before it does anything.

The word is the time in milliseconds of the clock that goes on while the machine sleeps (CLOCK_BOOTTIME), above the epoch's
lowest 20 bits. It is one store, so a reader never sees the time of one epoch with the number of another.
"""

from __future__ import annotations

import os
import time

from clockworker.ipc.rings._mapping import Mapping
from clockworker.ipc.rings._memory_cy import create_memory

_EPOCH_BITS = 20
_EPOCHS = (1 << _EPOCH_BITS) - 1
_BYTES = 4096


def boot_time() -> float:
    """Seconds of the clock of all that is compared with the fence."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def create_word() -> int:
    """A new one, by which nobody owns: a sealed memfd, close-on-exec."""
    return create_memory("fence", _BYTES)


class Word:
    """writable: the supervisor's side. The descriptor stays the caller's."""

    def __init__(self, descriptor: int, *, writable: bool = False) -> None:
        self._memory = Mapping(descriptor, writable=writable)
        self._words = self._memory.words

    def write(self, epoch: int, until: float) -> None:
        """until: by `boot_time`; 0: nothing is owned."""
        self._words[0] = max(0, int(until * 1000)) << _EPOCH_BITS | epoch & _EPOCHS

    def is_valid(self, epoch: int) -> bool:
        """Whether the node owns at this moment what the view of this epoch gives it."""
        word = self._words[0]
        return (
            word & _EPOCHS == epoch & _EPOCHS
            and time.clock_gettime_ns(time.CLOCK_BOOTTIME) < (word >> _EPOCH_BITS) * 1_000_000
        )

    def is_of(self, epoch: int) -> bool:
        """Whether it is about this epoch's view."""
        return self._words[0] & _EPOCHS == epoch & _EPOCHS

    def close(self) -> None:
        self._memory.close()


def take_word(descriptor: int) -> Word:
    """A shard's side, which needs the descriptor no more."""
    try:
        return Word(descriptor)
    finally:
        os.close(descriptor)
