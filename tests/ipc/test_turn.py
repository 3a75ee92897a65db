"""When a peer is told, and when that is made sure of, with the peer's end of the rings in this process.

A peer that falls asleep just when something is sent may be seen awake: the look at its word came before its store was visible.
Here that is done by hand, after the look.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from probe import Probe

import clockworker as cw
from clockworker.executor._steps_cy import WorkSource
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.rings._connection_cy import RingConnection
from clockworker.ipc.rings._doorbell_cy import Doorbell
from clockworker.ipc.rings._memory_cy import SharedMemory
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer
from tests.conftest import Run

CAPACITY = 1 << 16


class Peer:
    """Shard 1 of a mesh of two."""

    def __init__(self, executor: cw.Executor, serves: bool = True) -> None:
        there, back = cw.create_ring(CAPACITY), cw.create_ring(CAPACITY)
        self.sends, self.hears = RingProducer(there), RingConsumer(back)
        memory, self._eventfd = cw.create_doorbell(2)
        self.bell = Doorbell(memory, self._eventfd)
        self._words = SharedMemory(memory)
        self.mesh = cw.Mesh(0, 2, executor, cw.create_doorbell(2))
        self.mesh.connect(1, 1, incoming=there, outgoing=back, doorbell=(memory, os.dup(self._eventfd)))
        if serves:
            self.mesh.start(Probe, Probe(0, self.mesh))
        self.take_all()
        self.closed = False

    @property
    def ring(self) -> RingConnection:
        connection = self.mesh.links[1].connection
        assert isinstance(connection, RingConnection)
        return connection

    def send(self, body: bytes = b"") -> None:
        self.ring.send(Kind.CANCEL, 0, 0, 1, body)

    def falls_asleep(self) -> None:
        """After the sender's look, and before it could see the sender's news."""
        self._words.store(0, self.bell.sleeps + 1)

    def rung(self) -> int:
        try:
            return os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return 0

    def take_all(self) -> int:
        self.bell.news()
        taken = 0
        while self.hears.pop() is not None:
            taken += 1
        return taken

    def close(self) -> None:
        if not self.closed:
            self.mesh.close()
        for end in (self.sends, self.hears, self.bell, self._words):
            end.close()
        os.close(self._eventfd)


@asynccontextmanager
async def peer() -> AsyncIterator[tuple[Peer, cw.Executor]]:
    async with cw.Executor([cw.Queue("only"), cw.Queue("background")]) as executor:
        one = Peer(executor)
        try:
            yield one, executor
        finally:
            one.close()


async def in_turn(executor: cw.Executor, work: Callable[[], None]) -> None:
    """A step that is not cut: a turn that ends between two lines of `work` has paid what the first owed."""

    async def step() -> None:
        with cw.no_preempt():
            work()

    await executor.queue("only").spawn(step())


def test_who_is_awake_sees_each_frame_at_once(run: Run) -> None:
    async def body() -> None:
        async with peer() as (one, executor):

            def work() -> None:
                for _ in range(3):
                    one.send()
                    assert one.bell.news() == [0]
                    assert one.take_all() == 1

            await in_turn(executor, work)
            assert one.bell.news() is None
            assert one.rung() == 0

    run(body)


def test_who_sleeps_is_rung_for_at_once_and_once(run: Run) -> None:
    async def body() -> None:
        async with peer() as (one, executor):
            assert one.bell.sleep()

            def work() -> None:
                one.send()
                assert one.rung() == 1
                one.send()

            await in_turn(executor, work)
            assert one.rung() == 0
            assert one.take_all() == 2

    run(body)


def test_who_was_seen_awake_and_sleeps_is_rung_for_when_the_turn_ends(run: Run) -> None:
    async def body() -> None:
        async with peer() as (one, executor):
            ended = []

            def work() -> None:
                for _ in range(3):
                    one.send()
                one.falls_asleep()
                ended.append(one.rung())

            async def later() -> None:
                ended.append(one.rung())  # of the same turn

            queue = executor.queue("only")
            first = executor.turns
            waiting = [in_turn(executor, work), queue.spawn(later())]
            await asyncio.gather(*waiting)
            assert ended == [0, 0]
            assert executor.turns > first
            assert one.rung() == 1
            assert one.ring.doorbell.rings == 1

    run(body)


def test_the_next_frame_looks_too(run: Run) -> None:
    async def body() -> None:
        async with peer() as (one, executor):

            def work() -> None:
                one.send()
                one.falls_asleep()
                one.send()
                assert one.rung() == 1

            await in_turn(executor, work)

    run(body)


def test_what_is_sent_outside_of_turns_owes_nothing(run: Run) -> None:
    async def body() -> None:
        async with peer() as (one, _):
            await asyncio.sleep(0.05)
            turns = one.mesh.executor.turns
            one.send()  # this task is in no queue
            assert not one.mesh.dirty
            await asyncio.sleep(0.01)
            assert one.mesh.executor.turns == turns

    run(body)


def test_a_step_that_raises_ends_its_turn_as_others_do(run: Run) -> None:
    async def body() -> None:
        async with peer() as (one, executor):

            def work() -> None:
                one.send()
                one.falls_asleep()
                raise LookupError

            with pytest.raises(LookupError):
                await in_turn(executor, work)
            assert one.rung() == 1

    run(body)


@pytest.mark.parametrize("how", ["cancelled", "aborted"])
def test_a_task_that_is_cancelled_leaves_the_debt_to_the_turn(run: Run, how: str) -> None:
    async def body() -> None:
        async with peer() as (one, executor):

            async def calls() -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    with cw.no_preempt():
                        one.send()
                        one.falls_asleep()

            handle = executor.queue("only").spawn(calls())
            await asyncio.sleep(0.01)
            if how == "cancelled":
                handle.task.cancel()
            else:
                handle.abort()
            with pytest.raises(cw.TaskCancelled):
                await handle
            assert one.rung() == 1

    run(body)


@pytest.mark.parametrize("how", ["disconnect", "close"])
def test_who_is_left_in_the_turn_in_which_it_was_told_is_made_sure_of_before(run: Run, how: str) -> None:
    async def body() -> None:
        async with peer() as (one, executor):

            def work() -> None:
                one.send()
                one.falls_asleep()
                if how == "disconnect":
                    one.mesh.disconnect(1)
                else:
                    one.closed = True
                    one.mesh.close()
                assert one.rung() == 1

            await in_turn(executor, work)
            assert one.take_all() == 1

    run(body)


def test_an_executor_that_ends_in_a_turn_leaves_nobody_asleep(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor([cw.Queue("only"), cw.Queue("background")])
        async with executor:
            one = Peer(executor)

            async def works() -> None:
                with cw.no_preempt():
                    one.send()
                    one.falls_asleep()
                await asyncio.Event().wait()

            executor.queue("only").spawn(works())
            await asyncio.sleep(0)
        assert one.rung() == 1
        one.send()  # by nobody's turn
        assert not one.mesh.dirty
        one.close()

    run(body)


def test_before_an_executor_has_begun_there_are_no_turns(run: Run) -> None:
    async def body() -> None:
        executor = cw.Executor([cw.Queue("only"), cw.Queue("background")])
        one = Peer(executor, serves=False)
        one.send()
        assert not one.mesh.dirty
        one.close()

    run(body)


class Fails(WorkSource):
    """Raises when it is polled, once."""

    def __init__(self) -> None:
        self.polled = 0
        self.told: list[int] = []

    def poll(self) -> bool:
        self.polled += 1
        if self.polled == 1:
            raise ZeroDivisionError
        return False

    def prepare_sleep(self) -> bool:
        return True

    def turn_failed(self) -> None:
        self.told.append(self.polled)


def test_a_source_is_told_of_a_turn_that_has_failed(run: Run) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        seen: list[object] = []
        loop.set_exception_handler(lambda _, about: seen.append(about["exception"]))
        async with cw.Executor([cw.Queue("only"), cw.Queue("background")]) as executor:
            source = Fails()
            executor.poll_source(source, idle_poll_us=0)
            await in_turn(executor, lambda: None)
            await asyncio.sleep(0.01)
            assert source.told == [1]
            assert source.polled > 1
            assert [type(error) for error in seen] == [ZeroDivisionError]
            executor.poll_source(None, idle_poll_us=0)

    run(body)


def test_a_mesh_whose_turn_has_failed_makes_sure(run: Run) -> None:
    async def body() -> None:
        async with peer() as (one, executor):

            def work() -> None:
                one.send()
                one.falls_asleep()
                one.mesh.turn_failed()
                assert one.rung() == 1

            await in_turn(executor, work)

    run(body)


def test_room_is_told_of_by_who_takes_more_than_half_of_a_ring(run: Run) -> None:
    """Until then nobody can be waiting for it, and nobody looks."""

    async def body() -> None:
        async with peer() as (one, _):
            body = bytes(1000)
            while one.sends.push(Kind.REPLY, 0, 0, 1 << 40, body):
                pass
            one.sends.stall()
            assert not one.sends.push(Kind.REPLY, 0, 0, 1 << 40, body)
            while one.mesh.drain(one.mesh.links[1]):
                pass
            assert one.bell.news() == [0]
            one.sends.stall()  # there is no need to, and nobody is asked
            one.sends.push(Kind.REPLY, 0, 0, 1 << 40, body)
            one.mesh.drain(one.mesh.links[1])
            assert one.bell.news() is None

    run(body)
