"""Random and mutated frames: whatever a peer writes, nothing comes of it but whole bodies, None, and PoisonedRing."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource

import msgspec

import clockworker as cw
from clockworker import ipc
from clockworker.ipc.calls._definitions import remote_methods
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.rings._doorbell_cy import PeerDoorbell
from clockworker.ipc.rings._memory_cy import SharedMemory
from clockworker.ipc.rings._ring_cy import PoisonedRing, RingConsumer, RingProducer
from tests.reliability._checks import Result, check

_CAPACITY = 1 << 16
_TAIL_AT, _STALLS_AT, _HEAD_AT, _DATA_AT = 64, 72, 128, 4096
_MAX_MESSAGE = 100_000
_NEAR = (0, 1, 7, 8, 23, 24, 25, _CAPACITY // 4, _CAPACITY // 4 + 1, _CAPACITY, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


class _Mutator:
    """A ring whose producer has gone mad."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._descriptor = ipc.create_ring(_CAPACITY)
        self._memory = SharedMemory(self._descriptor)
        # Bodies that are there at once: making them would take longer than all the rest.
        self._bodies = [rng.randbytes(rng.choice((0, 3, 40, 40, 200, rng.randrange(3_000)))) for _ in range(64)]
        self._bodies.append(rng.randbytes(40_000))  # in chunks
        self.frames = self.poisoned = 0

    def close(self) -> None:
        self._memory.close()
        os.close(self._descriptor)

    def life(self) -> None:
        """Frames in, some words changed, frames out."""
        rng, memory = self._rng, self._memory
        start = rng.randrange(_CAPACITY // 8) * 8
        memory.store(_TAIL_AT, start)
        memory.store(_HEAD_AT, start)
        producer = RingProducer(self._descriptor)
        consumer = RingConsumer(self._descriptor, _MAX_MESSAGE)
        for body in rng.choices(self._bodies, k=40):
            if not producer.push(1, 2, 3, 4, body):
                break
        tail = memory.load(_TAIL_AT)
        for _ in range(rng.randrange(1, 4)):
            memory.store(_DATA_AT + (start + rng.randrange(max(8, tail - start)) // 8 * 8) % _CAPACITY, self._word())
        if rng.random() < 0.1:
            memory.store(rng.choice((_TAIL_AT, _HEAD_AT, _STALLS_AT)), (tail + self._word()) % 2**64)
        pop = consumer.pop
        try:
            while (body_or_none := pop()) is not None:
                self.frames += 1
                if len(body_or_none) > _MAX_MESSAGE:
                    raise AssertionError(f"a body of {len(body_or_none)} bytes")
            consumer.producer_stalled()
        except PoisonedRing:
            self.frames += 1
            self.poisoned += 1
        try:
            producer.push(1, 0, 0, 0, b"after")
        except PoisonedRing:
            self.poisoned += 1
        except ValueError:  # it was in the middle of a body
            pass
        producer.close()
        consumer.close()

    def _word(self) -> int:
        rng = self._rng
        match rng.randrange(4):
            case 0:
                return rng.getrandbits(64)
            case 1:
                return rng.choice(_NEAR) | rng.randrange(256) << 32
            case 2:
                return rng.choice(_NEAR) | rng.randrange(1 << 12) << 32
            case _:
                return rng.choice(_NEAR)


@check(
    "random and mutated frames in the ring: only PoisonedRing, memory bounded",
    ci=5_000_000,
    release=100_000_000,
    pure=100_000,
    pace=1_000_000,
)
def mutated_frames(trials: int) -> Result:
    mutator = _Mutator(random.Random(trials))
    try:
        while mutator.frames < trials // 10:
            mutator.life()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while mutator.frames < trials:
            mutator.life()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    finally:
        mutator.close()
    if grown > 20_000:
        raise AssertionError(f"memory grew by {grown} KiB")
    return Result(
        mutator.frames, f"{mutator.frames:,} frames, {mutator.poisoned:,} rings poisoned, memory +{grown} KiB"
    )


_KINDS = [each for kind in Kind for each in [kind] * (5 if kind == Kind.REQUEST else 1)]


class Target:
    """The service that mad frames are meant for."""

    @cw.remote
    async def take(self, number: int, text: str, data: bytes) -> int:
        return number + len(text) + len(data)

    @cw.remote
    async def fail(self, deep: list[list[int]]) -> None:
        raise ValueError(deep)


@check(
    "random and mutated frames into a mesh: it lives on, and answers",
    ci=100_000,
    release=10_000_000,
    pure=10_000,
    pace=100_000,
)
def mutated_frames_in_the_mesh(trials: int) -> Result:
    return asyncio.run(_bombard(trials, random.Random(trials)))


async def _bombard(trials: int, rng: random.Random) -> Result:
    methods = [method.identifier for method in remote_methods(Target).values()]
    arguments = [msgspec.msgpack.encode(each) for each in ((1, "text", b"data"), ([[1, 2], [3]],), (), {"a": [1]})]
    poisoned = frames = 0
    loop = asyncio.get_running_loop()
    reports: list[object] = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    logging.getLogger("clockworker.ipc").setLevel(logging.CRITICAL)  # one line for each ring that is dropped
    try:
        async with cw.Executor([cw.Queue("foreground")], on_panic="catch") as executor:
            broken: list[int] = []
            memory, event = cw.create_doorbell(2)
            bell = PeerDoorbell(memory, os.dup(event), 1)
            mesh = cw.Mesh(0, 2, executor, (memory, event), on_poisoned=lambda peer, epoch: broken.append(epoch))
            mesh.start(Target, Target())
            producer = consumer = None
            epoch = 0
            before = 0
            while frames < trials:
                if producer is None or broken:
                    poisoned += len(broken)
                    broken.clear()
                    for end in (producer, consumer):
                        if end is not None:
                            end.close()
                    epoch += 1
                    mine, its = ipc.create_ring(_CAPACITY), ipc.create_ring(_CAPACITY)
                    producer, consumer = RingProducer(mine), RingConsumer(its)
                    mesh.connect(1, epoch, incoming=mine, outgoing=its, doorbell=cw.create_doorbell(2))
                for _ in range(16):
                    kind = rng.choice(_KINDS) if rng.random() < 0.98 else rng.randrange(256)
                    body = rng.choice(arguments)
                    match rng.randrange(4):
                        case 0:
                            at = rng.randrange(len(body))
                            body = body[:at] + rng.randbytes(rng.randrange(4)) + body[at + 1 :]
                        case 1:
                            body = rng.randbytes(rng.randrange(60))
                    method = rng.choice(methods) if rng.random() < 0.8 else rng.getrandbits(32)
                    if producer.push(kind, rng.choice((0, rng.getrandbits(32))), method, rng.randrange(1 << 10), body):
                        frames += 1
                bell.announce()
                await asyncio.sleep(0)
                while consumer.pop() is not None:
                    pass
                if frames > trials // 10 and not before:
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            mesh.close()
            for end in (producer, consumer, bell):
                if end is not None:
                    end.close()
    finally:
        logging.getLogger("clockworker.ipc").setLevel(logging.NOTSET)
    if reports:
        raise AssertionError(f"{len(reports)} exceptions came to the loop, the first: {reports[0]!r}")
    if grown > 30_000:
        raise AssertionError(f"memory grew by {grown} KiB")
    return Result(frames, f"{frames:,} frames, {poisoned:,} rings dropped and made anew, memory +{grown} KiB")
