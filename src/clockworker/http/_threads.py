"""What `--threads` means to libraries, in the process of a shard.

`--threads N` is for all that runs functions in threads: anyio's default limiter, which Starlette and FastAPI use for `def`
endpoints (else 40), the loop's default executor, which `asyncio.to_thread` uses (else CPUs + 4, at most 32), and the threads of
`run_blocking` and of WSGI applications, which the shard makes (else `--blocking-threads`).

anyio is not imported for this. Applications are imported before a shard serves, and one that uses anyio has it by then; where
it comes later, its own 40 stand.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

from clockworker.shards.config._http import HttpConfig

_set: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def set_threads(config: HttpConfig) -> None:
    """To be called in a task of the loop that serves, by each server: the first is heard."""
    loop = asyncio.get_running_loop()
    if loop in _set:
        return
    _set.add(loop)
    if config.threads is None:
        return
    loop.set_default_executor(ThreadPoolExecutor(config.threads, thread_name_prefix="executor"))
    if "anyio" in sys.modules:
        import anyio.to_thread

        anyio.to_thread.current_default_thread_limiter().total_tokens = config.threads
