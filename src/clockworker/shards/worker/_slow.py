"""The log of slow steps: tasks that kept the core for longer than their queue's limit without giving way. In a preemptive queue
others had it in between; unless a single slice was as long, which then could not be cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Sequence
from typing import Any

from clockworker.executor import Executor
from clockworker.shards.config._config import QueueConfig
from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.worker._hogs import HogWatch, warn_of_queue


def log_slow_polls(executor: Executor, queues: Sequence[QueueConfig], slow_poll: float, watch: HogWatch) -> None:
    """Log them from now on, each queue's by themselves and at most a few a minute. slow_poll: seconds, for queues of which
    nothing else is said. watch: is told of those that were cut."""
    limits = {queue.name: slow_poll if queue.slow_poll is None else queue.slow_poll for queue in queues}
    limiters = {(name, cut): Limiter() for name in limits for cut in (False, True)}
    preemptive = {queue.name for queue in queues if queue.preemptive}

    def report(key: Hashable, task: asyncio.Task[Any], elapsed_ns: int) -> None:
        name = str(key)
        if name in preemptive:
            tell(name, task, elapsed_ns, "a slice of task %r in queue %r took %.3f s, and could not be cut")
        else:
            tell(name, task, elapsed_ns, "a step of task %r in queue %r took %.3f s")

    def report_long(key: Hashable, task: asyncio.Task[Any], elapsed_ns: int, slices: int) -> None:
        name = str(key)
        watch.was_long(name, task, elapsed_ns)
        text = f"a step of task %r in queue %r took %.3f s in {slices} slices: others ran in between, and none of its own queue"
        tell(name, task, elapsed_ns, text, cut=True)

    def tell(name: str, task: asyncio.Task[Any], elapsed_ns: int, text: str, *, cut: bool = False) -> None:
        unsaid = limiters[name, cut].may_say(time.monotonic())
        if unsaid is None:
            return
        text += " (the limit is %g)%s"
        values = (task.get_name(), name, elapsed_ns / 1e9, limits[name], more(unsaid))
        warn_of_queue(name, text, *values)

    executor.report_slow_polls({name: limit for name, limit in limits.items() if limit}, report)
    executor.report_long_steps(report_long)
