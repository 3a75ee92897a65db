"""The log of slow steps: tasks that kept the core for longer than their queue's limit without giving way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable, Sequence
from typing import Any

from clockworker.executor import Executor
from clockworker.shards.config._config import QueueConfig
from clockworker.shards.logs._log_limit import Limiter, more

log = logging.getLogger("clockworker.shard")


def log_slow_polls(executor: Executor, queues: Sequence[QueueConfig], slow_poll: float) -> None:
    """Log them from now on, each queue's by themselves and at most a few a minute. slow_poll: seconds, for queues of which
    nothing else is said."""
    limits = {queue.name: slow_poll if queue.slow_poll is None else queue.slow_poll for queue in queues}
    limiters = {name: Limiter() for name in limits}

    def report(key: Hashable, task: asyncio.Task[Any], elapsed_ns: int) -> None:
        name = str(key)
        unsaid = limiters[name].may_say(time.monotonic())
        if unsaid is None:
            return
        text = "a step of task %r in queue %r took %.3f s (the limit is %g)%s"
        values = (task.get_name(), name, elapsed_ns / 1e9, limits[name], more(unsaid))
        # The step is over, so the record would not find its queue by itself.
        record = log.makeRecord(log.name, logging.WARNING, __file__, 0, text, values, None)
        record.queue = name
        if shown := getattr(record, "where", None):
            record.where = f"{shown} {name}"
        log.handle(record)

    executor.report_slow_polls({name: limit for name, limit in limits.items() if limit}, report)
