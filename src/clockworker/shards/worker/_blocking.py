"""Functions that block, run in threads beside the event loop.

No more than so many at once; later calls wait in the loop, and a caller that waits can still leave. A free thread goes to the
account (a queue, or a group within one) that has fewest of them, and of its calls to the first that came: one tenant's slow
functions keep another's waiting until the next of them ends, and not until all have.

A thread cannot be stopped: a caller that is cancelled leaves its function running, and the stop of the shard waits for it, as
it does for the calls that wait. So the stop names the functions that it waits for, and where they are, before its grace ends.

Every call ends: with the function's result, with its exception, or with a RuntimeError in place of an exception that would
mean something else to the caller's task. StopIteration and GeneratorExit would end its coroutine (the first of which no asyncio
future takes), CancelledError would say that the task was cancelled. The place is given back on the loop, however the function
ends.

Rejected: `asyncio.to_thread`, whose pool belongs to the loop, takes everything at once, and is waited for without a word when
the loop closes; and `ThreadPoolExecutor`, which keeps a call that it has refused when no thread could be started, and which the
interpreter waits for at its end, so that a shard whose `main` has failed would not end while a function does not return.
Hence daemon threads: a stop in good order has waited for them, and no other end should.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

from clockworker._errors import UsageError
from clockworker.shards.logs._log_limit import Limiter, more

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("clockworker.shard")

LONG_WAIT_S = 2.0  # for a thread: said in the log
_SAY_AFTER_S = 0.5  # of a stop that waits; the next line comes after five times as long
_NAMED = 3  # functions in one line


class _Call(Generic[T]):
    """One call. `what` is its function, or what the log is to call it. `thread` is 0 until one has taken it."""

    __slots__ = ("account", "future", "run", "since", "thread", "what")

    def __init__(
        self, what: Callable[..., object] | str, run: Callable[[], T], account: object, future: asyncio.Future[T]
    ) -> None:
        self.what = what
        self.run = run
        self.account = account
        self.future = future
        self.since = time.monotonic()
        self.thread = 0

    def describe(self) -> str:
        """`app.read (4.1 s, at app.py:12)`."""
        where = ""
        frame = sys._current_frames().get(self.thread)
        if frame is not None and frame.f_code.co_filename != __file__:  # else it is in C code
            where = f", at {os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        return f"{name_of(self.what)} ({time.monotonic() - self.since:.1f} s{where})"


class BlockingPool:
    """Of at most `threads`, which are started when they are first needed."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._started = 0
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._running: set[_Call[Any]] = set()
        self._held: dict[object, int] = {}  # threads by account; none has 0
        # By account, only while every thread that can be had has something to do; no line is empty.
        self._waiting: dict[object, dict[_Call[Any], None]] = {}
        self._idle = asyncio.Event()
        self._refusal: str | None = None
        self._end: Callable[[], object] | None = None
        self._look: asyncio.TimerHandle | None = None
        self._complaints = Limiter()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Its result, or its exception. It sees a copy of the caller's context variables. Raises `RuntimeError` if the system
        has no thread for it, and the shard has none either."""
        with self.calling(function, functools.partial(function, *args, **kwargs)) as future:
            try:
                return await future
            finally:
                del future  # or its exception, whose traceback has this frame, would be in a cycle

    @contextlib.contextmanager
    def calling(
        self, what: Callable[..., object] | str, function: Callable[[], T], account: object = None
    ) -> Iterator[asyncio.Future[T]]:
        """The same for a caller that has something to do meanwhile, and leaves its function running if it leaves this.

        what: a function, or the name of the call for the log. account: whose thread it is, any object.
        """
        if self._refusal is not None:
            raise UsageError(self._refusal)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = _Call(what, functools.partial(contextvars.copy_context().run, function), account, future)
        self._idle.clear()
        try:
            if len(self._running) >= self._threads or not self._begin(call):
                self._wait(call)
            yield future
        finally:
            future.cancel()  # nobody waits for it, unless it is done
            self._take_out(call)
            self._tell_if_idle()
            del call, future  # as above

    async def drain(self) -> None:
        """Wait until no call runs, and none waits. More may follow: a drained shard still serves its peers."""
        say_after = _SAY_AFTER_S
        while self._running or self._waiting:
            try:
                async with asyncio.timeout(say_after):
                    await self._idle.wait()
            except TimeoutError:
                say_after *= 5
                waiting = f", and {self.waiting} calls for a thread" if self._waiting else ""
                log.warning("the stop waits for threads: %s%s", self._describe(), waiting)

    def close(self, why: str = "run_blocking() was called after the shard had ended") -> None:
        """Refuse calls from here on. Threads end when they have nothing to do."""
        self._refusal = why
        for _ in range(self._started):
            self._calls.put(None)

    def forked(self, end: Callable[[], object], why: str) -> None:
        """In a child: there are no threads, and no loop. The one thread that there is may be ours: then `end` is called when
        its function returns."""
        self._refusal = why
        self._end = end

    def counts(self) -> tuple[int, int]:
        """How many functions run, and how many calls wait for a thread."""
        return self.running, self.waiting

    @property
    def running(self) -> int:
        """Functions that run now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return sum(map(len, self._waiting.values()))

    def _begin(self, call: _Call[Any]) -> bool:
        """False if one of the threads that there are must take it, later. RuntimeError if there is none, and none to be had."""
        if self._started == len(self._running):
            try:
                threading.Thread(target=self._work, name=f"blocking_{self._started}", daemon=True).start()
            except (RuntimeError, MemoryError) as error:
                if self._started:
                    return False
                raise RuntimeError(f"no thread can be started for {name_of(call.what)}: {error}") from error
            self._started += 1
        self._running.add(call)
        self._held[call.account] = self._held.get(call.account, 0) + 1
        self._calls.put(call)
        return True

    def _work(self) -> None:
        """What a thread does."""
        while (call := self._calls.get()) is not None:
            call.thread = threading.get_ident()
            result, error = None, None
            try:
                result = call.run()
            except BaseException as raised:
                error = raised
            if self._end is not None:
                self._end()
            try:
                call.future.get_loop().call_soon_threadsafe(self._ended, call, result, error)
            except RuntimeError:  # the loop is closed
                return
            del call, result, error

    def _ended(self, call: _Call[Any], result: Any, error: BaseException | None) -> None:
        self._running.discard(call)
        if held := self._held.pop(call.account) - 1:
            self._held[call.account] = held
        if not call.future.done():
            if error is None:
                call.future.set_result(result)
            else:
                call.future.set_exception(bearable(error, call.what))
        self._begin_waiting()
        self._tell_if_idle()

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._running) < self._threads:
            account = self._poorest()
            call = next(iter(self._waiting[account]))
            if not call.future.done():
                try:
                    if not self._begin(call):
                        return
                except RuntimeError as error:
                    call.future.set_exception(error)
            self._take_out(call)
            if account in self._waiting:  # the next of its calls comes after the others of as few threads
                self._waiting[account] = self._waiting.pop(account)

    def _poorest(self) -> object:
        """Of the accounts whose calls wait the first with fewest threads. A look at as many as there are threads, and one."""
        poorest, fewest = None, self._threads + 1
        for account in self._waiting:
            held = self._held.get(account, 0)
            if held < fewest:
                poorest, fewest = account, held
            if not held:
                break
        return poorest

    def _take_out(self, call: _Call[Any]) -> None:
        line = self._waiting.get(call.account)
        if line is not None:
            line.pop(call, None)
            if not line:
                del self._waiting[call.account]

    def _tell_if_idle(self) -> None:
        if not self._running and not self._waiting:
            self._idle.set()

    # Waits that are long

    def _wait(self, call: _Call[Any]) -> None:
        self._waiting.setdefault(call.account, {})[call] = None
        if self._look is None:
            self._look = call.future.get_loop().call_later(LONG_WAIT_S, self._look_at_line)

    def _look_at_line(self) -> None:
        self._look = None
        if not self._waiting:
            return
        oldest, now = min(map(next, map(iter, self._waiting.values())), key=lambda call: call.since), time.monotonic()
        waited = now - oldest.since
        if waited >= LONG_WAIT_S and (unsaid := self._complaints.may_say(now)) is not None:
            log.warning(
                "%s has waited %.1f s for a thread, as %d calls do; --threads or --blocking-threads is %d, and in them "
                "are: %s%s",
                oldest.what if isinstance(oldest.what, str) else f"run_blocking({name_of(oldest.what)})",
                waited,
                self.waiting,
                self._threads,
                self._describe(),
                more(unsaid),
            )
        delay = LONG_WAIT_S if waited >= LONG_WAIT_S else LONG_WAIT_S - waited
        self._look = oldest.future.get_loop().call_later(delay, self._look_at_line)

    def _describe(self) -> str:
        """The functions that run, the longest first."""
        calls = sorted(self._running, key=lambda call: call.since)
        rest = [f"{len(calls) - _NAMED} more"] if len(calls) > _NAMED else []
        return ", ".join([*(call.describe() for call in calls[:_NAMED]), *rest])


def bearable(error: BaseException, what: Callable[..., object] | str) -> BaseException:
    """The exception, or one to give the caller's task in its place. what: the function that raised it, or its name."""
    if isinstance(error, StopIteration | GeneratorExit | asyncio.CancelledError):
        replaced = RuntimeError(f"{name_of(what)} raised {type(error).__name__}")
        replaced.__cause__ = error
        return replaced
    return error


def name_of(function: object) -> str:
    """`module.function`. It is the application's object, whose attributes may do what they like. A text is a name."""
    if isinstance(function, str):
        return function
    try:
        while isinstance(function, functools.partial):
            function = function.func
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
        return f"{module}.{name}" if module and name else str(name or type(function).__qualname__)
    except Exception:
        return type(function).__qualname__
