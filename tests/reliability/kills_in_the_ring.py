"""A push or a pop that is killed on the way: what the survivor finds has no torn frame, and none is skipped.

Every store: the code itself, interpreted, on memory that stops before its n-th store, for every n of every operation of a long
run; a copy of a body counts as a store for each of its words. Every instruction: `kills_between_instructions`.
"""

from __future__ import annotations

import copy
import random
from typing import Any

from tests.reliability._checks import Result, check
from tests.reliability._source import TAIL_FIRST, Mutation, Source

_CAPACITY = 4096
Frame = tuple[int, bytes]  # call, body


class _Killed(BaseException):
    """The process is no more."""


class _Mortal:
    """Memory that lives for so many stores."""

    def __init__(self, contents: bytearray) -> None:
        self.contents = contents
        self.size = len(contents)
        self.stores_left = 1 << 62

    def load(self, offset: int) -> int:
        return int.from_bytes(self.contents[offset : offset + 8], "little")

    def store(self, offset: int, value: int) -> None:
        self.write(offset, value.to_bytes(8, "little"), 0, 8)

    def fence(self) -> None:
        pass

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.contents[offset : offset + length])

    def read_into(self, target: bytearray, at: int, offset: int, length: int) -> None:
        target[at : at + length] = self.contents[offset : offset + length]

    def write(self, offset: int, data: bytes, start: int, length: int) -> None:
        lived = min(length, 8 * self.stores_left)
        self.contents[offset : offset + lived] = data[start : start + lived]
        self.stores_left -= -(-lived // 8)
        if lived < length or (length and self.stores_left < 0):
            raise _Killed


class _Life:
    """A ring in use, of which any operation can be tried on a copy."""

    def __init__(self, *mutations: Mutation) -> None:
        source = Source(_Mortal, *mutations)
        self.poisoned = source.ring.PoisonedRing
        contents = bytearray(source.ring._DATA_AT + _CAPACITY)
        memory = _Mortal(contents)
        memory.store(source.ring._MAGIC_AT, source.ring._MAGIC)
        memory.store(source.ring._CAPACITY_AT, _CAPACITY)
        self.contents = contents
        self.producer = source.ring.RingProducer(contents)
        self.consumer = source.ring.RingConsumer(contents)
        self._new_consumer = source.ring.RingConsumer
        self.pending: list[Frame] = []
        self.unfinished: Frame | None = None
        self.kills = 0

    def push(self, frame: Frame) -> None:
        """For every n: push it, killed before the n-th store; then truly, as far as there is room."""
        call, body = frame
        for stores in range(1 << 30):
            contents = bytearray(self.contents)
            producer = self._copy(self.producer, contents, stores)
            try:
                whole = producer.push(1, 0, 0, call, body)
            except _Killed:
                pass
            else:
                break  # it needs no more
            self.kills += 1
            found = self._drain(self._copy(self.consumer, contents))
            # It was killed before the store that publishes its last frame: it is not there.
            if found != self.pending:
                raise AssertionError(f"killed before store {stores} of {call}: {found!r} instead of {self.pending!r}")
        self.unfinished = frame if not self.producer.push(1, 0, 0, call, body) else None
        if whole:
            self.pending.append(frame)
        elif len(body) <= _CAPACITY // 4:
            self.unfinished = None  # nothing of it is in the ring, and it need not come again

    def pop(self) -> None:
        """For every n: pop, killed before the n-th store; then truly."""
        for stores in range(1 << 30):
            contents = bytearray(self.contents)
            try:
                self._copy(self.consumer, contents, stores).pop()
            except _Killed:
                pass
            else:
                break
            self.kills += 1
            in_chunks = self.unfinished is not None or any(len(body) > _CAPACITY // 4 for _, body in self.pending)
            if self.consumer._message is None and not in_chunks:
                # Nobody resumes a ring; but what is in it must be the next frame or the one after.
                found = self._drain(self._new_consumer(contents))
                if found not in (self.pending, self.pending[1:]):
                    raise AssertionError(f"killed before store {stores} of a pop: {found!r} of {self.pending!r}")
        body = self.consumer.pop()
        if body is None:
            if self.pending:
                raise AssertionError(f"{self.pending!r} was pushed, and nothing is there")
        elif (self.consumer.call, body) != self.pending.pop(0):
            raise AssertionError(f"popped {self.consumer.call}: {body!r}")

    @staticmethod
    def _copy(end: Any, contents: bytearray, stores: int = 1 << 60) -> Any:
        end = copy.copy(end)
        end._memory = _Mortal(contents)
        end._memory.stores_left = stores
        if getattr(end, "_message", None) is not None:
            end._message = bytearray(end._message)
        return end

    def _drain(self, consumer: Any) -> list[Frame]:
        found = []
        try:
            while (body := consumer.pop()) is not None:
                found.append((consumer.call, body))
        except self.poisoned as error:
            raise AssertionError(f"after {len(found)} frames: {error}") from None
        return found


def live(kills: int, *mutations: Mutation, seed: int = 0) -> _Life:
    """Push and pop at random, with full rings, empty ones, chunks and skips, until so many kills were tried."""
    rng = random.Random(seed)
    life = _Life(*mutations)
    call = 0
    while life.kills < kills:
        fills = rng.random() < 0.5
        for _ in range(rng.randrange(1, 12)):
            if life.unfinished is not None:
                life.push(life.unfinished)
            elif fills or rng.random() < 0.5:
                size = rng.choice((0, 1, 8, rng.randrange(200), rng.randrange(_CAPACITY // 4), rng.randrange(9000)))
                life.push((call, rng.randbytes(size)))
                call += 1
            if not fills or rng.random() < 0.2 or life.unfinished is not None:
                life.pop()
        while life.pending:
            life.pop()
    return life


@check(
    "a push or pop killed at any store (the code, interpreted): torn or skipped 0",
    ci=100_000,
    release=10_000_000,
    pure=20_000,
    pace=68_000,
)
def kills_at_every_store(trials: int) -> Result:
    kills = 0
    for seed in range(max(1, trials // 20_000)):
        kills += live(min(trials, 20_000), seed=seed).kills
    return Result(kills, f"{kills:,} kills, 0 torn, 0 skipped")


@check("a push that publishes the tail first is found out by the kills", ci=1, release=1, pace=10)
def mutated_kills(trials: int) -> Result:
    try:
        live(5_000, TAIL_FIRST)
    except AssertionError as found:
        return Result(trials, str(found)[:60])
    raise AssertionError("5,000 kills found nothing")
