"""Threads for functions that block, by depth.

A function that calls another shard (`call_threadsafe`) holds its thread until it is answered, and what serves the call may
want a thread too: if all were alike they could all be held by functions that wait for one more. So each depth of calls
(`ipc._credit_cy`) has threads of its own, and a function's calls are one deeper than what has called `run_blocking`. Most
applications use one depth or two. At the greatest depth nothing waits for a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from clockworker._errors import ChannelFull
from clockworker.ipc.calls._chain_cy import DEEPEST, deeper
from clockworker.shards.worker._blocking import Blocking, BlockingPool

T = TypeVar("T")


class BlockingPools(Blocking):
    """Of at most `threads` for each depth, which are started when they are first needed.

    account: that of whoever calls, an object that stands for a queue and a group.
    """

    def __init__(self, threads: int, account: Callable[[], object] = lambda: None) -> None:
        self._threads = threads
        self._account = account
        self._refuse: Callable[[BlockingPool], None] = lambda pool: None  # what a new one is told
        self._pools = [BlockingPool(threads)]  # by depth

    @contextlib.contextmanager
    def calling(self, what: Callable[..., object] | str, function: Callable[[], T]) -> Iterator[asyncio.Future[T]]:
        """The same for a caller that has something to do meanwhile; see `BlockingPool.calling`."""
        with deeper() as depth:
            while len(self._pools) <= depth:
                self._pools.append(self._new())
            pool = self._pools[depth]
            if depth == DEEPEST and pool.running >= self._threads:
                raise ChannelFull(
                    f"{self._threads} functions run in threads at depth {depth}, where none waits for one"
                )
            with pool.calling(what, function, self._account()) as future:
                try:
                    yield future
                finally:
                    del future

    async def drain(self) -> None:
        """Wait until no call runs, and none waits. More may follow: a drained shard still serves its peers."""
        while any(pool.running or pool.waiting for pool in self._pools):
            for pool in list(self._pools):
                await pool.drain()

    def close(self, why: str = "run_blocking() was called after the shard had ended") -> None:
        """Refuse calls from here on. Threads end when they have nothing to do."""
        self._refuse = lambda pool: pool.close(why)
        for pool in self._pools:
            pool.close(why)

    def forked(self, end: Callable[[], object], why: str) -> None:
        """In a child: there are no threads. The one thread that there is may be ours: then `end` is called when its function
        returns."""
        self._refuse = lambda pool: pool.forked(end, why)
        for pool in self._pools:
            pool.forked(end, why)

    def counts(self) -> tuple[int, int]:
        """How many functions run, and how many calls wait for a thread."""
        return self.running, self.waiting

    @property
    def running(self) -> int:
        """Functions that run now."""
        return sum(pool.running for pool in self._pools)

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return sum(pool.waiting for pool in self._pools)

    def _new(self) -> BlockingPool:
        pool = BlockingPool(self._threads)
        self._refuse(pool)
        return pool
