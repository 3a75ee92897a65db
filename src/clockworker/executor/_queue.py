"""The declaration of a queue, and of a group of queues, as a user writes it; what an executor is told beside them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.executor._eevdf_cy import MAX_SHARE
from clockworker.executor._preempt import why_not
from clockworker.executor._schedulers_cy import Scheduler

MAX_QUEUES = 1_024
MAX_POLLS = 1_000_000_000
MAX_SLOW = 1_000_000  # seconds
# Of a preemptive queue, in seconds: to cut takes some 20 us, and what is longer than a second is no slice.
SHORTEST_SLICE = 0.0001
LONGEST_SLICE = 1.0

OnPanic = Literal["propagate", "catch"]


class Queue(msgspec.Struct, frozen=True):
    """The declaration of a queue.

    key: anything hashable; `executor.queue(key)` finds the queue by it.
    share: 1 to 10,000. While several queues have something to run, the core is divided in proportion.
    scheduler: who goes next inside the queue; `RunnableFifo()` unless given. One instance serves one queue.
    slice: seconds; how much the queue wants to run at a stretch. Shorter means served sooner, not more.
    on_panic: "propagate" or "catch"; the executor's unless given.
    preemptive: steps are cut after a slice, so that Python code which never awaits keeps nobody waiting. The slice is a
        millisecond unless one is given (0.0001 to 1), and then longer while nobody else wants the core.
    """

    key: Hashable
    share: int = 1
    scheduler: Scheduler | None = None
    slice: float | None = None
    on_panic: OnPanic | None = None
    preemptive: bool = False

    def __post_init__(self) -> None:
        try:
            hash(self.key)
        except TypeError:
            raise ConfigurationError(f"queue key {self.key!r} is not hashable") from None
        check_share(f"queue {self.key!r}", self.share)
        if self.scheduler is not None and not isinstance(self.scheduler, Scheduler):
            raise ConfigurationError(
                f"scheduler of queue {self.key!r} is {self.scheduler!r}; it must be an instance of a Scheduler, such as LAS()"
            )
        check_slice(f"queue {self.key!r}", self.slice)
        check_on_panic(self.on_panic, optional=True)
        check_preemptive(self.key, self.preemptive, self.slice)


class QueueGroup(msgspec.Struct, frozen=True):
    """Queues that share one share: `Executor([Queue("web", 8), QueueGroup("tenants", share=2, queues=[Queue("a"),
    Queue("b")])])`.

    The core is divided between the queues and groups that stand beside each other, and what a group gets between those in it.
    What one of them does not use is for the others of the group first.

    key: anything hashable; `executor.queue_group(key)` finds the group by it. The keys of queues are unique in the executor,
        whatever group they are in, and so are those of groups.
    share: 1 to 10,000, beside the queues and groups outside. Those of the queues inside are between themselves.
    queues: one or more; groups in groups, up to 8 deep.
    slice: seconds, as of a queue; that of the queue inside that has the shortest, unless given.
    """

    key: Hashable
    share: int = 1
    queues: Sequence[Queue | QueueGroup] = ()
    slice: float | None = None

    def __post_init__(self) -> None:
        try:
            hash(self.key)
        except TypeError:
            raise ConfigurationError(f"key {self.key!r} of a group of queues is not hashable") from None
        check_share(f"group of queues {self.key!r}", self.share)
        check_slice(f"group of queues {self.key!r}", self.slice)
        if isinstance(self.queues, str | bytes | Queue | QueueGroup) or not isinstance(self.queues, Iterable):
            raise ConfigurationError(
                f"queues of group {self.key!r} is {self.queues!r}; give a list, such as [Queue('a'), Queue('b')]"
            )
        msgspec.structs.force_setattr(self, "queues", tuple(self.queues))
        if not self.queues:
            raise ConfigurationError(f"group of queues {self.key!r} is empty; give at least one queue")


MAX_DEPTH = 8


def queues_in(declared: Iterable[Queue | QueueGroup]) -> Iterator[Queue]:
    """All queues, those in groups too, in the order of their declaration."""
    for each in declared:
        if isinstance(each, QueueGroup):
            yield from queues_in(each.queues)
        else:
            yield each


def check_preemptive(key: Hashable, preemptive: object, slice: float | None) -> None:
    """Raises `ConfigurationError` for what cannot be, and where there are no preemptive queues."""
    if not isinstance(preemptive, bool):
        raise ConfigurationError(f"preemptive of queue {key!r} is {preemptive!r}; it must be True or False")
    if not preemptive:
        return
    if slice is not None and not SHORTEST_SLICE <= slice <= LONGEST_SLICE:
        raise ConfigurationError(
            f"slice of queue {key!r} is {slice!r}; of a preemptive queue it must be {SHORTEST_SLICE} to {LONGEST_SLICE} seconds"
        )
    missing = why_not()
    if missing is not None:
        raise ConfigurationError(f"queue {key!r} is preemptive, which needs {missing}")


def check_share(of: str, share: object) -> None:
    """of: "queue 'a'", for what is said. Raises `ConfigurationError`."""
    if not isinstance(share, int) or isinstance(share, bool) or not 1 <= share <= MAX_SHARE:
        raise ConfigurationError(f"share of {of} is {share!r}; it must be a whole number from 1 to {MAX_SHARE:,}")


def check_slice(of: str, slice: object) -> None:
    """Seconds, or None for the executor's own. Raises `ConfigurationError`."""
    if slice is not None and not (
        isinstance(slice, int | float) and not isinstance(slice, bool) and 1e-6 <= slice <= 10
    ):
        raise ConfigurationError(f"slice of {of} is {slice!r}; it must be 0.000001 to 10 seconds")


def check_on_panic(value: object, optional: bool = False) -> None:
    """Raises `ConfigurationError`. optional: None says to take the executor's."""
    if value not in ("propagate", "catch") and not (optional and value is None):
        raise ConfigurationError(f"on_panic is {value!r}; it must be 'propagate' or 'catch'")


def check_queues(declared: Sequence[Queue | QueueGroup]) -> None:
    """Whether these can be the queues of one executor. Raises `ConfigurationError`."""
    _check_groups(declared, set(), 0)
    queues = list(queues_in(declared))
    if not queues:
        raise ConfigurationError("an executor needs at least one queue, such as Queue('default')")
    if len(queues) > MAX_QUEUES:
        raise ConfigurationError(f"{len(queues):,} queues are too many; an executor takes up to {MAX_QUEUES:,}")
    keys: set[Hashable] = set()
    schedulers: dict[int, Queue] = {}
    for queue in queues:
        if not isinstance(queue, Queue):
            raise ConfigurationError(f"queues must be Queue(...) declarations, and one is {queue!r}")
        if queue.key in keys:
            raise ConfigurationError(f"two queues have the key {queue.key!r}; give each a key of its own")
        keys.add(queue.key)
        if queue.scheduler is not None:
            other = schedulers.setdefault(id(queue.scheduler), queue)
            if other is not queue:
                kind = type(queue.scheduler).__name__
                raise ConfigurationError(
                    f"queues {other.key!r} and {queue.key!r} share one scheduler; an instance serves one queue: "
                    f"give each a {kind}() of its own"
                )


def _check_groups(declared: Iterable[Queue | QueueGroup], keys: set[Hashable], depth: int) -> None:
    for each in declared:
        if isinstance(each, QueueGroup):
            if each.key in keys:
                raise ConfigurationError(f"two groups of queues have the key {each.key!r}; give each a key of its own")
            if depth == MAX_DEPTH:
                raise ConfigurationError(
                    f"group of queues {each.key!r} is in {depth} others; they can be {MAX_DEPTH} deep"
                )
            keys.add(each.key)
            _check_groups(each.queues, keys, depth + 1)


def check_times(*, sched_latency: float, min_slice: float, driver_yield: float, max_polls_per_yield: int) -> None:
    """Whether an executor can have these. Raises `ConfigurationError`."""
    for name, value in (("sched_latency", sched_latency), ("min_slice", min_slice), ("driver_yield", driver_yield)):
        if not isinstance(value, int | float) or not 0 < value <= 10:
            raise ConfigurationError(f"{name} is {value!r}; it must be more than 0 and at most 10 seconds")
    if not isinstance(max_polls_per_yield, int) or not 1 <= max_polls_per_yield <= MAX_POLLS:
        raise ConfigurationError(
            f"max_polls_per_yield is {max_polls_per_yield!r}; it must be a whole number from 1 to {MAX_POLLS:,}"
        )


def check_slow_limit(key: Hashable, seconds: object) -> None:
    """Of `report_slow_polls`."""
    if not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SLOW:
        raise ConfigurationError(f"the limit of queue {key!r} is {seconds!r}; it must be 0 to {MAX_SLOW:,} seconds")


def unknown_key(what: str, key: object, known: Iterable[Hashable]) -> KeyError:
    """Of a look-up among those that are `known`. what: "queue", ..."""
    return KeyError(f"no {what} {key!r}; there are {', '.join(map(repr, known)) or 'none'}")
