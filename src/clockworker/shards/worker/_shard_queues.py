"""The executor's queues of a shard: what the application declares, under what the operator says.

A scheduler is an object that serves one queue of one process. So each process has its own: the application's is made when that
is imported, one that the operator names is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clockworker._errors import ApplicationError, ConfigurationError
from clockworker.executor import Queue, QueueGroup, Scheduler
from clockworker.executor._preempt import why_not
from clockworker.executor._queue import queues_in
from clockworker.ipc.calls._frames import queue_identifier
from clockworker.shards.config._config import QueueConfig, QueueGroupConfig, ServeConfig
from clockworker.shards.config._groups import merge_groups, put_into_groups
from clockworker.shards.config._queues import merge
from clockworker.shards.config._schedulers import SCHEDULERS, make_scheduler
from clockworker.shards.config._spelling import did_you_mean

Declared = Sequence[Queue | QueueGroup]


def described(declared: Declared) -> tuple[QueueConfig, ...]:
    """What the application says of queues. The schedulers are its own objects, and not described."""
    return tuple(
        QueueConfig(str(q.key), q.share, None, q.slice, q.on_panic, None, q.preemptive or None, group)
        for q, group in _with_groups(declared, None)
    )


def described_groups(declared: Declared, outer: str | None = None) -> tuple[QueueGroupConfig, ...]:
    """What it says of groups of queues."""
    return tuple(
        group
        for each in declared
        if isinstance(each, QueueGroup)
        for group in (
            QueueGroupConfig(str(each.key), each.share, each.slice, outer),
            *described_groups(each.queues, str(each.key)),
        )
    )


def _with_groups(declared: Declared, group: str | None) -> Iterator[tuple[Queue, str | None]]:
    for each in declared:
        if isinstance(each, QueueGroup):
            yield from _with_groups(each.queues, str(each.key))
        else:
            yield each, group


def shown(queues: Sequence[QueueConfig], declared: Declared) -> tuple[QueueConfig, ...]:
    """The same for people, who want to know what share and which scheduler a queue has."""
    names: dict[object, str] = {kind: name for name, kind in reversed(SCHEDULERS.items())}
    own = {
        queue.key: names.get(kind, kind.__qualname__)
        for queue in queues_in(declared)
        if (kind := type(queue.scheduler)) is not type(None)
    }
    return tuple(queue.over(QueueConfig(queue.name, 1, own.get(queue.name, "fifo"))) for queue in queues)


def queues_of(config: ServeConfig, shard: int, declared: Declared) -> tuple[QueueConfig, ...]:
    """All that is said of this shard's queues. Of one that has a scheduler of the application's none is said."""
    return merge(described(declared), config.queues, config.shard_queues.get(shard, ()))


def make_queues(
    queues: Sequence[QueueConfig], declared: Declared, app_dir: str, groups: Sequence[QueueGroupConfig] = ()
) -> list[Queue | QueueGroup]:
    """Declarations for the executor. groups: what the operator says of them. Raises `ConfigurationError` for queues that one
    shard cannot have, and as `make_scheduler` does."""
    _check_identifiers([queue.name for queue in queues])
    own = {queue.key: queue.scheduler for queue in queues_in(declared)}
    made = [
        Queue(
            queue.name,
            share=1 if queue.share is None else queue.share,
            scheduler=own.get(queue.name) if queue.scheduler is None else _named(queue.name, queue.scheduler, app_dir),
            slice=queue.slice,
            on_panic=queue.on_panic,
            preemptive=bool(queue.preemptive),
        )
        for queue in queues
    ]
    merged = merge_groups(described_groups(declared), groups, queues)
    return put_into_groups(zip(made, [queue.group for queue in queues], strict=True), merged)


def preemptive_of(queues: Sequence[QueueConfig]) -> list[str]:
    """The names of those that are preemptive."""
    return [queue.name for queue in queues if queue.preemptive]


def is_of_machine(error: ConfigurationError) -> bool:
    """Whether a queue has been refused because there can be no preemptive ones here, whoever declares it."""
    needed = why_not()
    return needed is not None and str(error).endswith(needed)


def misspelt(given: Sequence[QueueConfig], declared: Declared) -> list[str]:
    """A line for each queue that the operator probably meant as one of the application's, and called otherwise."""
    names = [str(queue.key) for queue in queues_in(declared)]
    return [
        f"queue {queue.name!r} is not one that the application declares, and is added to them; {hint.rstrip()}"
        for queue in given
        if queue.name not in names and (hint := did_you_mean(queue.name, names))
    ]


def _named(queue: str, scheduler: str, app_dir: str) -> Scheduler:
    try:
        return make_scheduler(scheduler, app_dir)
    except ApplicationError as error:
        raise ApplicationError(f"the scheduler of queue {queue!r}: {error}") from None


def _check_identifiers(names: Sequence[str]) -> None:
    """In calls a queue is a checksum of its name."""
    seen: dict[int, str] = {}
    for name in names:
        other = seen.setdefault(queue_identifier(name), name)
        if other != name:
            raise ConfigurationError(f"queues {other!r} and {name!r} have the same checksum; rename one of them")
