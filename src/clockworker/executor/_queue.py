"""The declaration of a queue, as a user writes it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.executor._eevdf_cy import MAX_SHARE
from clockworker.executor._preempt import why_not
from clockworker.executor._schedulers_cy import Scheduler

MAX_QUEUES = 1_024
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
        check_share(self.key, self.share)
        if self.scheduler is not None and not isinstance(self.scheduler, Scheduler):
            raise ConfigurationError(
                f"scheduler of queue {self.key!r} is {self.scheduler!r}; it must be an instance of a Scheduler, such as LAS()"
            )
        if self.slice is not None and not (
            isinstance(self.slice, int | float) and not isinstance(self.slice, bool) and 1e-6 <= self.slice <= 10
        ):
            raise ConfigurationError(
                f"slice of queue {self.key!r} is {self.slice!r}; it must be 0.000001 to 10 seconds"
            )
        check_on_panic(self.on_panic, optional=True)
        check_preemptive(self.key, self.preemptive, self.slice)


def check_preemptive(key: Hashable, preemptive: object, slice: float | None) -> None:
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


def check_share(key: Hashable, share: object) -> None:
    if not isinstance(share, int) or isinstance(share, bool) or not 1 <= share <= MAX_SHARE:
        raise ConfigurationError(
            f"share of queue {key!r} is {share!r}; it must be a whole number from 1 to {MAX_SHARE:,}"
        )


def check_on_panic(value: object, optional: bool = False) -> None:
    if value not in ("propagate", "catch") and not (optional and value is None):
        raise ConfigurationError(f"on_panic is {value!r}; it must be 'propagate' or 'catch'")


def check_queues(queues: Sequence[Queue]) -> None:
    """Whether these can be the queues of one executor. Raises `ConfigurationError`."""
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
