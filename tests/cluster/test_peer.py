"""A shard that is replaced, as other nodes see it: two incarnations under one name, over a broker in memory."""

from __future__ import annotations

import asyncio

import pytest

import clockworker as cw
from clockworker.cluster._links import FarLinks
from clockworker.cluster._session_cy import IDLE
from tests.cluster.nodes import NAMES, Other, nodes
from tests.conftest import Run, until


@pytest.fixture(autouse=True)
def two_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FarLinks, "_has_twin", lambda self: self.node == NAMES[1])


def test_calls_go_to_the_successor_and_what_is_under_way_is_answered_by_the_old(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=30.0) as both:
            old = both.others[1]
            waiting = both.executor.queues()[0].spawn(both.service.on(1).wait_gate(1))
            await until(lambda: old.side.probe.hanging)
            new = Other(1, 2, both.broker, {"succeeds": True, "silence_s": 30.0})
            try:
                assert await both.service.on(1).note(1) == 1
                asked = asyncio.run_coroutine_threadsafe(new.side.probe.relay(0, b"early"), new.loop)
                first = both.connection()
                old.do(lambda side: side.far.leave())
                await until(lambda: both.connection() is not first)
                for number in range(2, 50):
                    assert await both.service.on(1).note(number) == number
                assert await asyncio.wrap_future(asked) == b"early"
                assert old.side.probe.noted == [1, 1]
                assert new.side.probe.noted == [*range(2, 50)]
                old.do(lambda side: side.probe.gate.set())
                assert await waiting == 1
                assert not both.here.far.ended
                await asyncio.to_thread(old.end)
                assert await both.service.on(1).note(50) == 50
                third = Other(1, 2, both.broker, {"succeeds": True, "silence_s": 30.0})
                try:
                    new.do(lambda side: side.far.leave())
                    await until(lambda: both.connection() is first)
                    assert await both.service.on(1).note(51) == 51
                    assert third.side.probe.noted == [51]
                finally:
                    third.end()
            finally:
                new.end()

    run(body)


def test_who_has_left_before_its_successor_answers_leaves_calls_waiting_for_that(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=30.0) as both:
            old = both.others[1]
            assert await both.service.on(1).note(1) == 1
            new = Other(1, 2, both.broker, {"succeeds": True, "silence_s": 30.0})
            try:
                # Nothing of the successor's arrives yet.
                kept: list[tuple[str, bytes]] = []
                wire = new.side.far.wire
                assert wire is not None
                publish = wire.publish
                wire.publish = lambda subject, body, hold=False: bool(kept.append((subject, body))) or True  # type: ignore[method-assign]
                old.do(lambda side: side.far.leave())
                connection = both.connection()
                await until(lambda: connection.link.holding)
                calls = [both.executor.queues()[0].spawn(both.service.on(1).note(number)) for number in range(2, 5)]
                await until(lambda: kept)
                await asyncio.to_thread(old.end)
                await until(lambda: connection.session.state == IDLE)
                assert not any(call.done() for call in calls)
                wire.publish = publish  # type: ignore[method-assign]
                for subject, message in kept:
                    publish(subject, message)
                assert [await call for call in calls] == [2, 3, 4]
                assert new.side.probe.noted == [2, 3, 4]
            finally:
                new.end()

    run(body)


def test_a_successor_whose_predecessor_dies_has_its_place(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=1.0) as both:
            old = both.others[1]
            assert await both.service.on(1).note(1) == 1
            new = Other(1, 2, both.broker, {"succeeds": True, "silence_s": 1.0})
            try:
                old.end(dies=True)
                with pytest.raises(cw.ShardDied):
                    await both.service.on(1).note(2)
                call = both.executor.queues()[0].spawn(both.service.on(1).note(3))
                await asyncio.sleep(0.05)
                new.do(lambda side: side.far.alone())  # as the mesh says when the rings to it are cut
                assert await call == 3
                assert new.side.probe.noted == [3]
            finally:
                new.end()

    run(body)
