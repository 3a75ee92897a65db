"""Credit and the backlog, with both ends of the rings in this process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from probe import Probe

import clockworker as cw
from clockworker.ipc._doorbell_cy import Doorbell, PeerDoorbell
from clockworker.ipc._frames import Kind
from clockworker.ipc._link import Call, Limits, Link
from clockworker.ipc._remote import remote_methods
from clockworker.ipc._ring_cy import RingConsumer, RingProducer
from tests.conftest import Run

METHOD = remote_methods(Probe)["echo"]


class Ends:
    """A link of shard 0 to shard 1, and the peer's side of it."""

    def __init__(self, credit: int = 4, capacity: int = 4096) -> None:
        self.link = Link(1, Limits(credit=credit))
        self.capacity = capacity
        self.connect(1)

    def connect(self, epoch: int) -> None:
        there, back = cw.create_ring(self.capacity), cw.create_ring(self.capacity)
        memory, eventfd = cw.create_doorbell(2)
        self.peer, self.answers = RingConsumer(there), RingProducer(back)
        self.bell = Doorbell(memory)
        self.link.connect(epoch, RingConsumer(back), RingProducer(there), PeerDoorbell(memory, eventfd, 0))
        for descriptor in (there, back, memory):
            os.close(descriptor)

    def close(self) -> None:
        self.link.disconnect("over")
        for end in (self.peer, self.answers, self.bell):
            end.close()

    def received(self) -> list[tuple[int, int, bytes]]:
        frames = []
        while (body := self.peer.pop()) is not None:
            frames.append((self.peer.kind, self.peer.call, body))
        return frames


def test_frames_leave_in_order_through_a_full_ring() -> None:
    ends = Ends()
    for call in range(500):
        ends.link.send(Kind.REQUEST, 0, 0, call, b"x" * (call % 60))
    assert ends.link.frames_sent < 500
    seen: list[tuple[int, int, bytes]] = []
    while len(seen) < 500:
        ends.link.flush()
        assert ends.bell.news() == [0]
        more = ends.received()
        assert more
        seen += more
        assert ends.link._backlog == type(ends.link._backlog)() or ends.peer.producer_stalled()
    assert seen == [(Kind.REQUEST, call, b"x" * (call % 60)) for call in range(500)]
    assert ends.link.frames_sent == 500
    ends.close()


def test_large_bodies_are_chunked_and_not_mixed_with_others() -> None:
    ends = Ends(capacity=1 << 16)
    ends.link.send(Kind.REQUEST, 0, 0, 1, bytes(40_000))
    ends.link.send(Kind.CANCEL, 0, 0, 1, b"")
    assert [(kind, len(body)) for kind, _, body in ends.received()] == [
        (Kind.CHUNK, 16_384),
        (Kind.CHUNK, 16_384),
        (Kind.REQUEST, 40_000 - 2 * 16_384),
        (Kind.CANCEL, 0),
    ]
    ends.close()


def test_flush_announces_once_and_only_news() -> None:
    ends = Ends()
    ends.link.flush()
    assert ends.bell.news() is None
    for _ in range(3):
        ends.link.send(Kind.REQUEST, 0, 0, 1, b"")
    ends.link.flush()
    assert ends.bell.news() == [0]
    ends.link.flush()
    assert ends.bell.news() is None
    ends.close()


def submit(ends: Ends) -> Call:
    call = Call(METHOD, 0, b"", asyncio.get_running_loop().create_future())
    ends.link.submit(call)
    return call


def test_credit_is_handed_on_in_order(run: Run) -> None:
    async def body() -> None:
        ends = Ends(credit=2)
        calls = [submit(ends) for _ in range(10)]
        for served in range(10):
            assert [call.number for call in calls[: served + 2]] == list(range(1, min(served + 2, 10) + 1))
            assert all(call.number == 0 for call in calls[served + 2 :])
            assert len(ends.link.pending) <= 2
            assert ends.link.settle(calls[served].number) is calls[served]
        assert ends.link.settle(calls[0].number) is None
        assert ends.link.credit_waits == 8
        assert ends.link._credit == 2
        assert [number for _, number, _ in ends.received()] == list(range(1, 11))
        ends.close()

    run(body)


def test_nobody_overtakes_a_call_that_waits_for_credit(run: Run) -> None:
    async def body() -> None:
        ends = Ends(credit=1)
        first, second = submit(ends), submit(ends)
        ends.link.settle(first.number)
        third = submit(ends)
        assert (second.number, third.number) == (2, 0)
        ends.close()
        assert isinstance(second.future.exception(), cw.ShardDied)
        assert isinstance(third.future.exception(), cw.ShardDown)

    run(body)


def test_a_caller_that_leaves_before_its_turn_uses_no_credit(run: Run) -> None:
    async def body() -> None:
        ends = Ends(credit=1)
        first, second, third = submit(ends), submit(ends), submit(ends)
        second.future.cancel()
        assert not ends.link.in_flight(second)
        ends.link.settle(first.number)
        assert (second.number, third.number) == (0, 2)
        assert ends.link.in_flight(third)
        ends.close()
        assert isinstance(third.future.exception(), cw.ShardDied)

    run(body)


def test_credit_of_an_incarnation_ends_with_it(run: Run) -> None:
    async def body() -> None:
        ends = Ends(credit=1)
        old, waiting = submit(ends), submit(ends)
        ends.close()
        ends.connect(2)
        assert isinstance(old.future.exception(), cw.ShardDied)
        assert isinstance(waiting.future.exception(), cw.ShardDown)
        assert ends.link.settle(old.number) is None
        assert ends.link._credit == 1
        ends.close()

    run(body)


def test_disconnecting_ends_everything(run: Run) -> None:
    async def body() -> None:
        ends = Ends(credit=1)
        sent, waiting = submit(ends), submit(ends)
        ends.close()
        with pytest.raises(cw.ShardDied, match=r"over with Probe.echo in flight; it may have run or not"):
            await sent.future
        with pytest.raises(cw.ShardDown):
            await waiting.future
        with pytest.raises(cw.ShardDown):
            submit(ends)
        assert not ends.link.pending

    run(body)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "many"])
@pytest.mark.parametrize("name", ["credit", "max_message"])
def test_limits_that_are_none(name: str, wrong: Any) -> None:
    with pytest.raises(cw.ConfigurationError, match=f"{name} is .*; it must be a whole number from 1"):
        Limits(**{name: wrong})
