"""Functions that block, run in threads beside the event loop, as `_places` says.

A thread cannot be stopped: a caller that is cancelled leaves its function running, and the stop of the shard waits for it, as
it does for the calls that wait. So the stop names the functions that it waits for, and where they are.

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
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

from clockworker.shards.worker._places import Places, Words, bearable, name_of

P = ParamSpec("P")
T = TypeVar("T")

_WORDS = Words("thread", "threads", "run_blocking", "--threads or --blocking-threads")


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


class Blocking:
    """What runs functions in threads."""

    def calling(
        self, what: Callable[..., object] | str, function: Callable[[], T]
    ) -> contextlib.AbstractContextManager[asyncio.Future[T]]:
        """The future of a function that has begun, or waits for its thread; whoever leaves this leaves it running."""
        raise NotImplementedError

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Its result, or its exception. It sees a copy of the caller's context variables. Raises `RuntimeError` if the system
        has no thread for it, and the shard has none either."""
        with self.calling(function, functools.partial(function, *args, **kwargs)) as future:
            try:
                return await future
            finally:
                del future  # or its exception, whose traceback has this frame, would be in a cycle


class BlockingPool(Blocking, Places[_Call[Any]]):
    """Of at most `threads`, which are started when they are first needed."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, _WORDS)
        self._started = 0
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._farewell: Callable[[], object] | None = None

    @contextlib.contextmanager
    def calling(
        self, what: Callable[..., object] | str, function: Callable[[], T], account: object = None
    ) -> Iterator[asyncio.Future[T]]:
        """The same for a caller that has something to do meanwhile, and leaves its function running if it leaves this.

        what: a function, or the name of the call for the log. account: whose thread it is, any object.
        """
        self._check_open()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = _Call(what, functools.partial(contextvars.copy_context().run, function), account, future)
        try:
            self._enter(call)
            yield future
        finally:
            self._leave(call)
            del call, future  # as above

    def close(self, why: str = "run_blocking() was called after the shard had ended") -> None:
        """Refuse calls from here on. Threads end when they have nothing to do."""
        self._refusal = why
        for _ in range(self._started):
            self._calls.put(None)

    def forked(self, end: Callable[[], object], why: str) -> None:
        """In a child: there are no threads, and no loop. The one thread that there is may be ours: then `end` is called when
        its function returns."""
        self._refusal = why
        self._farewell = end

    def counts(self) -> tuple[int, int]:
        """How many functions run, and how many calls wait for a thread."""
        return self.running, self.waiting

    def _start(self, call: _Call[Any]) -> bool:
        if self._started == len(self._running):
            try:
                threading.Thread(target=self._work, name=f"blocking_{self._started}", daemon=True).start()
            except (RuntimeError, MemoryError) as error:
                if self._started:
                    return False
                raise RuntimeError(f"no thread can be started for {name_of(call.what)}: {error}") from error
            self._started += 1
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
            if self._farewell is not None:
                self._farewell()
            try:
                call.future.get_loop().call_soon_threadsafe(self._ended, call, result, error)
            except RuntimeError:  # the loop is closed
                return
            del call, result, error

    def _ended(self, call: _Call[Any], result: Any, error: BaseException | None) -> None:
        if not call.future.done():
            if error is None:
                call.future.set_result(result)
            else:
                call.future.set_exception(bearable(error, call.what))
        self._end(call)
