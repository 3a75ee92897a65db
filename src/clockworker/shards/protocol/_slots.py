"""A shard's readings in memory that the supervisor sees without the shard's help: while it is stuck, after it died.

The memory is a sealed memfd of 64-bit words: a header, then two sets of slots of fixed layout. One process writes. It
fills the set that the sequence does not point at (by its lowest bit) and then adds one to the sequence, which is the only
act of publication. A reader copies the set pointed at, and takes the copy if the sequence is still the same: the writer
cannot have touched that set meanwhile. This is the kernel's `seqcount_latch`. With a plain sequence lock, which was tried,
a writer that is killed or merely not running half-way leaves readers without a whole set; here the one before is always
there.

    header   version, for how many queues there is room, number of shards, sequence
    set      written_ns, number of routes, number of topics, process, loop, calls, the application's counters; of each queue
             its section; of each peer its ring's section; of each route its queue's number, its name, its section; of each
             topic its name and its section

How a section lies there, `_slot_words` says. The names of queues are not there: the shard tells the supervisor of them, once
the application has declared them. The memory is made before, with room for as many as a shard may have (pages that nobody
touches cost nothing); where a set begins goes by how many there are. Rings come last, because they alone grow with the square
of the number of shards: they are read only by who asks for them.

A shard at rest writes no new set, but the time of the last one anew. A reader that has that set reads its time alone, under the
same rule: the sequence is looked at before and after.

Aligned 64-bit stores through a memoryview are single moves in CPython, and so are those of memcpy on whole words. Their
order is the program's on x86; elsewhere `order` keeps the sequence from passing what it publishes, as the kernel's barriers do.

What is read is not trusted, since the shard that wrote it may have gone mad. Each figure has a bound beyond which no honest
shard can get (`MOST`), a length that of its table, and the name of a counter obeys the rules of `Shard.counter`. A set that
breaks one of them is not taken: the one before it stays, and `SlotReader.nonsense` says why. Rejected: to cut the figure off at
its bound. The sums of a server, which never go back, would keep it for ever.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from clockworker._errors import ControlError
from clockworker.ipc.rings._mapping import Mapping as MappedMemory
from clockworker.ipc.rings._memory_cy import create_memory, order
from clockworker.shards.protocol._reading import (
    MAX_COUNTER,
    RESERVED_NAMES,
    CallReading,
    Counters,
    LoopReading,
    ProcessReading,
    QueueReading,
    Reading,
    RingReading,
    is_counter_name,
)
from clockworker.shards.protocol._request_readings import MAX_ROUTES, ROUTE_BYTES, Requests, RouteReading
from clockworker.shards.protocol._slot_words import (
    COUNTERS,
    FIELDS,
    HISTOGRAM_WORDS,
    MOST_NS,
    Nonsense,
    bounded,
    get,
    padded,
    put,
    unpadded,
    words_of,
)
from clockworker.shards.protocol._topic_readings import MAX_TOPICS, TOPIC_BYTES, TopicReading, TopicReadings

_HEADER = 4
_SEQUENCE = 3
_ROUTES_AT = 1  # of a set: how many routes it has
_TOPICS_AT = 2
_COUNTS = 3  # before the sections
_ATTEMPTS = 1000

_Route: TypeAlias = tuple[str, str, RouteReading]  # queue, name, figures
_Topic: TypeAlias = tuple[str, TopicReading]

_NO_RING = RingReading()
_NO_ROUTE = RouteReading()
_NO_TOPIC = TopicReading()


_SHARD_WORDS = _COUNTS + words_of(ProcessReading) + words_of(LoopReading) + words_of(CallReading) + COUNTERS.words
_QUEUE_WORDS = words_of(QueueReading)
_RING_WORDS = words_of(RingReading)
_NAME_WORDS = ROUTE_BYTES // 8
_ROUTE_WORDS = 1 + _NAME_WORDS + words_of(RouteReading)
_MAX_ROUTES = 2 * MAX_ROUTES  # with names, and the others of as many queues
_TOPIC_NAME_WORDS = TOPIC_BYTES // 8
_TOPIC_WORDS = _TOPIC_NAME_WORDS + words_of(TopicReading)
_MAX_TOPICS = MAX_TOPICS + 1  # and the others

# A checksum of all this: with another figure, or another order, the slots are of another version by themselves.
VERSION = zlib.crc32(
    repr(
        (
            [[(name, field.__name__) for name, field, _ in each] for each in FIELDS.values()],
            (
                _HEADER,
                HISTOGRAM_WORDS,
                _SHARD_WORDS,
                _QUEUE_WORDS,
                _RING_WORDS,
                _ROUTE_WORDS,
                _MAX_ROUTES,
                _TOPIC_WORDS,
            ),
        )
    ).encode()
)


class _Layout:
    """Where everything is, in words."""

    def __init__(self, queues: int, shards: int) -> None:
        self.rings = _SHARD_WORDS + queues * _QUEUE_WORDS
        self.routes = self.rings + shards * _RING_WORDS
        self.topics = self.routes + _MAX_ROUTES * _ROUTE_WORDS
        self.set = self.topics + _MAX_TOPICS * _TOPIC_WORDS
        self.bytes = 8 * (_HEADER + 2 * self.set)

    def first(self, sequence: int) -> int:
        return _HEADER + (sequence & 1) * self.set


def create_slots(queues: int, shards: int) -> int:
    """New slots for a shard with so many queues, among so many shards; all zero. A memfd, close-on-exec."""
    size = _Layout(queues, shards).bytes
    descriptor = create_memory("slots", size)
    os.pwrite(descriptor, array("Q", [VERSION, queues, shards, 0]), 0)
    return descriptor


class _Slots:
    def __init__(self, descriptor: int, queues: int | None, *, writable: bool) -> None:
        self._memory = MappedMemory(descriptor, writable=writable)
        self._words = self._memory.words
        version, self._room, self._shards = self._words[:_SEQUENCE]
        if version != VERSION:
            raise ControlError(f"the slots are of version {version}; this is version {VERSION}")
        self._lay_out(self._room if queues is None else queues)

    def _lay_out(self, queues: int) -> None:
        if queues > self._room:
            raise ControlError(f"the slots have no room for {queues} queues, but for {self._room}")
        self._layout = _Layout(queues, self._shards)

    def close(self) -> None:
        self._memory.close()


class SlotWriter(_Slots):
    """The shard's side, for so many queues, or all that there is room for: the only writer. Maps the descriptor, which stays
    the caller's."""

    def __init__(self, descriptor: int, queues: int | None = None) -> None:
        super().__init__(descriptor, queues, writable=True)
        self._routes: tuple[list[_Route], list[_Route]] = ([], [])  # as they are in either set
        self._topics: tuple[list[_Topic], list[_Topic]] = ([], [])

    def write(self, reading: Reading, rings: Mapping[int, RingReading] | None = None) -> None:
        """`rings` by peer; of those that are not there the slots say zero."""
        words = self._words
        sequence = words[_SEQUENCE] + 1
        at = self._layout.first(sequence)
        words[at] = reading.written_ns
        words[at + _ROUTES_AT] = self._put_routes(sequence, at + self._layout.routes, reading)
        words[at + _TOPICS_AT] = self._put_topics(sequence, at + self._layout.topics, reading)
        at += _COUNTS
        for section in (reading.process, reading.loop, reading.calls):
            at = put(words, at, section)
        COUNTERS.put(words, at, reading.counters.values)
        at += COUNTERS.words
        for queue in reading.queues.values():
            at = put(words, at, queue)
        for peer in range(self._shards):
            at = put(words, at, rings.get(peer, _NO_RING) if rings else _NO_RING)
        order()
        words[_SEQUENCE] = sequence
        order()  # the next set is the one that was read until now

    def _put_routes(self, sequence: int, at: int, reading: Reading) -> int:
        """Returns how many there are."""
        words = self._words
        written = self._routes[sequence & 1]
        numbers = {queue: number for number, queue in enumerate(reading.queues)}
        routes = [row for row in reading.http.rows() if row[0] in numbers][:_MAX_ROUTES]
        for number, row in enumerate(routes):
            queue, name, figures = row
            if number == len(written):
                written.append(("", "", _NO_ROUTE))
            before = written[number]
            if before[:2] != row[:2]:
                words[at] = numbers[queue]
                words[at + 1 : at + 1 + _NAME_WORDS] = array("Q", padded(name, _NAME_WORDS))
            if before[2] is not figures:
                put(words, at + 1 + _NAME_WORDS, figures)
            written[number] = row
            at += _ROUTE_WORDS
        return len(routes)

    def _put_topics(self, sequence: int, at: int, reading: Reading) -> int:
        """Returns how many there are."""
        words = self._words
        written = self._topics[sequence & 1]
        topics = list(reading.topics.values.items())[:_MAX_TOPICS]
        for number, (name, figures) in enumerate(topics):
            if number == len(written):
                written.append(("", _NO_TOPIC))
            if written[number][0] != name:
                words[at : at + _TOPIC_NAME_WORDS] = array("Q", padded(name, _TOPIC_NAME_WORDS))
            if written[number][1] is not figures:
                put(words, at + _TOPIC_NAME_WORDS, figures)
            written[number] = (name, figures)
            at += _TOPIC_WORDS
        return len(topics)

    def touch(self, written_ns: int) -> None:
        """What was written last is still so."""
        words = self._words
        words[self._layout.first(words[_SEQUENCE])] = written_ns


class SlotReader(_Slots):
    """The supervisor's side. Maps the descriptor for reading only; it stays the caller's.

    queues: the names of the shard's queues, in the order of their declaration; none: `declare` is going to tell them, and until
    then there is nothing to be read.
    nonsense: why the newest set was not taken; empty if it was.
    """

    def __init__(self, descriptor: int, queues: Sequence[str] = ()) -> None:
        super().__init__(descriptor, len(queues), writable=False)
        self._queues = tuple(queues)
        self._sequence = -1  # of the set that was read last
        self._last = Reading.nothing(queues)
        self._last_rings: tuple[RingReading, ...] = tuple(RingReading() for _ in range(self._shards))
        self._routes: dict[bytes, _Route] = {}  # of the newest set, by their words
        self.nonsense = ""

    def declare(self, queues: Sequence[str]) -> None:
        """What the shard says. Raises `ControlError` if it makes no sense."""
        if self._queues or not queues or len({*queues}) < len(queues):
            raise ControlError(f"its queues are {queues!r}, and were {self._queues!r} before")
        self._lay_out(len(queues))
        self._queues = tuple(queues)
        self._last = Reading.nothing(queues)

    def read(self) -> Reading:
        """The newest reading that makes sense."""
        if not self._queues:
            return self._last
        words = self._words
        sequence = words[_SEQUENCE]
        if sequence == self._sequence and not self.nonsense:  # a shard at rest only touches it
            order()
            written_ns = words[self._layout.first(sequence)]
            order()
            if words[_SEQUENCE] == sequence and written_ns <= MOST_NS:  # else it is the time of another set, or none
                self._last = msgspec.structs.replace(self._last, written_ns=written_ns)
                return self._last
        copied = self._copy(0, self._layout.rings, rows=True)
        if copied is not None:
            self._sequence, data, routes, topics = copied
            try:
                self._last = self._parse(memoryview(data).cast("Q"), routes, topics)
                self.nonsense = ""
            except Nonsense as error:
                self.nonsense = str(error)
        return self._last

    def _parse(self, words: memoryview[int], routes: bytes, topics: bytes) -> Reading:
        written_ns, at = bounded("written_ns", words[0], MOST_NS), _COUNTS
        bounded("routes", words[_ROUTES_AT], _MAX_ROUTES)
        bounded("topics", words[_TOPICS_AT], _MAX_TOPICS)
        process, at = get(ProcessReading, words, at)
        loop, at = get(LoopReading, words, at)
        calls, at = get(CallReading, words, at)
        counters = Counters(COUNTERS.get(words, at, MAX_COUNTER))
        for name in counters.values:
            if not is_counter_name(name) or name.startswith(RESERVED_NAMES):
                raise Nonsense(f"a counter {name!r}")
        at += COUNTERS.words
        queues = {}
        for name in self._queues:
            queues[name], at = get(QueueReading, words, at)
        http = self._parse_routes(routes)
        return Reading(written_ns, process, loop, calls, queues, counters, http, self._parse_topics(topics))

    def _parse_routes(self, data: bytes) -> Requests:
        size = 8 * _ROUTE_WORDS
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        self._routes = {piece: self._routes.get(piece) or self._route(memoryview(piece).cast("Q")) for piece in pieces}
        by_queue: dict[str, dict[str, RouteReading]] = {}
        for queue, name, figures in self._routes.values():
            by_queue.setdefault(queue, {})[name] = figures
        return Requests(by_queue)

    def _parse_topics(self, data: bytes) -> TopicReadings:
        words = memoryview(data).cast("Q")
        rows = []
        for at in range(0, len(words), _TOPIC_WORDS):
            end = at + _TOPIC_NAME_WORDS
            rows.append((unpadded(words[at:end]), get(TopicReading, words, end)[0]))
        return TopicReadings.of(rows)

    def _route(self, words: memoryview[int]) -> _Route:
        queue = self._queues[bounded("a route's queue", words[0], len(self._queues) - 1)]
        figures, _ = get(RouteReading, words, 1 + _NAME_WORDS)
        return queue, unpadded(words[1 : 1 + _NAME_WORDS]), figures

    def read_rings(self) -> tuple[RingReading, ...]:
        """The newest reading of the traffic with each shard, by its number; the one before, if that makes no sense."""
        if not self._queues:
            return self._last_rings
        copied = self._copy(self._layout.rings, self._layout.routes)
        if copied is not None:
            words = memoryview(copied[1]).cast("Q")
            with contextlib.suppress(Nonsense):
                self._last_rings = tuple(get(RingReading, words, peer * _RING_WORDS)[0] for peer in range(self._shards))
        return self._last_rings

    def _copy(self, start: int, end: int, *, rows: bool = False) -> tuple[int, bytes, bytes, bytes] | None:
        """The sequence of the newest set, that part of it, and its routes and topics if they are asked for. A failed attempt
        means that another set was published during it; a writer that does nothing else is not waited for without end: None."""
        words = self._words
        for _ in range(_ATTEMPTS):
            sequence = words[_SEQUENCE]
            order()
            first = self._layout.first(sequence)
            data = words[first + start : first + end].tobytes()
            count = min(words[first + _ROUTES_AT], _MAX_ROUTES) if rows else 0
            begin = first + self._layout.routes
            routes = words[begin : begin + count * _ROUTE_WORDS].tobytes()
            count = min(words[first + _TOPICS_AT], _MAX_TOPICS) if rows else 0
            begin = first + self._layout.topics
            topics = words[begin : begin + count * _TOPIC_WORDS].tobytes()
            order()
            if words[_SEQUENCE] == sequence:
                return sequence, data, routes, topics
        return None
