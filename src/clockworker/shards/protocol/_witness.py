"""The witness: a thread of the shard that says, when the supervisor asks, what holds up the loop.

Nothing in the shard watches the loop. A thread that looked by itself would wake up all the time and take the interpreter's
lock from the loop that it watches; this one sleeps in a read until it is asked, which happens only in a stall. Python code
gives the lock up every few milliseconds, and a system call that blocks does too, so the thread can look while the stall
lasts. Where C code keeps the lock it can't: then `_pulse` has a last resort.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from types import FrameType

import msgspec

from clockworker import _errors
from clockworker.executor import Executor
from clockworker.shards.machine._terminal import is_debugging
from clockworker.shards.protocol._pulse import DUMP_SIGNAL

_ASK = b"?"
_MAX_TESTIMONY = 128 * 1024
_MAX_STACK = 48  # frames, the innermost
_OURS = (os.path.dirname(asyncio.__file__) + os.sep, os.path.dirname(_errors.__file__) + os.sep)


class Testimony(msgspec.Struct, frozen=True):
    """What the loop's thread was doing. `queue` and `task` are None outside of any; `stack` is the application's part of
    it, as in a traceback, empty if the thread was not in the application's code. `debugged`: somebody has stopped it there.
    `preemptive`: the queue is, and so should have been cut."""

    queue: str | None
    task: str | None
    stack: str
    debugged: bool = False
    preemptive: bool = False


class Witness:
    """The supervisor's end of the line to the thread."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(Testimony)

    def fileno(self) -> int:
        return self._sock.fileno()

    def ask(self) -> None:
        with contextlib.suppress(OSError):  # it is gone, or has many questions to answer already
            self._sock.send(_ASK)

    def receive(self) -> Testimony | None:
        """None if there is none after all: the end of the line, or what cannot be read."""
        try:
            return self._decoder.decode(self._sock.recv(_MAX_TESTIMONY))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def close(self) -> None:
        self._sock.close()


def start_witness(sock: socket.socket, executor: Executor) -> None:
    """Start the thread, from the loop's. It ends with the process, or with the supervisor."""
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    sock.setblocking(True)

    def testify() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [DUMP_SIGNAL])  # it is for the loop's thread
        encoder = msgspec.msgpack.Encoder()
        while True:
            try:
                if not sock.recv(16):
                    return
                sock.send(encoder.encode(_see(loop, thread, executor)))
            except OSError:
                return

    threading.Thread(target=testify, name="clockworker-witness", daemon=True).start()


def _see(loop: asyncio.AbstractEventLoop, thread: int, executor: Executor) -> Testimony:
    frame = sys._current_frames().get(thread)
    running = executor._core.current  # `current_queue` is of the thread that asks
    membership = None if running is None else running.membership
    task = asyncio.current_task(loop)
    return Testimony(
        None if membership is None else str(membership.queue.key),
        None if task is None else task.get_name(),
        "" if frame is None else _format_stack(frame),
        is_debugging(frame),
        membership is not None and membership.queue.preemptive,
    )


def _format_stack(innermost: FrameType) -> str:
    """The frames of the application, and of what it has called: not how the loop came to call it."""
    frames = list(traceback.walk_stack(innermost))
    while frames and not _is_application(frames[-1][0]):
        frames.pop()
    summary = traceback.StackSummary.extract(iter(frames[:_MAX_STACK]))
    summary.reverse()
    return "".join(summary.format()).rstrip()


def _is_application(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_OURS) and frame.f_code.co_filename != "<frozen runpy>"
