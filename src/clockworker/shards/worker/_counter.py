"""Counters of the application's own, shown beside the server's: in /metrics, in /stats and by `clockworker-top --json`.

Each shard counts for itself, and the supervisor adds up, over shards and over restarts. So a counter is an integer, and
adding to it costs what adding to an integer does; its place in shared memory is written with the others, four times a
second.
"""

from __future__ import annotations

import operator

from clockworker._errors import UsageError
from clockworker.shards.protocol._reading import (
    COUNTER_NAME_BYTES,
    MAX_COUNTER,
    MAX_COUNTERS,
    RESERVED_NAMES,
    Counters,
    is_counter_name,
)


class Counter:
    """A counter of the application's own. Made by `Shard.counter`. Belongs to the shard, and starts from 0 with each
    incarnation: the sums don't."""

    __slots__ = ("_name", "_value")

    def __init__(self, name: str) -> None:
        self._name = name
        self._value = 0

    @property
    def name(self) -> str:
        """As it was asked for, without `_total`."""
        return self._name

    @property
    def value(self) -> int:
        """What this incarnation of the shard has counted."""
        return self._value

    def add(self, count: int = 1) -> None:
        """`count` more. Raises `UsageError`, and counts nothing, for what is no whole number, for a negative one (what only
        grows can be told from a restart), and where the sum would be 2**63 or more."""
        if type(count) is not int:
            count = self._whole(count)
        if count < 0:
            raise UsageError(f"counter {self._name!r} cannot go back by {-count}")
        if self._value + count > MAX_COUNTER:
            raise UsageError(
                f"counter {self._name!r} is at {self._value} and cannot hold {count} more: 2**63 - 1 is its end"
            )
        self._value += count

    def _whole(self, count: object) -> int:
        """Whole numbers of other libraries are as good as int."""
        try:
            return int(operator.index(count))  # type: ignore[arg-type]
        except Exception:
            raise UsageError(
                f"counter {self._name!r} counts whole numbers, and not {type(count).__name__}: give it the smallest unit "
                "as an int, such as cents, bytes or microseconds"
            ) from None

    def __repr__(self) -> str:
        return f"<Counter {self._name} {self._value}>"


class CounterBook:
    """The counters of one shard, by name."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}

    def get(self, name: str) -> Counter:
        """The same for the same name."""
        counter = self._counters.get(name)
        if counter is None:
            self._check(name)
            counter = self._counters[name] = Counter(name)
        return counter

    def read(self) -> Counters:
        return Counters({name: counter.value for name, counter in self._counters.items()})

    def _check(self, name: str) -> None:
        if not is_counter_name(name):
            raise UsageError(
                f"{name!r} is no name for a counter: up to {COUNTER_NAME_BYTES} letters, digits and _, a digit not first"
            )
        if name.startswith(RESERVED_NAMES):
            raise UsageError(f"{name!r} is no name for a counter: {' and '.join(RESERVED_NAMES)} are the server's own")
        if name.endswith("_total"):
            raise UsageError(f"name the counter {name.removesuffix('_total')!r}: _total is added where it is shown")
        if len(self._counters) == MAX_COUNTERS:
            raise UsageError(f"{name!r} would be one counter too many: a shard can have {MAX_COUNTERS}")
