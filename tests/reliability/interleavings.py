"""The own code of ring, doorbell and connection in every interleaving of two processes with store buffers, and mutations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tests.reliability._checks import Result, check
from tests.reliability._interleavings import EventFd, Memory, explore, wait_for
from tests.reliability._source import (
    AHEAD_FOR_THE_NEXT,
    ANSWERED_IN_SLEEP,
    HEAD_FIRST,
    NO_FENCE_AFTER_POPPING,
    NO_FENCE_TO_ANNOUNCE,
    NO_FENCE_TO_SLEEP,
    NO_FENCE_TO_STALL,
    NOT_AT_CLOSE,
    NOT_AT_THE_END,
    NOT_OUTSIDE,
    NOT_PUT_DOWN,
    SELDOM_STALLED,
    SURE_FIRST,
    TAIL_FIRST,
    Mutation,
    Source,
)

_RING, _BELL_OF_CONSUMER, _BELL_OF_PRODUCER = 1, 2, 3  # descriptors, and eventfds
_CAPACITY = 4096
_BODIES = [b"0123456789" * 4, b"abcdefghij" * 4, b"w"]  # of 40 bytes: a whole number of frames fills the ring
_FRAMES = _CAPACITY // 64


class LostWakeUp(AssertionError):
    """A process sleeps on news and has not been rung for."""


class Torn(AssertionError):
    """A frame that nobody has sent, or out of order."""


class Pair:
    """Both ends of a ring and their doorbells, made before anything is interleaved, and copied for each run."""

    def __init__(self, mutations: tuple[Mutation, ...], pushed: int, popped: int) -> None:
        self.source = source = Source(_Solid, *mutations)
        source.doorbell.os = EventFd
        # One more look, and no clock: a process must do the same whenever it is run again.
        source.doorbell.now_ns, source.doorbell._LOOK_ON_NS = lambda: 0, -1
        self.memory = _Solid.words
        self.memory.clear()
        self.memory[_RING << 20] = source.ring._MAGIC
        self.memory[(_RING << 20) + source.ring._CAPACITY_AT] = _CAPACITY
        self._size = source.ring._DATA_AT + _CAPACITY
        _Solid.ring_size = self._size
        self._producer = source.ring.RingProducer(_RING)
        self._consumer = source.ring.RingConsumer(_RING)
        self._bells = [
            source.doorbell.Doorbell(_BELL_OF_CONSUMER, _BELL_OF_CONSUMER),
            source.doorbell.PeerDoorbell(_BELL_OF_CONSUMER, _BELL_OF_CONSUMER, 0),
            source.doorbell.Doorbell(_BELL_OF_PRODUCER, _BELL_OF_PRODUCER),
            source.doorbell.PeerDoorbell(_BELL_OF_PRODUCER, _BELL_OF_PRODUCER, 0),
        ]
        for bell in self._bells[1::2]:
            bell._own_core = 2  # all think that they are tied to core 0: here, 1
        for number in range(pushed):
            assert self._producer.push(1, 0, 0, number, _BODIES[0])
        for _ in range(popped):
            assert self._consumer.pop() is not None
        self.poisoned = source.ring.PoisonedRing

    def connection(self, in_turn: bool) -> tuple[Any, list[Any]]:
        """The producer's, on the memory that is interleaved, and where it is put down when it owes something."""
        core = SimpleNamespace(_turn_ended=0 if in_turn else 1, _scheduled=True)
        dirty: list[Any] = []
        connection = self.source.connection.RingConnection(1, core, dirty)
        connection.connect(1, self.end("consumer"), self.end("producer"), self.end("to consumer"))
        return connection, dirty

    def end(self, which: str) -> Any:
        """A copy of an end as it was, on the memory that is interleaved."""
        ends = dict(
            zip(
                ("consumer's bell", "to consumer", "producer's bell", "to producer", "producer", "consumer"),
                [*self._bells, self._producer, self._consumer],
                strict=True,
            )
        )
        end = copy.copy(ends[which])
        end._memory = Memory(end._memory.descriptor)
        if hasattr(end, "_seen"):
            end._seen = list(end._seen)
        return end


class _Solid(Memory):
    """Memory without interleavings, to set up with."""

    words: dict[int, int] = {}  # noqa: RUF012
    ring_size = 0

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, _Solid.ring_size if descriptor == _RING else 80)
        self.descriptor = descriptor

    def load(self, offset: int) -> int:
        return self.words.get(self._base + offset, 0)

    def store(self, offset: int, value: int) -> None:
        self.words[self._base + offset] = value

    def fence(self) -> None:
        pass


def wake_the_consumer(*mutations: Mutation) -> int:
    """One pushes and announces, twice; the other looks, finds nothing, and goes to sleep."""
    pair = Pair(mutations, 0, 0)

    def produce() -> None:
        producer, bell = pair.end("producer"), pair.end("to consumer")
        for number in range(2):
            producer.push(1, 0, 0, number, _BODIES[2])
            bell.announce()

    def consume() -> tuple[int, bool]:
        consumer, bell = pair.end("consumer"), pair.end("consumer's bell")
        bell.news()
        taken = 0
        while (body := consumer.pop()) is not None:
            if body != _BODIES[2] or consumer.call != taken:
                raise Torn(f"{consumer.call}: {body!r}")
            taken += 1
        return taken, bell.sleep()

    def judge(_: None, consumed: tuple[int, bool], rung: dict[int, int]) -> None:
        taken, asleep = consumed
        if taken < 2 and asleep and not rung.get(_BELL_OF_CONSUMER):
            raise LostWakeUp(f"the consumer sleeps, and has taken {taken} of 2")

    return explore((produce, consume), pair.memory, judge)


def _turns(mutations: tuple[Mutation, ...], frames: int, produce: Callable[[Pair], None]) -> int:
    """One sends over its connection; the other looks, finds nothing, and goes to sleep."""
    pair = Pair(mutations, 0, 0)

    def consume() -> tuple[int, bool]:
        consumer, bell = pair.end("consumer"), pair.end("consumer's bell")
        bell.news()
        taken = 0
        while consumer.pop() is not None:
            taken += 1
        return taken, bell.sleep()

    def judge(_: None, consumed: tuple[int, bool], rung: dict[int, int]) -> None:
        taken, asleep = consumed
        if taken < frames and asleep and not rung.get(_BELL_OF_CONSUMER):
            raise LostWakeUp(f"the consumer sleeps, and has taken {taken} of {frames}")

    return explore((lambda: produce(pair), consume), pair.memory, judge)


def one_turn(*mutations: Mutation) -> int:
    """Two frames in one turn of the executor's."""

    def produce(pair: Pair) -> None:
        connection, dirty = pair.connection(in_turn=True)
        for number in range(2):
            connection.send(1, 0, 0, number, b"")
        for each in dirty:
            each.flush()

    return _turns(mutations, 2, produce)


def outside_of_turns(*mutations: Mutation) -> int:
    """A frame that a callback of the loop's sends."""

    def produce(pair: Pair) -> None:
        pair.connection(in_turn=False)[0].send(1, 0, 0, 0, b"")

    return _turns(mutations, 1, produce)


def a_turn_that_fails(*mutations: Mutation) -> int:
    """What `Traffic.turn_failed` does."""

    def produce(pair: Pair) -> None:
        connection, dirty = pair.connection(in_turn=True)
        connection.send(1, 0, 0, 0, b"")
        for each in dirty:
            each.make_sure()

    return _turns(mutations, 1, produce)


def a_turn_that_closes(*mutations: Mutation) -> int:
    """The connection is closed in the turn in which something was sent."""

    def produce(pair: Pair) -> None:
        connection, _ = pair.connection(in_turn=True)
        connection.send(1, 0, 0, 0, b"")
        connection.close()

    return _turns(mutations, 1, produce)


def wake_the_consumer_ahead(*mutations: Mutation) -> int:
    """One rings before it pushes and announces; the other sleeps as often as it finds nothing."""
    pair = Pair(mutations, 0, 0)

    def produce() -> None:
        producer, bell = pair.end("producer"), pair.end("to consumer")
        bell.ring_ahead()
        producer.push(1, 0, 0, 0, _BODIES[2])
        bell.announce()

    def consume() -> int:
        consumer, bell = pair.end("consumer"), pair.end("consumer's bell")
        while True:
            bell.news()
            if (body := consumer.pop()) is not None:
                if body != _BODIES[2]:
                    raise Torn(f"{body!r}")
                return 1
            if bell.sleep():
                wait_for(_BELL_OF_CONSUMER)
                bell.rung = True
                bell.wake()

    def judge(_: None, taken: int | None, rung: dict[int, int]) -> None:
        if taken is None:
            raise LostWakeUp("the consumer sleeps, and has taken nothing")

    return explore((produce, consume), pair.memory, judge)


def wake_the_producer(*mutations: Mutation) -> int:
    """The ring is full. One asks to be told of room and goes to sleep; the other makes room."""
    pair = Pair(mutations, _FRAMES, 0)

    def produce() -> bool:
        producer, bell = pair.end("producer"), pair.end("producer's bell")
        bell.news()
        if producer.push(1, 0, 0, _FRAMES, _BODIES[0]):
            return False
        producer.stall()
        if producer.push(1, 0, 0, _FRAMES, _BODIES[0]):
            return False
        return bell.sleep()  # type: ignore[no-any-return]

    def consume() -> None:
        consumer, bell = pair.end("consumer"), pair.end("to producer")
        if consumer.pop() != _BODIES[0]:
            raise Torn("the oldest frame")
        if consumer.producer_stalled():
            bell.announce()

    def judge(asleep: bool, _: None, rung: dict[int, int]) -> None:
        if asleep and not rung.get(_BELL_OF_PRODUCER):
            raise LostWakeUp("the producer sleeps, and there is room")

    return explore((produce, consume), pair.memory, judge)


def whole_frames(*mutations: Mutation) -> int:
    """The ring is full, so that what is pushed lies where what is popped was."""
    pair = Pair(mutations, _FRAMES, 0)

    def produce() -> int:
        producer = pair.end("producer")
        return sum(producer.push(1, 0, 0, _FRAMES, body) for body in _BODIES[1:2])

    def consume() -> int:
        consumer = pair.end("consumer")
        for number in range(2):
            body = consumer.pop()
            if body != _BODIES[0] or consumer.call != number:
                raise Torn(f"{consumer.call}: {body!r}")
        return 2

    return explore((produce, consume), pair.memory, lambda *_: None)


def frames_as_they_come(*mutations: Mutation) -> int:
    """The ring is empty: two frames are pushed, and popped as soon as they are there."""
    pair = Pair(mutations, 1, 1)

    def produce() -> None:
        producer = pair.end("producer")
        for body in _BODIES[:2]:
            producer.push(1, 0, 0, 7, body)

    def consume() -> None:
        consumer = pair.end("consumer")
        taken = 0
        for _ in range(3):
            try:
                body = consumer.pop()
            except pair.poisoned as error:
                raise Torn(str(error)) from None
            if body is not None:
                if body != _BODIES[taken] or consumer.call != 7:
                    raise Torn(f"{consumer.call}: {body!r}")
                taken += 1

    return explore((produce, consume), pair.memory, lambda *_: None)


@check("the code in every interleaving with store buffers: torn frames 0, lost wake-ups 0", ci=1, release=1)
def interleavings(trials: int) -> Result:
    scenarios = (
        wake_the_consumer,
        wake_the_consumer_ahead,
        wake_the_producer,
        whole_frames,
        frames_as_they_come,
        one_turn,
        outside_of_turns,
        a_turn_that_fails,
        a_turn_that_closes,
    )
    states = {scenario.__name__: scenario() for scenario in scenarios}
    return Result(sum(states.values()), ", ".join(f"{name} {count:,} states" for name, count in states.items()))


MUTATIONS: list[tuple[str, Mutation, Callable[..., int], type[AssertionError]]] = [
    ("the tail is published first", TAIL_FIRST, frames_as_they_come, Torn),
    ("the head is given back first", HEAD_FIRST, whole_frames, Torn),
    ("no fence to announce", NO_FENCE_TO_ANNOUNCE, wake_the_consumer, LostWakeUp),
    ("no fence to sleep", NO_FENCE_TO_SLEEP, wake_the_consumer, LostWakeUp),
    ("no fence to announce, rung ahead", NO_FENCE_TO_ANNOUNCE, wake_the_consumer_ahead, LostWakeUp),
    ("no fence to sleep, rung ahead", NO_FENCE_TO_SLEEP, wake_the_consumer_ahead, LostWakeUp),
    ("a bell ahead counts for the next sleep too", AHEAD_FOR_THE_NEXT, wake_the_consumer_ahead, LostWakeUp),
    ("the bell is answered when sleep is announced", ANSWERED_IN_SLEEP, wake_the_consumer_ahead, LostWakeUp),
    ("no fence to stall", NO_FENCE_TO_STALL, wake_the_producer, LostWakeUp),
    ("no fence after popping", NO_FENCE_AFTER_POPPING, wake_the_producer, LostWakeUp),
    ("a full ring's producer is looked for too seldom", SELDOM_STALLED, wake_the_producer, LostWakeUp),
    ("made sure before there is news", SURE_FIRST, wake_the_consumer, LostWakeUp),
    ("no fence at the end of a turn", NO_FENCE_TO_ANNOUNCE, one_turn, LostWakeUp),
    ("nothing is made sure of at the end of a turn", NOT_AT_THE_END, one_turn, LostWakeUp),
    ("who owes is not put down", NOT_PUT_DOWN, one_turn, LostWakeUp),
    ("the same, in a turn that fails", NOT_PUT_DOWN, a_turn_that_fails, LostWakeUp),
    ("what is sent outside of turns waits for one", NOT_OUTSIDE, outside_of_turns, LostWakeUp),
    ("nothing is made sure of at close", NOT_AT_CLOSE, a_turn_that_closes, LostWakeUp),
]


@check("the code with each mutation is found out by some interleaving", ci=18, release=18)
def mutated_interleavings(trials: int) -> Result:
    for name, mutation, scenario, finding in MUTATIONS:
        try:
            scenario(mutation)
        except finding:
            continue
        raise AssertionError(f"{name}: {scenario.__name__} found nothing")
    return Result(len(MUTATIONS), ", ".join(name for name, *_ in MUTATIONS))
