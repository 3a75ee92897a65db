"""Writing the log without ever waiting for its reader.

Standard error is mostly a pipe to somebody who reads it: a container's runtime, systemd, a pager. When they stand still the
pipe is full, and a plain write would keep the loop until somebody reads again: no connection would be served, no shard looked
after, and no signal heard. So a line is written only as far as that is possible at once. The rest, and the lines after it,
wait in memory for a thread that writes them; it is there only as long as any wait. Beyond `MOST` bytes lines are dropped, and
counted in a line of their own when there is room again. At the end of the process they get `LAST_S` seconds.

Lines that come by the thousand a second (`put`) are gathered, and written together: a system call for each would cost as much
as the rest of it. No more are written at once than a pipe takes in one piece, so that lines of several processes do not mix.

Whether a write waits is a property of the open file, which others share (a terminal's shell, other shards), so it is not
changed. A pipe or a socket is asked by a flag of the single write (RWF_NOWAIT; of pipes Linux 6.4 knows it). Otherwise the file
is opened a second time, through /proc; a pipe of another user can't be, and then every line goes through the thread. Files on
disks are just written.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import select
import signal
import stat
import threading
import weakref
from collections import deque
from collections.abc import Callable

MOST = 1 << 20
LAST_S = 0.5
GATHERED = select.PIPE_BUF  # bytes

_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class LogStream:
    """For a `logging.StreamHandler`. Its writes may come from any thread; none raises, since there is nobody to tell.

    describe_loss: the text of a line that says how many have been lost.
    """

    def __init__(
        self,
        descriptor: int,
        describe_loss: Callable[[int], str],
        *,
        encoding: str = "utf-8",
        most: int = MOST,
    ) -> None:
        self._descriptor = descriptor
        self._describe_loss = describe_loss
        self._encoding = encoding
        self._most = most
        self._write_some = self._choose()
        self._reset()
        _streams.add(self)

    def write(self, text: str) -> None:
        data = text.encode(self._encoding, "backslashreplace")
        with self._lock:
            self._write_gathered()
            self._write(data)

    def put(self, line: str) -> bool:
        """Write a line with others: when as many have come together as are written at once, before the next `write`, or when
        `write_gathered` is called. Returns whether it is the first of those: its caller has to see to that."""
        size = len(line) if line.isascii() else len(line.encode(self._encoding, "backslashreplace"))
        gathered = self._gathered
        with self._lock:
            if self._gathered_size + size > GATHERED:
                self._write_gathered()
            gathered.append(line)
            self._gathered_size += size
            return len(gathered) == 1

    def write_gathered(self) -> None:
        with self._lock:
            self._write_gathered()

    def _write_gathered(self) -> None:
        if self._gathered:
            text = "".join(self._gathered)
            self._gathered.clear()
            self._gathered_size = 0
            self._write(text.encode(self._encoding, "backslashreplace"))

    def _write(self, data: bytes) -> None:
        if not self._waiting or (self._writer is None and self._write_waiting()):
            lost = self._lost
            data = self._write_now(data)
            if lost and lost == self._lost and not data:  # lines can be written again
                self._say_lost()
                self._write_waiting()
        if not data:
            return
        if self._size + len(data) > self._most and self._waiting:
            self._lost += data.count(b"\n")
        else:
            self._keep(data)
        self._start_writer()

    def flush(self) -> None:
        """What waits is the thread's to write."""

    def finish(self, seconds: float = LAST_S) -> None:
        """Wait until all is written, for so long at most."""
        self.write_gathered()
        writer = self._writer
        if writer is not None:
            writer.join(seconds)
        with self._lock:
            if self._writer is None:
                self._write_waiting()

    def _reset(self) -> None:
        """What another process has not written is not ours to write."""
        self._lock = threading.RLock()  # a signal's handler may log in the middle of a write
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes that wait
        self._lost = 0  # lines, since it was last said
        self._gathered: list[str] = []
        self._gathered_size = 0
        self._writer: threading.Thread | None = None

    # Without waiting.

    def _choose(self) -> Callable[[bytes], int]:
        """How to write as much as is possible at once: a function that returns how much that was."""
        mode = os.fstat(self._descriptor).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            return self._write_with_flag
        if os.isatty(self._descriptor):
            return self._open_again()
        return lambda data: os.write(self._descriptor, data)

    def _write_with_flag(self, data: bytes) -> int:
        try:
            return os.pwritev(self._descriptor, [data], -1, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
        self._write_some = self._open_again()
        return self._write_some(data)

    def _open_again(self) -> Callable[[bytes], int]:
        try:
            own = os.open(f"/proc/self/fd/{self._descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return lambda data: 0
        return lambda data: os.write(own, data)

    def _write_now(self, data: bytes) -> bytes:
        """Returns what could not be written yet."""
        while data:
            try:
                written = self._write_some(data)
            except BlockingIOError:
                break
            except OSError:  # the reader is gone, the disk is full
                self._lost += data.count(b"\n")
                return b""
            if written == 0:
                break
            data = data[written:]
        return data

    def _write_waiting(self) -> bool:
        """True if nothing waits any more."""
        while self._waiting:
            data = self._waiting.popleft()
            self._size -= len(data)
            if rest := self._write_now(data):
                self._waiting.appendleft(rest)
                self._size += len(rest)
                return False
            self._say_lost()
        return True

    def _keep(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)

    def _say_lost(self) -> None:
        if self._lost and self._size < self._most // 2:
            lost, self._lost = self._lost, 0
            self._keep(self._describe_loss(lost).encode(self._encoding, "backslashreplace"))

    # The thread.

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="clockworker-log", daemon=True)
            try:
                self._writer.start()
            except RuntimeError:  # no thread to be had: the next line tries again
                self._writer = None

    def _write_all(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the loop's thread
        while True:
            with self._lock:
                self._say_lost()
                if not self._waiting:
                    self._writer = None
                    return
                data = self._waiting[0]
            written = self._wait_and_write(data)
            with self._lock:
                if written is None:
                    self._lost += data.count(b"\n")
                    written = len(data)
                self._size -= written
                if written == len(data):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = data[written:]

    def _wait_and_write(self, data: bytes) -> int | None:
        """How much was written; None if that cannot be."""
        try:
            ready = select.poll()
            ready.register(self._descriptor, select.POLLOUT)
            ready.poll()
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError:
            return None


_streams: weakref.WeakSet[LogStream] = weakref.WeakSet()


def _reset_all() -> None:
    for stream in _streams:
        stream._reset()


def _finish_all() -> None:
    for stream in list(_streams):
        with contextlib.suppress(Exception):
            stream.finish()


os.register_at_fork(after_in_child=_reset_all)
atexit.register(_finish_all)
