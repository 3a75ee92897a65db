"""Figures as words: how a section, a histogram and a table of names lie in memory, and what of them is believed.

A section is its struct's fields in order, a word each, but a histogram is its length, total, maximum and a word for each
bucket, and a table of groups or counters is their number and, for each, the bytes of its name and its value.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from clockworker.executor import DurationStats
from clockworker.executor._histogram_cy import BUCKETS
from clockworker.shards.protocol._figures import Section, fields
from clockworker.shards.protocol._reading import (
    COUNTER_NAME_BYTES,
    MAX_COUNTERS,
    MAX_GROUPS,
    CallReading,
    Groups,
    LoopReading,
    ProcessReading,
    QueueReading,
    RingReading,
)
from clockworker.shards.protocol._request_readings import RouteReading
from clockworker.shards.protocol._topic_readings import TopicReading

HISTOGRAM_WORDS = 3 + BUCKETS
_WORD = 2**64 - 1

# The most that a figure can be. Nanoseconds: 73 years, of one thread. Bytes: what 100 GB/s add up to in four months. The rest:
# one every nanosecond for as long.
MOST_NS = 2**61
MOST_BYTES = 2**60
MOST = 2**53

S = TypeVar("S", bound=Section)


class Table:
    """Where at most `most` names with their values are. The words of a name: 8 bytes each, UTF-8, padded with zeros."""

    def __init__(self, most: int, name_words: int) -> None:
        self._most = most
        self._name_words = name_words
        self._each = name_words + 1
        self.words = 1 + most * self._each

    def put(self, words: memoryview[int], at: int, values: Mapping[str, int]) -> None:
        """At most `most` of them."""
        words[at] = len(values)
        at += 1
        for name, value in values.items():
            words[at : at + self._each] = array(
                "Q", padded(name, self._name_words) + _word(value).to_bytes(8, sys.byteorder)
            )
            at += self._each

    def get(self, words: memoryview[int], at: int, most: int) -> dict[str, int]:
        """What `put` has put there. Raises `Nonsense` for what it cannot have put; most: that a value can be."""
        values = {}
        for place in range(at + 1, at + 1 + bounded("length", words[at], self._most) * self._each, self._each):
            end = place + self._name_words
            name = unpadded(words[place:end])
            values[name] = bounded(name, words[end], most)
        return values


def padded(name: str, words: int) -> bytes:
    """A character that does not fit is left out whole."""
    data = name.encode(errors="replace")[: 8 * words]
    return data.decode(errors="ignore").encode().ljust(8 * words, b"\0")


def unpadded(words: memoryview[int]) -> str:
    return words.tobytes().rstrip(b"\0").decode(errors="replace")


GROUPS = Table(MAX_GROUPS, 4)
COUNTERS = Table(MAX_COUNTERS, COUNTER_NAME_BYTES // 8)

# Of each figure its name, its type and the most that it can be.
FIELDS: dict[type[Section], list[tuple[str, Any, int]]] = {
    section: [
        (field.name, field.type, MOST_NS if field.in_ns else MOST_BYTES if field.in_bytes else MOST)
        for field in fields(section)
    ]
    for section in (ProcessReading, LoopReading, CallReading, QueueReading, RingReading, RouteReading, TopicReading)
}


def words_of(section: type[Section]) -> int:
    """How many words of shared memory its figures take."""
    sizes: dict[Any, int] = {DurationStats: HISTOGRAM_WORDS, Groups: GROUPS.words}
    return sum(sizes.get(field, 1) for _, field, _ in FIELDS[section])


class Nonsense(Exception):
    """What no honest shard writes."""


def bounded(name: str, value: int, most: int) -> int:
    """The value. Raises `Nonsense` for more than that."""
    if value > most:
        raise Nonsense(f"{name} is more than it can be")
    return value


def _word(value: int) -> int:
    """Of a figure that no word takes the nearest one is written: the others must not go without."""
    return min(max(0, int(value)), _WORD)


def put(words: memoryview[int], at: int, section: Section) -> int:
    """Write a section. Returns where the next one begins."""
    for value in msgspec.structs.astuple(section):
        if type(value) is DurationStats:
            try:
                buckets = array("Q", value.buckets)
            except (OverflowError, TypeError):
                buckets = array("Q", map(_word, value.buckets))
            words[at : at + 3] = array("Q", (len(buckets), _word(value.total_ns), _word(value.max_ns)))
            words[at + 3 : at + 3 + len(buckets)] = buckets
            at += HISTOGRAM_WORDS
        elif type(value) is Groups:
            GROUPS.put(words, at, value.service_ns)
            at += GROUPS.words
        else:
            words[at] = value if 0 <= value <= _WORD else _word(value)
            at += 1
    return at


def get(kind: type[S], words: memoryview[int], at: int) -> tuple[S, int]:
    """The section that begins there, and where the next one does."""
    values: list[Any] = []
    for name, field, most in FIELDS[kind]:
        if field is DurationStats:
            length, total_ns, max_ns = words[at : at + 3]
            first = at + 3
            buckets = tuple(words[first : first + bounded(f"{name}, buckets", length, BUCKETS)].tolist())
            bounded(f"{name}, a bucket", max(buckets, default=0), MOST)
            bounded(f"{name}, in all", total_ns, MOST_NS)
            bounded(f"{name}, at most", max_ns, MOST_NS)
            values.append(DurationStats(buckets, max_ns, total_ns))
            at += HISTOGRAM_WORDS
        elif field is Groups:
            values.append(Groups(GROUPS.get(words, at, MOST_NS)))
            at += GROUPS.words
        else:
            values.append(bounded(name, words[at], most))
            at += 1
    return kind(*values), at
