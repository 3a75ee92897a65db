"""What `stats()` and `queue_stats()` return: the same structs as on asyncio."""

from __future__ import annotations

import heapq
from collections.abc import Hashable

from clockworker.executor._stats import DurationStats, ExecutorStats, QueueStats
from clockworker.trio._gate import Gate
from clockworker.trio._steps_cy import QueueState


def executor_stats(gate: Gate) -> ExecutorStats:
    queues = gate.queues.values()
    return ExecutorStats(
        runnable=sum(queue.runnable for queue in queues),
        tasks=sum(queue.live for queue in queues),
        polls=sum(queue.polls for queue in queues),
        busy_ns=sum(queue.busy_ns for queue in queues),
        stolen_ns=sum(queue.stolen_ns for queue in queues),
        spawned=sum(queue.spawned for queue in queues),
        finished=sum(queue.finished for queue in queues),
        panics=sum(queue.panics for queue in queues),
        turns=gate.turns,
        driver_ns=gate.driver_ns,
        idle_ns=gate.idle_ns,
        decision_time=DurationStats.of(gate.decision_time),
    )


def queue_stats(queue: QueueState, top_groups: int) -> QueueStats:
    return QueueStats(
        key=queue.key,
        share=queue.entity.share,
        runnable=queue.runnable,
        tasks=queue.live,
        polls=queue.polls,
        busy_ns=queue.busy_ns,
        stolen_ns=queue.stolen_ns,
        spawned=queue.spawned,
        finished=queue.finished,
        panics=queue.panics,
        slice_overruns=queue.slice_overruns,
        preemptions=queue.preemptions,
        poll_time=(poll_time := DurationStats.of(queue.poll_time)),
        first_poll_wait=DurationStats.of(queue.first_poll_wait),
        wait=DurationStats.of(queue.wait),
        slow_polls=queue.slow_polls,
        top_groups=_top_groups(queue, top_groups),
        whole_step=poll_time,
    )


def _top_groups(queue: QueueState, count: int) -> tuple[tuple[Hashable, int], ...]:
    top = heapq.nlargest(count, [*queue.groups.values()], key=lambda membership: membership.service_ns)
    return tuple((membership.group, membership.service_ns) for membership in top)
