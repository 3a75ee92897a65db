"""Functions that block, run in threads beside the event loop.

No more than so many at once; who comes later waits in the loop, first come, first served, and can still leave. A thread cannot
be stopped: a caller that is cancelled leaves its function running, and the stop of the shard waits for it.

Rejected: `asyncio.to_thread`, whose pool belongs to the loop, takes everything at once, and is waited for without a word when
the loop closes.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from clockworker._errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


class BlockingPool:
    """Of at most `threads`, which are started when they are first needed."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="blocking")
        self._free = asyncio.Semaphore(threads)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Its result, or its exception. It sees a copy of the caller's context variables."""
        if self._closed:
            raise UsageError("run_blocking() was called after the shard had drained")
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        run = functools.partial(contextvars.copy_context().run, function)
        job: Future[T] = self._pool.submit(run, *args, **kwargs)
        self._running += 1
        self._idle.clear()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended))
        return await asyncio.wrap_future(job)

    async def drain(self) -> None:
        """Wait until no function runs any more. From then on none may."""
        while self._running:
            await self._idle.wait()
        self._closed = True
        self._pool.shutdown(wait=False)

    @property
    def running(self) -> int:
        """Functions that run now."""
        return self._running

    def _ended(self) -> None:
        self._running -= 1
        self._free.release()
        if self._running == 0:
            self._idle.set()
