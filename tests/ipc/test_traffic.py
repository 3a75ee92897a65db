"""What one turn of the executor takes in, with the peer's end of the rings in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from probe import Probe

import clockworker as cw
from clockworker.executor import QueueHandle
from clockworker.ipc.calls._definitions import remote_methods
from clockworker.ipc.calls._frames import Kind, queue_identifier
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer
from tests.conftest import Run

METHOD = remote_methods(Probe)["echo"]
# What the module says; the compiled one has them as C numbers.
FRAMES_A_TURN = 64
BYTES_A_TURN = 1 << 18
CHUNK = 1 << 16
HEADER = 24


class Peer:
    """Shard 1, whose ring to shard 0 holds many turns' worth."""

    def __init__(self, executor: cw.Executor) -> None:
        there, back = cw.create_ring(1 << 23), cw.create_ring(1 << 16)
        self.sends = RingProducer(there)
        self.hears = RingConsumer(back)
        self.mesh = cw.Mesh(0, 2, executor, cw.create_doorbell(2))
        self.mesh.connect(1, 1, incoming=there, outgoing=back, doorbell=cw.create_doorbell(2))
        self.mesh.start(Probe, Probe(0, self.mesh))
        self.link = self.mesh.links[1]

    def turn(self) -> tuple[bool, int]:
        """Whether there may be more, and how many bytes of the ring have been taken."""
        before = self.sends.used()
        more = self.mesh.drain(self.link)
        return more, before - self.sends.used()

    def close(self) -> None:
        self.mesh.close()
        self.sends.close()
        self.hears.close()


@asynccontextmanager
async def peer() -> AsyncIterator[Peer]:
    async with cw.Executor([cw.Queue("foreground"), cw.Queue("background")]) as executor:
        peer = Peer(executor)
        try:
            yield peer
        finally:
            peer.close()


def test_a_turn_takes_so_many_small_frames(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            for number in range(2 * FRAMES_A_TURN + 1):
                assert one.sends.push(Kind.REPLY, 0, 0, number, b"")
            turns = [one.turn() for _ in range(3)]
            assert turns == [(True, HEADER * FRAMES_A_TURN)] * 2 + [(False, HEADER)]

    run(body)


def test_a_turn_takes_so_many_bytes_and_what_exceeds_them(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            length, sent = 100_000, 0
            while one.sends.push(Kind.REPLY, 0, 0, sent, bytes(length)):
                sent += 1
            turns = 0
            while (turn := one.turn())[0]:
                assert BYTES_A_TURN <= turn[1] < BYTES_A_TURN + length + HEADER
                turns += 1
            assert turns == sent // (BYTES_A_TURN // length + 1)
            assert one.link.connection.frames_received == sent
            assert one.sends.used() == 0

    run(body)


def test_a_turn_takes_a_part_of_a_body_that_is_larger(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            large = bytes(12 << 20)
            turns = 0
            whole = one.sends.push(Kind.REPLY, 0, 0, 1, large)
            assert not whole  # it fills the ring
            while not whole:
                more, taken = one.turn()
                assert more
                assert BYTES_A_TURN <= taken < BYTES_A_TURN + CHUNK + HEADER
                assert one.link.connection.frames_received == 0
                turns += 1
                whole = one.sends.push(Kind.REPLY, 0, 0, 1, large)  # the peer fills it as fast as we empty it
            while one.turn()[0]:
                turns += 1
            assert turns > len(large) // (BYTES_A_TURN + CHUNK)
            assert (one.link.connection.frames_received, one.link.connection.bytes_received) == (1, len(large))

    run(body)


def test_the_queue_of_a_request_is_charged_for_its_parts(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            queues = [one.mesh.executor.queue(name) for name in ("foreground", "background")]
            waits = asyncio.Event()
            tasks = [queue.spawn(waits.wait()) for queue in queues]  # type: ignore[arg-type]

            def used(queue: QueueHandle) -> int:
                assert queue._queue.entity.active  # its task waits for its first step
                return queue._queue.entity.vruntime

            arguments = msgspec.msgpack.encode((bytes(3 << 20),))  # more than a quarter of the ring
            assert one.sends.push(Kind.REQUEST, queue_identifier("background"), METHOD.identifier, 1, arguments)
            before = [used(queue) for queue in queues]
            assert one.turn()[0]
            after = [used(queue) for queue in queues]
            assert not one.link.serving
            assert after[0] == before[0]
            assert after[1] > before[1]
            waits.set()
            for task in tasks:
                await task

    run(body)


def test_what_is_left_is_taken_in_the_next_turns(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            arguments = msgspec.msgpack.encode((bytes(5 << 19),))
            for number in (1, 2, 3):
                assert one.sends.push(
                    Kind.REQUEST, queue_identifier("foreground"), METHOD.identifier, number, arguments
                )
            one.mesh.look_at(one.mesh.links[1])
            answers: list[int] = []
            while len(answers) < 3:
                await asyncio.sleep(0)
                one.mesh.look_at(one.mesh.links[1])  # there is room in the ring again
                while (answer := one.hears.pop()) is not None:
                    if one.hears.kind != Kind.SCHEMA:
                        assert (one.hears.kind, len(answer)) == (Kind.REPLY, len(arguments) - 1)
                        answers.append(one.hears.call)
            assert answers == [1, 2, 3]

    run(body)
