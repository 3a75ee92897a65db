"""Functions that compute, run in other processes, on other CPUs, as `_places` says.

A few processes a shard, each started when a call finds none free (`_pool_child`: a new interpreter, nothing is forked), and
kept. Each has a pair of sockets with the shard, and nothing else of its descriptors; one call at a time is sent, and answered.

Unlike a thread, a process can be stopped. A caller that is cancelled, or whose `asyncio.timeout` is over, takes its function
with it: SIGTERM raises SystemExit there, a second later the process is killed, and the next call that needs one starts another.
The place is free when the process is gone. A process that ends by itself (a crash in C code, a kernel without memory) ends one
call, the one that it ran, by `ProcessDied`; whether to run it again, only the caller knows.

They run on the CPUs that no shard has, if there are any, else on all that the server may use; see `_pool_child` for their
priority.

Rejected: `concurrent.futures.ProcessPoolExecutor`, in which one process that dies breaks all calls, and the pool; which can
stop no function, waits for them when the interpreter ends, and talks through two threads and a semaphore in shared memory that
outlives a kill -9; `multiprocessing`, whose children import the parent's main module, the shard's own, and print a traceback
each when a terminal's Ctrl-C reaches them; fork, which copies the shard's memory, locks and threads in whatever state they are;
one pool for all shards, in the supervisor, which runs no code of the application's.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Generic, ParamSpec, TypeVar

from clockworker._errors import ClockworkerError, ProcessDied, RemoteError, UsageError
from clockworker.ipc.calls._failure import RemoteTraceback
from clockworker.shards.protocol._birth import TERMINAL_SIGNALS
from clockworker.shards.worker._places import Places, Words, name_of, replaced
from clockworker.shards.worker._pool_frames import (
    CALL,
    FAILED,
    HEAD,
    MAIN,
    PROTOCOL,
    RAISED,
    READY,
    REOPEN,
    SETUP,
    VALUE,
    Failure,
    Setup,
    frame,
    packed,
)

P = ParamSpec("P")
T = TypeVar("T")

_WORDS = Words("process", "processes", "run_process", "--processes")
_END_S = 1.0  # for a process that was told to end, before it is killed
_READ_BYTES = 1 << 18  # at once, so that a large result does not hold up the loop
_REAP_S = 0.002  # between looks at a process that ends; doubled up to
_MOST_REAP_S = 0.05


class _Call(Generic[T]):
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
        self.process: _Process | None = None

    def describe(self) -> str:
        """`app.report (4.1 s, in process 1234)`."""
        where = "" if self.process is None else f", in process {self.process.pid}"
        return f"{name_of(self.what)} ({time.monotonic() - self.since:.1f} s{where})"


class ProcessPool(Places[_Call[Any]]):
    """Of at most `processes`, which are started when they are first needed.

    setup: what a process is told when it is started. account: that of whoever calls, an object that stands for a queue and a
    group.
    """

    def __init__(
        self, processes: int, setup: Callable[[], Setup], account: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(processes, _WORDS)
        self._setup = setup
        self._account = account
        self.processes: set[_Process] = set()  # all that are not gone
        self._free: list[_Process] = []
        self._done = 0
        self._none = asyncio.Event()  # no process is left, for `close`

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Its result, or its exception, whose cause has the traceback of the other process.

        Raises `UsageError` for what cannot be sent there or back, `RemoteError` for an exception that cannot, `ProcessDied`,
        and `RuntimeError` if the system has no process for it, and the shard has none either."""
        self._check_open()
        body = _packed_call(function, args, kwargs)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = _Call(function, body, self._account(), future)
        del body
        try:
            self._enter(call)
            return await future
        finally:
            self._leave(call)
            if call.process is not None:
                call.process.end()
            del call, future  # or its exception, whose traceback has this frame, would be in a cycle

    async def close(self, why: str = "run_process() was called after the shard had ended") -> None:
        """Refuse calls from here on, and end the processes: those that are free at once, and the others, which nobody has
        waited for, in a second. Returns when they are gone."""
        self._refusal = why
        for process in list(self.processes):
            process.end()
        if self.processes:
            self._none.clear()
            await self._none.wait()

    def kill(self, why: str = "run_process() was called after the shard had ended") -> None:
        """At once: the loop is about to end."""
        self._refusal = why
        for process in list(self.processes):
            process.kill()

    def forked(self, why: str) -> None:
        """In a child: the processes are its parent's."""
        self._refusal = why
        for process in self.processes:
            process.disown()

    def reopen_logs(self) -> None:
        """As soon as each has done what it does."""
        for process in self.processes:
            process.send(frame(REOPEN))

    def descriptors(self) -> Iterable[int]:
        return [process.descriptor for process in self.processes]

    def counts(self) -> tuple[int, int, int]:
        """How many functions run, how many calls wait for a process, and how many functions are done, however they ended."""
        return self.running, self.waiting, self._done

    def _start(self, call: _Call[Any]) -> bool:
        self._check_open()  # since it began to wait
        process = self._take_free()
        if process is None:
            if len(self.processes) >= self._places:  # one of them ends
                return False
            try:
                process = _Process(self, self._setup())
            except OSError as error:
                if self.processes:
                    return False
                raise RuntimeError(f"no process can be started for {name_of(call.what)}: {error}") from error
            self.processes.add(process)
        process.begin(call)
        return True

    def _take_free(self) -> _Process | None:
        while self._free:
            process = self._free.pop()  # the one whose memory is warm
            if process.is_alive():
                return process
        return None

    # From the processes.

    def answered(self, process: _Process, call: _Call[Any], kind: bytes, body: bytes) -> None:
        self._done += 1
        if not call.future.done():
            try:
                if kind == VALUE:
                    call.future.set_result(pickle.loads(body))
                else:
                    call.future.set_exception(_exception(call.what, kind, pickle.loads(body)))
            except Exception as error:  # it can be made there, and not here
                call.future.set_exception(_not_here(call.what, error))
        self._free.append(process)
        self._end(call)

    def ended(self, process: _Process, call: _Call[Any] | None, said: str) -> None:
        """It is no more."""
        self.processes.discard(process)
        if not self.processes:
            self._none.set()
        if process in self._free:
            self._free.remove(process)
        if call is not None:
            self._done += 1
            if not call.future.done():
                took = time.monotonic() - call.since
                call.future.set_exception(ProcessDied(f"the process of {name_of(call.what)} {said} after {took:.1f} s"))
            self._end(call)
        else:
            self._begin_waiting()


class _Process:
    """One of the pool's, and its socket. It is gone when `pool.ended` has been called."""

    def __init__(self, pool: ProcessPool, setup: Setup) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._call: _Call[Any] | None = None
        self._ready = False
        self._has_main = False
        self._ending = False
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

    def begin(self, call: _Call[Any]) -> None:
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
        self._timer = self._loop.call_later(_END_S, self._process.kill)

    def kill(self) -> None:
        self._process.kill()
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
            self._timer = self._loop.call_later(_END_S, self._process.kill)
        self._reap(_REAP_S)

    def _reap(self, again_s: float) -> None:
        if self._process.poll() is None:
            self._loop.call_later(again_s, self._reap, min(2 * again_s, _MOST_REAP_S))
        elif self in self._pool.processes:  # else it has been killed meanwhile
            self._finish()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
        call, self._call = self._call, None
        if call is not None:
            call.process = None
        self._pool.ended(self, call, _end_of(self._process.returncode, self._ready))


def _spawn(sock: socket.socket) -> subprocess.Popen[bytes]:
    """With the signals held back that a terminal sends: `_pool_child` lets them through. Raises `OSError`."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "clockworker.shards.worker._pool_child",
        str(sock.fileno()),
        str(os.getpid()),
    ]
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[sock.fileno()])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)


def _main_module() -> dict[str, Any]:
    """Where another process finds what the program has in its own module: for `multiprocessing.spawn.prepare`."""
    from multiprocessing import spawn

    found = spawn.get_preparation_data("pool")
    return {name: found[name] for name in ("init_main_from_name", "init_main_from_path") if name in found}


def _packed_call(function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
    if not callable(function):
        raise UsageError(f"run_process takes a function and its arguments, and got {function!r}")
    if inspect.iscoroutinefunction(function):
        raise UsageError(
            f"run_process takes an ordinary function, and {name_of(function)} is async; "
            "there is no event loop in the other process: have it call asyncio.run()"
        )
    try:
        return pickle.dumps((function, args, kwargs), PROTOCOL)
    except Exception as error:
        raise UsageError(
            f"{name_of(function)} or its arguments cannot be sent to another process: {error}; "
            "give a function that a module has under its name, and arguments that pickle takes"
        ) from error


def _exception(what: Callable[..., object] | str, kind: bytes, said: Any) -> BaseException:
    """The one that its caller gets."""
    if kind == RAISED:
        error, trace = said
        error.__cause__ = RemoteTraceback(trace)
        # Anything else would mean something to the caller's task, or end the shard.
        return error if isinstance(error, Exception) and not isinstance(error, StopIteration) else replaced(error, what)
    assert kind == FAILED
    failure: Failure = said
    made: ClockworkerError
    match failure.where:
        case "call":
            made = UsageError(f"{name_of(what)} or its arguments cannot be read in another process: {failure.message}")
        case "value":
            made = UsageError(f"what {name_of(what)} returned cannot be sent back: {failure.message}")
        case "exception":
            message = f"{name_of(what)} raised {failure.type_name}: {failure.message}"
            made = RemoteError(message, failure.type_name, failure.trace)
    made.__cause__ = RemoteTraceback(failure.trace)
    return made


def _not_here(what: Callable[..., object] | str, error: Exception) -> Exception:
    made = UsageError(f"what {name_of(what)} returned or raised cannot be read here: {error}")
    made.__cause__ = error
    return made


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
