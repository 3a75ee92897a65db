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
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from clockworker._errors import ClockworkerError, ProcessDied, RemoteError, UsageError
from clockworker.ipc.calls._failure import RemoteTraceback
from clockworker.shards.worker._places import Places, Words, name_of, replaced
from clockworker.shards.worker._pool_frames import FAILED, PROTOCOL, RAISED, REOPEN, VALUE, Failure, Setup, frame
from clockworker.shards.worker._pool_process import Call, PoolProcess

P = ParamSpec("P")
T = TypeVar("T")

_WORDS = Words("process", "processes", "run_process", "--processes")


class ProcessPool(Places[Call[Any]]):
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
        self.processes: set[PoolProcess] = set()  # all that are not gone
        self._free: list[PoolProcess] = []
        self._done = 0
        self._none = asyncio.Event()  # no process is left, for `close`

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Its result, or its exception, whose cause has the traceback of the other process.

        Raises `UsageError` for what cannot be sent there or back, `RemoteError` for an exception that cannot, `ProcessDied`,
        and `RuntimeError` if the system has no process for it, and the shard has none either."""
        self._check_open()
        body = _packed_call(function, args, kwargs)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = Call(function, body, self._account(), future)
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

    def _start(self, call: Call[Any]) -> bool:
        self._check_open()  # since it began to wait
        process = self._take_free()
        if process is None:
            if len(self.processes) >= self._places:  # one of them ends
                return False
            try:
                process = PoolProcess(self, self._setup())
            except OSError as error:
                if self.processes:
                    return False
                raise RuntimeError(f"no process can be started for {name_of(call.what)}: {error}") from error
            self.processes.add(process)
        process.begin(call)
        return True

    def _take_free(self) -> PoolProcess | None:
        while self._free:
            process = self._free.pop()  # the one whose memory is warm
            if process.is_alive():
                return process
        return None

    # From the processes.

    def answered(self, process: PoolProcess, call: Call[Any], kind: bytes, body: bytes) -> None:
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

    def ended(self, process: PoolProcess, call: Call[Any] | None, said: str) -> None:
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
