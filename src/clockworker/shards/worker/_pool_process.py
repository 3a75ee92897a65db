"""A process of a shard's pool, as the shard holds it (`_pool_child` is what runs there), and a call that it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from clockworker.shards.protocol._birth import command, held_back
from clockworker.shards.worker._places import name_of
from clockworker.shards.worker._pool_frames import CALL, HEAD, MAIN, READY, SETUP, TOLD, Setup, frame, packed

T = TypeVar("T")

_END_S = 1.0  # for a process that was told to end, before it is killed
_READ_BYTES = 1 << 18  # at once, so that a large result does not hold up the loop
_REAP_S = 0.002  # between looks at a process that ends; doubled up to
_MOST_REAP_S = 0.05
_PF_EXITING = 0x4  # in the flags of /proc/PID/stat: include/linux/sched.h


class Call(Generic[T]):
    """One call. process: that which runs it; None before and after."""

    __slots__ = ("account", "body", "future", "process", "since", "what")

    def __init__(
        self, what: Callable[..., object] | str, body: bytes, account: object, future: asyncio.Future[T]
    ) -> None:
        self.what = what
        self.body = body
        self.account = account
        self.future = future
        self.since = time.monotonic()
        self.process: PoolProcess | None = None

    def describe(self) -> str:
        """`app.report (4.1 s, in process 1234)`."""
        where = "" if self.process is None else f", in process {self.process.pid}"
        return f"{name_of(self.what)} ({time.monotonic() - self.since:.1f} s{where})"


class Pool(Protocol):
    """Whom a process tells."""

    def answered(self, process: PoolProcess, call: Call[Any], kind: bytes, body: bytes) -> None:
        """It is free again."""

    def ended(self, process: PoolProcess, call: Call[Any] | None, said: str) -> None:
        """It is no more, and neither is the call that it ran."""


class PoolProcess:
    """One of the pool's, and its socket. It is gone when `pool.ended` has been called."""

    def __init__(self, pool: Pool, setup: Setup) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._call: Call[Any] | None = None
        self._ready = False
        self._has_main = False
        self._ending = False
        self._finished = False
        self._told = False
        self._killed = False
        self._timer: asyncio.TimerHandle | None = None
        self._outgoing: list[memoryview] = []
        self._kind, self._body, self._filled = b"", bytearray(HEAD.size), 0
        self._sock, theirs = socket.socketpair()
        try:
            self._process = _spawn(theirs)
        except BaseException:
            self._sock.close()
            raise
        finally:
            theirs.close()
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self.send(packed(SETUP, setup))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def descriptor(self) -> int:
        return self._sock.fileno()

    def is_alive(self) -> bool:
        return not self._ending and self._process.poll() is None

    def begin(self, call: Call[Any]) -> None:
        self._call = call
        call.process = self
        if b"__main__" in call.body and not self._has_main:
            self._has_main = True
            self.send(packed(MAIN, _main_module()))
        self.send(frame(CALL, call.body))
        call.body = b""

    def end(self) -> None:
        """Gracefully, for a second: its function by SystemExit, and one that is free by the end of what it reads."""
        if self._ending:
            return
        self._ending = True
        if self._call is None:
            with suppress(OSError):  # it has ended
                self._sock.shutdown(socket.SHUT_WR)
        else:
            self._process.send_signal(signal.SIGTERM)
        self._timer = self._loop.call_later(_END_S, self._kill)

    def kill(self) -> None:
        self._kill()
        with suppress(subprocess.TimeoutExpired):  # in the kernel, where nothing ends it
            self._process.wait(_END_S)
        self._finish()

    def disown(self) -> None:
        self._process.returncode = 0  # or it is waited for, or complained about

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        if not self._outgoing:
            view = view[self._send_some(view) :]
        if view and self._sock.fileno() >= 0:
            if not self._outgoing:
                self._loop.add_writer(self._sock.fileno(), self._writable)
            self._outgoing.append(view)

    def _writable(self) -> None:
        while self._outgoing:
            first = self._outgoing[0]
            sent = self._send_some(first)
            if sent < len(first):
                self._outgoing[0] = first[sent:]
                return
            del self._outgoing[0]
        self._loop.remove_writer(self._sock.fileno())

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # it has ended, which an end of file will tell
            return len(data)

    def _readable(self) -> None:
        try:
            length = self._sock.recv_into(memoryview(self._body)[self._filled : self._filled + _READ_BYTES])
        except BlockingIOError:
            return
        except ConnectionError:
            length = 0
        if not length:
            self._has_ended()
            return
        self._filled += length
        if self._filled < len(self._body):
            return
        if not self._kind:
            self._kind, size = HEAD.unpack(self._body)
            self._body, self._filled = bytearray(size), 0
            if size:
                return
        self._take()

    def _take(self) -> None:
        kind, body = self._kind, self._body
        self._kind, self._body, self._filled = b"", bytearray(HEAD.size), 0
        if kind == READY:
            self._ready = True
            return
        if kind == TOLD:
            self._told = True
            return
        if self._call is None or self._ending:  # it had answered when it was told to end
            return
        call, self._call = self._call, None
        call.process = None
        self._pool.answered(self, call, kind, bytes(body))

    def _has_ended(self) -> None:
        """It has, or has closed its socket, without which it is of no use."""
        self._loop.remove_reader(self._sock.fileno())
        if self._outgoing:
            self._loop.remove_writer(self._sock.fileno())
            self._outgoing.clear()
        self._sock.close()
        if self._timer is None:
            self._timer = self._loop.call_later(_END_S, self._kill_if_it_lives)
        self._reap(_REAP_S)

    def _kill_if_it_lives(self) -> None:
        """Or one that ended otherwise, on a busy machine, would be said to have been killed for its closed socket."""
        if not _is_exiting(self.pid):
            self._kill()

    def _kill(self) -> None:
        self._killed = True
        self._process.kill()

    def _reap(self, again_s: float) -> None:
        if self._process.poll() is None:
            self._loop.call_later(again_s, self._reap, min(2 * again_s, _MOST_REAP_S))
        elif not self._finished:  # else it has been killed meanwhile
            self._finish()

    def _finish(self) -> None:
        self._finished = True
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
        call, self._call = self._call, None
        if call is not None:
            call.process = None
        self._pool.ended(self, call, self._how())

    def _how(self) -> str:
        """How it ended, for a message."""
        status = self._process.returncode
        if self._told:
            return _end_of(128 + signal.SIGTERM, self._ready)
        if not self._killed or status != -signal.SIGKILL:
            return _end_of(status, self._ready)
        return "was killed" if self._ending else "closed its connection with the shard and was killed"


def _is_exiting(pid: int) -> bool:
    """Whether the kernel is taking it apart. False where /proc does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return False
    return bool(int(fields[6]) & _PF_EXITING)


def _spawn(sock: socket.socket) -> subprocess.Popen[bytes]:
    """Raises `OSError`."""
    of_child = command("clockworker.shards.worker._pool_child", str(sock.fileno()), str(os.getpid()))
    with held_back():
        return subprocess.Popen(of_child, stdin=subprocess.DEVNULL, pass_fds=[sock.fileno()])


def _main_module() -> dict[str, Any]:
    """Where another process finds what the program has in its own module: for `multiprocessing.spawn.prepare`."""
    from multiprocessing import spawn

    found = spawn.get_preparation_data("pool")
    return {name: found[name] for name in ("init_main_from_name", "init_main_from_path") if name in found}


def _end_of(status: int | None, ready: bool) -> str:
    """How a process ended, for a message."""
    match status:
        case None:
            said = "was killed"
        case _ if status == -signal.SIGKILL:
            said = "was killed by SIGKILL, as the kernel does when there is no memory,"
        case _ if status < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-status).name}"
            said = f"was ended by signal {-status}"
        case _ if status == 128 + signal.SIGTERM:
            said = "was ended by SIGTERM"
        case _:
            said = f"ended with status {status}"
    return said if ready else f"{said} before it was set up"
