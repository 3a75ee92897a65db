"""A push or a pop, compiled, that dies between any two instructions: the survivor finds no torn frame, and none is skipped.

A child is stepped through the operation with ptrace. All that a process that is killed leaves behind is the shared memory as
it is at that moment; so after every instruction the child is only stopped, and a survivor is given a copy of the memory.
Killing it for good at each would be to run it again from the beginning for every instruction, 2,000 times as long. That a kill
leaves what a stop shows is a check of its own: it kills before and after each instruction that has stored something.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from clockworker import ipc
from clockworker.ipc.rings._memory_cy import SharedMemory
from clockworker.ipc.rings._ring_cy import PoisonedRing, RingConsumer, RingProducer
from tests.reliability._checks import Result, Unavailable, check

_CAPACITY = 4096
_TAIL_AT = 64
_PLENTY = 1 << 20  # instructions that no operation needs
Frame = tuple[int, bytes]  # call, body

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_TRACEME, _SINGLESTEP, _SETOPTIONS, _EXITKILL = 0, 9, 0x4200, 0x100000


class Situation(msgspec.Struct, frozen=True):
    """Frames of 128 bytes that have passed through the ring, those that came then, how many of these were taken out, and the
    size of the body to come."""

    passed: int
    before: int
    popped: int
    size: int


# Plain, around the end, into the last room, to the beginning again, in chunks, and where there is no room.
_SITUATIONS = [
    Situation(0, *each) for each in ((2, 0, 100), (31, 30, 200), (32, 1, 56), (12, 12, 100), (2, 1, 2000), (32, 0, 400))
]


class _Ring:
    """A real ring in such a situation, with one more operation to do, as often as one likes."""

    def __init__(self, situation: Situation) -> None:
        self.descriptor = ipc.create_ring(_CAPACITY)
        self._copied = ipc.create_ring(_CAPACITY)
        self.producer, self.consumer = RingProducer(self.descriptor), RingConsumer(self.descriptor)
        self._memory, self._copy = SharedMemory(self.descriptor), SharedMemory(self._copied)
        self.pending: list[Frame] = []
        for call in range(situation.passed + situation.before):
            body = bytes([call % 251]) * 100
            if not self.producer.push(1, 0, 0, call, body):
                break  # what is left before the beginning is skipped, and no room until it has been read
            self.pending.append((call, body))
            if call < situation.passed:
                self.pop_pending()
        for _ in range(min(situation.popped, len(self.pending))):
            self.pop_pending()
        self.next = (situation.passed + situation.before, b"next" * (situation.size // 4))
        self.start = self.contents()

    def pop_pending(self) -> None:
        assert self.consumer.pop() == self.pending.pop(0)[1]

    def push(self) -> None:
        self.producer.push(1, 0, 0, *self.next)

    def pop(self) -> None:
        self.consumer.pop()

    def push_tail_first(self) -> None:
        """As it must not be."""
        self._memory.store(_TAIL_AT, self.producer.published() + 24 + len(self.next[1]) + 7 & ~7)
        self.push()

    def contents(self) -> bytes:
        """Of the whole of the shared memory."""
        return self._memory.read(0, self._memory.size)

    def restore(self) -> None:
        """As it was before the operation."""
        self._memory.write(0, self.start, 0, len(self.start))

    def check(self, by: str, contents: bytes) -> None:
        """What a survivor finds in them."""
        self._copy.write(0, contents, 0, len(contents))
        consumer = RingConsumer(self._copied)
        found = []
        try:
            while (body := consumer.pop()) is not None:
                found.append((consumer.call, body))
        except PoisonedRing as error:
            raise AssertionError(f"after a {by} was killed: {len(found)} frames, then {error}") from None
        finally:
            consumer.close()
        allowed = [self.pending, self.pending[1:] if by == "pop" else [*self.pending, self.next]]
        if found not in allowed:
            raise AssertionError(f"after a {by} was killed: {found!r}, where {self.pending!r} was before")

    def close(self) -> None:
        self.producer.close()
        self.consumer.close()
        self._memory.close()
        self._copy.close()
        os.close(self.descriptor)
        os.close(self._copied)


@contextmanager
def ring_in(situation: Situation) -> Iterator[_Ring]:
    ring = _Ring(situation)
    try:
        yield ring
    finally:
        ring.close()


def step(operation: Callable[[], None], steps: int, after: Callable[[int], None] = lambda done: None) -> int:
    """In a child, the operation for so many instructions; then kill it. `after` is told the number of each, while the child is
    stopped behind it. How many there were: fewer if it was done before."""
    child = os.fork()
    if child == 0:
        try:
            _libc.ptrace(_TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            operation()
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(0)
    status = 0x7F
    try:
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status) or _libc.ptrace(_SETOPTIONS, child, None, _EXITKILL) == -1:
            raise Unavailable("ptrace is not permitted here")
        for done in range(1, steps + 1):
            if _libc.ptrace(_SINGLESTEP, child, None, None) == -1:
                raise Unavailable(f"ptrace: {os.strerror(ctypes.get_errno())}")
            _, status = os.waitpid(child, 0)
            if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGTRAP:
                return done - 1
            after(done)
        return steps
    finally:
        if os.WIFSTOPPED(status):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def walk(ring: _Ring, by: str) -> tuple[int, dict[int, bytes]]:
    """Check the ring behind every instruction. How many there were, and the contents behind each that has changed them."""
    changes = {0: ring.start}
    last = ring.start

    def look(done: int) -> None:
        nonlocal last
        contents = ring.contents()
        if contents != last:  # what was right is right still
            ring.check(by, contents)
            changes[done] = last = contents

    length = step(getattr(ring, by), _PLENTY, look)
    ring.restore()
    if length in (0, _PLENTY):
        raise AssertionError(f"{by} took {length} instructions")
    return length, changes


def kill(ring: _Ring, by: str, place: int) -> None:
    """Once and for all, behind so many instructions."""
    last = ring.start

    def look(done: int) -> None:
        nonlocal last
        last = ring.contents()

    step(getattr(ring, by), place, look)
    left = ring.contents()
    if left != last:
        raise AssertionError(f"a {by} killed behind instruction {place} left something else than a stop there")
    ring.check(by, left)
    ring.restore()


def cases(rng: random.Random) -> Iterator[tuple[Situation, str]]:
    """The situations that there are, then random ones, without end."""
    for situation in _SITUATIONS:
        yield situation, "push"
        if situation.before > situation.popped:
            yield situation, "pop"
    while True:
        # No more at once than fit, wherever the ring is when they come.
        before = rng.randrange(25)
        size = rng.choice((0, rng.randrange(200), rng.randrange(1024), rng.randrange(3000)))
        situation = Situation(rng.randrange(64), before, rng.randrange(before + 1), size)
        yield situation, "pop" if before > situation.popped and rng.random() < 0.3 else "push"


@check(
    "a push or pop that dies behind any instruction (compiled, ptrace): torn or skipped 0",
    ci=50_000,
    release=10_000_000,
    pure=0,
    pace=40_000,
)
def deaths_at_every_instruction(trials: int) -> Result:
    """Trials are instructions."""
    instructions = stores = operations = 0
    for situation, by in cases(random.Random(trials)):
        with ring_in(situation) as ring:
            length, changes = walk(ring, by)
        instructions += length
        stores += len(changes) - 1
        operations += 1
        if instructions >= trials and operations >= 2 * len(_SITUATIONS):
            break
    said = f"{instructions:,} instructions of {operations:,} operations, {stores:,} of them stores; 0 torn, 0 skipped"
    return Result(instructions, said)


@check(
    "a push or pop killed before and behind every store (compiled, ptrace): leaves what a stop shows",
    ci=20,
    release=1_000,
    pure=0,
    pace=6,
)
def kills_beside_every_store(trials: int) -> Result:
    """Trials are kills."""
    rng = random.Random(trials)
    kills = operations = 0
    for situation, by in cases(rng):
        with ring_in(situation) as ring:
            length, changes = walk(ring, by)
            places = sorted({place for done in changes for place in (done - 1, done) if place >= 0} | {length})
            share = max(2, trials // (2 * len(_SITUATIONS)))
            for place in places if share >= len(places) else sorted(rng.sample(places, share)):
                kill(ring, by, place)
                kills += 1
        operations += 1
        if kills >= trials:
            break
    return Result(kills, f"{kills:,} kills in {operations:,} operations, 0 torn, 0 skipped")


@check(
    "a push that publishes the tail first is found out by the deaths (compiled, ptrace)",
    ci=1,
    release=1,
    pure=0,
    pace=5,
)
def mutated_deaths(trials: int) -> Result:
    with ring_in(_SITUATIONS[0]) as ring:
        try:
            walk(ring, "push_tail_first")
        except AssertionError as found:
            return Result(trials, str(found))
    raise AssertionError("nothing was found")
