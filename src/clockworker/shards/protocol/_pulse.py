"""The pulse of a shard: a word in shared memory that its event loop writes as long as it turns. The supervisor reads it
without the shard's help. Beside it are more that must be read so: how often it will be written (`_rest`), and for each line on
which connections are handed to the shard, how many it has taken, and how many of them it has open.

There is a last resort, too. DUMP_SIGNAL has the handler of `faulthandler`, which needs no interpreter lock: it writes file,
line and function of each frame into a second memfd, even while C code keeps every thread of the shard from running. Whoever
does not even do that has been stopped. The second one has to be cut to nothing before each dump, so that it can't be sealed;
nobody maps it, and reading what somebody else has cut short is no more than the end of a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Callable
from itertools import takewhile

from clockworker.executor import Executor
from clockworker.ipc.rings._mapping import Mapping
from clockworker.ipc.rings._memory_cy import create_memory, order
from clockworker.shards.machine._heritage import widen_signal_stack
from clockworker.shards.protocol._rest import BEAT_S, Rest, next_tick

DUMP_SIGNAL = getattr(signal, "SIGRTMIN", 34) + 6  # imported on other systems than Linux, too, and of no use there

_PAGE = 4096
_BEAT, _PACE, _COUNTS = range(3)  # words; the first two in ns, of the monotonic clock
_WORD = 8  # bytes
_MAX_DUMP = 32 * 1024


def create_pulse(lines: int = 0) -> int:
    """A new pulse, without a beat yet: a sealed memfd, close-on-exec. lines: how many connections are handed over on."""
    return create_memory("pulse", -(-(_COUNTS + 2 * lines) * _WORD // _PAGE) * _PAGE)


def create_dump() -> int:
    """Where the signal's handler writes: a memfd, close-on-exec."""
    return os.memfd_create("clockworker-dump", os.MFD_CLOEXEC)


def stop_dumping() -> None:
    """In a process that is none of ours any more: the signal has its default action again."""
    faulthandler.unregister(DUMP_SIGNAL)


class PulseReader:
    """The supervisor's side. The descriptors stay the caller's; the dump's has to stay open."""

    def __init__(self, descriptor: int, dump: int) -> None:
        self._dump = dump
        self._memory = Mapping(descriptor, writable=False)
        self._words = self._memory.words

    @property
    def beat(self) -> float:
        """Monotonic time in seconds of the loop's last turn that it has written; 0 before the first and after the last."""
        return self._words[_BEAT] / 1e9

    @property
    def pace(self) -> float:
        """Seconds in which the next may be expected. To be read before `beat`: what is written last is what shortens it."""
        pace = self._words[_PACE] / 1e9
        order()
        return pace

    def taken(self, line: int) -> int:
        """How many connections the shard has taken from this line of the supervisor's. To be read before `open`."""
        taken = self._words[_COUNTS + 2 * line]
        order()
        return taken

    def open(self, line: int) -> int:
        """How many of them are open."""
        return self._words[_COUNTS + 2 * line + 1]

    def clear_dump(self) -> None:
        """Make room for what the signal's handler writes. The position in the file is shared with the shard."""
        with contextlib.suppress(OSError):  # the shard may have sealed it
            os.ftruncate(self._dump, 0)
            os.lseek(self._dump, 0, os.SEEK_SET)

    def read_dump(self) -> str:
        """The stack that the handler has written, innermost frame first, as far as it is not ours; empty if it has not
        run."""
        try:
            text = os.pread(self._dump, _MAX_DUMP, 0).decode(errors="replace")
        except OSError:
            return ""
        _, *frames = text.splitlines() or [""]
        return "\n".join(takewhile(lambda line: f'"{asyncio.runners.__file__}"' not in line, frames))

    def close(self) -> None:
        self._memory.close()


class Pulse:
    """The shard's side. Beats from when `start` is called on its loop until `stop`. Owns the descriptors.

    pace: seconds between two beats while the shard rests.
    """

    def __init__(self, descriptor: int, dump: int, pace: float) -> None:
        self._pace = pace
        self._file = os.fdopen(dump, "rb+", buffering=0)
        self._memory = Mapping(descriptor)
        os.close(descriptor)
        self._words = self._memory.words
        faulthandler.register(DUMP_SIGNAL, file=self._file, all_threads=False)
        widen_signal_stack()

    def fileno(self) -> int:
        return self._file.fileno()

    def start(self, executor: Executor, changed: Callable[[bool], None]) -> None:
        """changed: told whether the shard rests, whenever that changes; at first it does not."""
        self._loop = asyncio.get_running_loop()
        self._executor = executor
        self._changed = changed
        self._rest = Rest()
        self._resting = False
        self._words[_PACE] = round(BEAT_S * 1e9)
        self._beat()

    def stop(self) -> None:
        """The loop ends. What comes after it is under the supervisor's other limits."""
        self._executor.when_stirred(None)
        self._next.cancel()
        self._words[_BEAT] = 0

    def write_connections(self, line: int, taken: int, open: int) -> None:
        """In between the supervisor may count one connection too many, never one too few."""
        self._words[_COUNTS + 2 * line + 1] = open
        order()
        self._words[_COUNTS + 2 * line] = taken

    def _beat(self) -> None:
        now = time.monotonic()
        self._words[_BEAT] = round(now * 1e9)
        try:
            if self._rest.look(now, self._executor.turns, time.process_time()) != self._resting:
                self._change()
        finally:  # without a next beat the shard would be taken for one that hangs
            if self._resting:
                self._next = self._loop.call_at(next_tick(self._loop.time(), self._pace), self._beat)
            else:
                self._next = self._loop.call_later(BEAT_S, self._beat)

    def _change(self) -> None:
        self._resting = not self._resting
        order()  # the beat, then the pace
        self._words[_PACE] = round((self._pace if self._resting else BEAT_S) * 1e9)
        self._executor.when_stirred(self._stirred if self._resting else None)
        self._changed(self._resting)

    def _stirred(self) -> None:
        """There is work again, which has not begun."""
        self._next.cancel()
        self._words[_BEAT] = time.monotonic_ns()
        self._next = self._loop.call_later(BEAT_S, self._beat)
        self._change()
