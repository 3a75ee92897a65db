# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A queue while it runs: its entity in the policy, its scheduler, its counters.

What an executor keeps of a queue is this and what its own loop asks for, in a subclass: `_tasks_cy` for asyncio's, and
`clockworker.trio` for trio's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._eevdf_cy import Entity
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._schedulers_cy import RunnableFifo, Scheduler


@cython.cclass
class RunningQueue:
    """key, share and so on: see `QueueStats`, which these counters become."""

    key: Hashable
    scheduler: Scheduler
    # The scheduler, if it is exactly the default one, which does not fail and observes nothing.
    fifo: RunnableFifo | None
    entity: Entity
    catch: bool  # panics are left to whoever awaits
    groups: dict[Hashable, Any]  # their memberships
    runnable: int
    live: int
    polls: int
    busy_ns: int
    stolen_ns: int  # by others, of its steps; no part of busy_ns
    spawned: int
    finished: int
    panics: int
    slice_overruns: int  # steps that took longer than the queue's slice
    preemptions: int  # steps during which a queue with an earlier deadline became runnable
    poll_time: Histogram
    first_poll_wait: Histogram
    wait: Histogram  # sampled
    pushes_to_sample: int
    slow_ns: int  # steps that take as long are reported; 0: none
    slow_polls: int

    def __init__(self, key: Hashable, scheduler: Scheduler, catch: bool) -> None:
        if not isinstance(scheduler, Scheduler):
            raise TypeError(f"a queue needs a Scheduler, not {scheduler!r}")
        self.key = key
        self.use(scheduler)
        self.catch = catch
        self.groups = {}
        self.runnable = 0
        self.live = 0
        self.polls = 0
        self.busy_ns = 0
        self.stolen_ns = 0
        self.spawned = 0
        self.finished = 0
        self.panics = 0
        self.slice_overruns = 0
        self.preemptions = 0
        self.poll_time = Histogram()
        self.first_poll_wait = Histogram()
        self.wait = Histogram()
        self.pushes_to_sample = 1
        self.slow_ns = 0
        self.slow_polls = 0

    def use(self, scheduler: Scheduler) -> None:
        """Take the scheduler, which is empty."""
        self.scheduler = scheduler
        self.fifo = scheduler if type(scheduler) is RunnableFifo else None
