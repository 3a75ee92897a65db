"""What a child that is forked from a shard must not keep of it: `os.fork`, and multiprocessing by its method `fork`.

Descriptors are close-on-exec, but a fork without exec has all of them. A child that outlives its shard would listen on its
port, where clients wait for ever; keep open the connections that the shard has closed; and share the epoll instance, in which
either takes out what the other waits for. A signal to the child would be written into the socket that wakes up the shard's
loop, which would stop the shard. What the child wrote into a ring would be taken for the shard's. So a child begins without
all that, by functions that `os.register_at_fork` has it run before anything else:

- Signals that the loop handles have their default action again, and until then none is delivered: `Process.terminate()` may
  come before the child has run at all. SIGINT and SIGHUP stay without effect, as in the shard: a terminal sends them to the
  whole process group, and what the shard's open requests wait for must not end by them.
- Each descriptor is replaced by /dev/null. It is not closed: objects that refer to the number are still there, and would
  close it again when they are freed, whatever has that number by then. Connections are found by their address, which is
  that of a listening socket, so that it does not matter how they came or who holds them.
- Memory that is shared with others becomes the child's own.
- The child may use every CPU of the server, where the shard is pinned to one.
- The shard's loop is not the child's. A child that comes back to it (by returning, or by an exception) is ended; with its own
  status if it was about to exit. Calls to other shards raise UsageError.
- A child of multiprocessing dies with its shard, as the shard does with the supervisor. Its parent would have ended it, but for
  a `kill -9`. The kernel ties it to the thread that has forked, so only the main thread's children are tied. Any other
  child may mean to stay, and does.

Not covered: a fork by C code, which runs no Python. For that listening sockets are shut down at their end (`_sockets`), and
nothing can be done for a shard that is killed.

Rejected: closing all descriptors but a few in the child, which takes the application's too; doing it when the shard stops,
which a `kill -9` prevents.
"""

from __future__ import annotations

import _socket
import asyncio
import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from clockworker.ipc.rings import _mapping
from clockworker.shards.machine._heritage import do_nothing
from clockworker.shards.machine._sockets import Served
from clockworker.shards.protocol._pulse import stop_dumping

if TYPE_CHECKING:
    from clockworker.executor import Executor
    from clockworker.executor._tasks_cy import JoinHandle, QueueState

log = logging.getLogger("clockworker.shard")

REFUSAL = "this process was forked from a shard, and is none: only the shard itself can call others"

_ANY = ("0.0.0.0", "::")
_PR_SET_PDEATHSIG = 1
_CAME_BACK = 70  # exit status; sysexits.h: EX_SOFTWARE

_libc = ctypes.CDLL(None)


# Paths of Unix sockets of ours beside those that the supervisor has told of.
own_servers: set[str] = set()


class Legacy:
    """What this shard's children get, and what not. `guard` is called once, before the application is imported.

    who: the shard's name, for messages. cpus: those that a child may use; none: the same as its parent.
    """

    def __init__(self, who: str, served: Sequence[Served], cpus: Sequence[int]) -> None:
        self.forked = False  # this is a child
        self._who = who
        self._served = {(place, port) for _, place, port in served}
        self._ports = {port for _, host, port in served if host in _ANY}  # of any address
        self._cpus = cpus
        self._pid = os.getpid()
        self._own: list[Callable[[], Iterable[int]]] = []
        self._farewells: list[Callable[[], None]] = []
        self._of_thread = threading.local()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: Executor | None = None

    def guard(self) -> None:
        os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def withhold(self, descriptors: Callable[[], Iterable[int]]) -> None:
        """Children must not have these. They are asked for in the child."""
        self._own.append(descriptors)

    def at_fork(self, do: Callable[[], None]) -> None:
        """Do this, too, in each child."""
        self._farewells.append(do)

    def take_loop(self, loop: asyncio.AbstractEventLoop, before: set[int]) -> None:
        """The loop that runs is the shard's only. before: the descriptors that there were when there was no loop."""
        self._loop = loop
        self._loop_thread = threading.get_ident()
        descriptors = [descriptor for descriptor in open_descriptors() - before if _may_be_a_loops(descriptor)]
        self.withhold(lambda: [] if loop.is_closed() else descriptors)

    def take_executor(self, executor: Executor) -> None:
        """It runs no step in a child but the one that has forked."""
        self._executor = executor

        def stop() -> None:
            executor._core.pause()
            executor.trace(_Ender(self))

        self.at_fork(stop)

    @contextlib.contextmanager
    def executing(self) -> Iterator[None]:
        """Forks of this thread are followed by an exec at once, which the parent waits for: what is close-on-exec need not be
        taken."""
        self._of_thread.executes = True
        try:
            yield
        finally:
            self._of_thread.executes = False

    def end(self, error: BaseException | None = None) -> NoReturn:
        """End this child, which has come back to what is the shard's."""
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            if not isinstance(error.code, int | None):
                print(error.code, file=sys.stderr)
        else:
            status = _CAME_BACK
            log.error(
                "a child, pid %d, that was forked from %s came back to the shard's code, and was ended: "
                "have it end by os._exit(), or fork by multiprocessing",
                os.getpid(),
                self._who,
            )
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status & 0xFF)

    # At each fork. `before` and `in_parent` are for the parent, whoever that is by now.

    def _before(self) -> None:
        self._of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._of_thread.is_main = threading.get_native_id() == os.getpid()

    def _in_parent(self) -> None:
        self._unmask()

    def _in_child(self) -> None:
        try:
            if getattr(self._of_thread, "executes", False):
                self._give_cpus()
            elif not self.forked:  # else a child's child, and all has been done
                self.forked = True
                for take in (
                    self._take_signals,
                    self._take_descriptors,
                    _mapping.keep_private,
                    self._give_cpus,
                    self._tie_to_shard,
                    self._leave_loop,
                    *self._farewells,
                ):
                    try:
                        take()
                    except Exception:
                        log.exception("a child of %s keeps something of it", self._who)
        finally:
            self._unmask()

    def _unmask(self) -> None:
        mask = getattr(self._of_thread, "mask", None)  # None: forked by C code that calls the hooks in part
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(-1)
        stop_dumping()
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if _is_ours(handler) or getattr(handler, "__self__", None) is self._loop is not None:
                kept = number in (signal.SIGINT, signal.SIGHUP)
                signal.signal(number, do_nothing if kept else signal.SIG_DFL)

    def _take_descriptors(self) -> None:
        ours = {descriptor for own in self._own for descriptor in own() if descriptor >= 0}
        ours.update(descriptor for descriptor in open_descriptors() if self._is_ours(descriptor))
        if not ours:
            return
        first = ours.pop()
        os.close(first)  # there may be no other to be had
        nothing = _open_nothing()
        if nothing != first:
            os.dup2(nothing, first, inheritable=False)
        for descriptor in ours:
            os.dup2(nothing, descriptor, inheritable=False)
        if nothing != first and nothing not in ours:
            os.close(nothing)

    def _is_ours(self, descriptor: int) -> bool:
        """A connection that has come to the shard, a socket that it listens on, memory of ours, or a file about the shard."""
        # There may be thousands of connections: the base class, told a family and a type, asks the kernel for nothing.
        try:
            sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        except OSError:
            name = None
        else:
            try:
                name = sock.getsockname()
                if self._is_served(name):
                    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
            except OSError:
                name = None
            finally:
                sock.detach()
        return name is None and _target(descriptor).startswith(("/memfd:clockworker-", f"/proc/{self._pid}/"))

    def _is_served(self, name: object) -> bool:
        match name:
            case (str(host), int(port), *_):
                return port in self._ports or (host, port) in self._served
            case str() | bytes():
                path = os.fsdecode(name)
                return (path, 0) in self._served or path in own_servers
        return False

    def _give_cpus(self) -> None:
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)

    def _tie_to_shard(self) -> None:
        # Only a child of multiprocessing ever calls what is registered there.
        util = sys.modules.get("multiprocessing.util")
        if util is not None and getattr(self._of_thread, "is_main", False):
            util.register_after_fork(self, Legacy._die_with_shard)

    def _die_with_shard(self) -> None:
        if os.getppid() == self._pid:  # else a child's child
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != self._pid:
                os.kill(os.getpid(), signal.SIGTERM)

    def _leave_loop(self) -> None:
        loop = self._loop
        if loop is None or threading.get_ident() != self._loop_thread:
            return
        # In the turn after the next: if the child exits by an exception, that stops the loop before.
        loop.call_soon(lambda: loop.call_soon(self.end))
        if self._executor is None or self._executor._core.current is None:
            # A plain callback of the loop's has forked. If it comes back, libuv asks its epoll instance before anything else
            # can be done, and aborts if that is none. So the child gets one of its own.
            backend = getattr(loop, "_get_backend_id", None)
            if backend is not None:
                with select.epoll() as empty:
                    os.dup2(empty.fileno(), backend(), inheritable=False)


class _Ender:
    """A tracer that ends the child after the step in which it was forked."""

    def __init__(self, legacy: Legacy) -> None:
        self._legacy = legacy

    def step(self, queue: QueueState, state: JoinHandle, started: int, ended: int) -> None:
        task = state.task
        failed = task is not None and task.done() and not task.cancelled()
        self._legacy.end(task.exception() if failed else None)

    def turn(self, started: int, ended: int) -> None:
        self._legacy.end()


def open_descriptors() -> set[int]:
    """Of this process."""
    return {descriptor for descriptor in map(int, os.listdir("/proc/self/fd")) if _target(descriptor)}


def _is_ours(handler: object) -> bool:
    """Whether a signal's handler is: of this package, whose `_child` is `__main__` here."""
    module = getattr(handler, "__module__", None)
    return isinstance(module, str) and module.partition(".")[0] in ("__main__", __name__.partition(".")[0])


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def _may_be_a_loops(descriptor: int) -> bool:
    """Should a thread of the application's have opened a file while the loop was made, it stays the application's."""
    return _target(descriptor).startswith(("anon_inode:", "pipe:", "socket:"))


def _open_nothing() -> int:
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # there is no /dev
        return socket.socket().detach()
