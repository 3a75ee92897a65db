"""Calls from other threads: made in the loop's thread, and waited for in the caller's.

Whatever becomes of the loop, they end: those that have not been begun with, or have not ended, when the mesh is closed fail
with ShardDied, and later ones with UsageError. Waiting for one in the loop's own thread would keep the loop from ever making
it, and is refused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from clockworker._errors import ShardDied, UsageError
from clockworker.ipc.calls._shared_cy import Shared

R = TypeVar("R")


class CallFuture(concurrent.futures.Future[R]):
    """What a call from another thread will end in."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def result(self, timeout: float | None = None) -> R:
        """Wait for it. UsageError in the loop's own thread, where it can only be awaited (`asyncio.wrap_future`)."""
        self._check(timeout, "result")
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The same of what it raises."""
        self._check(timeout, "exception")
        return super().exception(timeout)

    def _check(self, timeout: float | None, what: str) -> None:
        if threading.get_ident() == self._thread and timeout != 0 and not self.done():
            raise UsageError(
                f"{what}() of a call_threadsafe() was called in the event loop's own thread, which has to make the call: "
                "there, `await service.on(shard).method(...)`"
            )


class ThreadCalls:
    """Those of one mesh, in whose thread it is made."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._loop = shared.loop
        self._thread = threading.get_ident()
        self._calls: set[CallFuture[Any]] = set()
        self._closed = False

    def run(self, call: Callable[[], Coroutine[Any, Any, R]]) -> CallFuture[R]:
        """From any thread. The context of the thread's caller goes with it."""
        if self._shared.refusal is not None:
            raise UsageError(self._shared.refusal)
        future: CallFuture[R] = CallFuture(self._thread)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        if not self._closed:  # asked when it can be seen by `close`
            try:
                self._loop.call_soon_threadsafe(self._begin, call, future)
            except RuntimeError:  # the loop is closed
                self._closed = True
        if self._closed:
            self._calls.discard(future)
            if not future.done():
                raise UsageError("the shard has ended: there is nobody to make the call")
        return future

    def close(self) -> None:
        """No more are made. Whoever waits is told."""
        self._closed = True
        for future in list(self._calls):
            _fail(future, ShardDied("the mesh was closed with the call in flight; it may have run or not"))

    def _begin(self, call: Callable[[], Coroutine[Any, Any, R]], future: CallFuture[R]) -> None:
        if future.done():  # cancelled, or given up
            return
        try:
            task = self._loop.create_task(_run(call))
        except BaseException as error:  # a task factory of the application's
            _fail(future, error)
            raise

        def cancelled(future: concurrent.futures.Future[R]) -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):  # the loop is closed, and so the task is over
                    self._loop.call_soon_threadsafe(task.cancel)

        def ended(task: asyncio.Task[R]) -> None:
            if task.cancelled():
                future.cancel()
                return
            error = task.exception()
            if error is not None:
                _fail(future, error)
            else:
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    future.set_result(task.result())

        task.add_done_callback(ended)
        future.add_done_callback(cancelled)


async def _run(call: Callable[[], Coroutine[Any, Any, R]]) -> R:
    return await call()


def _fail(future: CallFuture[Any], error: BaseException) -> None:
    with contextlib.suppress(concurrent.futures.InvalidStateError):
        future.set_exception(error)
