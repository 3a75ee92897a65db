"""Topics between nodes: what is lost is counted, nothing comes twice, and a broker that comes back is subscribed to again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from listening import Line

import clockworker as cw
from clockworker.ipc.topics._beyond import ORIGIN, Origins, Publishers, listener_of
from tests.cluster.nodes import Nodes, nodes
from tests.conftest import Run, until


def test_numbers_of_publishers() -> None:
    publishers = Publishers()
    assert publishers.take(1, 5) == 0  # nothing is known of what was before
    assert publishers.take(1, 6) == 0
    assert publishers.take(1, 9) == 2
    assert publishers.take(1, 9) is None
    assert publishers.take(1, 7) is None
    assert publishers.take(2, 1) == 0
    assert publishers.take(1, 10) == 0


def test_who_is_remembered_is_bounded() -> None:
    publishers = Publishers()
    for publisher in range(20_000):
        publishers.take(publisher, 1)
    assert len(publishers._last) == 10_000
    assert publishers.take(19_999, 1) is None


def test_a_publisher_counts_each_topic_and_is_another_when_its_numbers_are_used_up() -> None:
    drawn = iter(range(100, 200))
    origins = Origins(lambda: next(drawn))
    told = [ORIGIN.unpack(origins.next(name)) for name in "aabab"]
    assert told == [(100, 1), (100, 2), (101, 1), (100, 3), (101, 2)]
    origins._of["a"] = (100, 0xFFFFFFFE)
    assert [ORIGIN.unpack(origins.next("a")) for _ in range(2)] == [(100, 0xFFFFFFFF), (102, 1)]


def test_all_shards_of_a_node_agree_on_who_listens() -> None:
    assert {listener_of(f"room:{number}", 4) for number in range(100)} == {0, 1, 2, 3}
    assert listener_of("room:1", 1) == 0


async def subscribed(both: Nodes, name: str, ordered: bool = False) -> None:
    await both.service.on(1).listen(name, ordered)


async def heard(both: Nodes, name: str, count: int) -> list[Line]:
    await until(lambda: len(both.others[1].side.probe.listeners[name].heard) >= count)
    lines: list[Line] = await both.service.on(1).heard(name)
    return lines


def topic(both: Nodes, name: str) -> cw.Topic[Line]:
    found: cw.Topic[Line] = both.here.mesh.topics.topic(name, Line)
    return found


def test_a_topic_of_another_type_there_is_said_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Types are compared between the shards of a node; between nodes, by the messages that come."""

    async def body() -> None:
        async with nodes() as both:
            await subscribed(both, "news")
            other: cw.Topic[int] = both.here.mesh.topics.topic("news", int)
            for number in range(3):
                await other.publish(number)
            stats = both.others[1].side.mesh.topics.stats
            await until(lambda: stats()["news"].dropped >= 3)
            said = [record.getMessage() for record in caplog.records if "is not delivered" in record.getMessage()]
            assert len(said) == 1
            assert said[0].startswith("topic 'news': a message is not ")

    run(body)


def test_what_is_lost_is_counted(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await subscribed(both, "news")
            count = 0

            def fault(subject: str, message: bytes) -> list[bytes]:
                nonlocal count
                count += ".topic." in subject
                return [] if ".topic." in subject and count in (3, 4) else [message]

            both.broker.fault = fault
            for number in range(6):
                await topic(both, "news").publish(Line(0, number))
            lines = await heard(both, "news", 4)
            assert [line.number for line in lines] == [0, 1, 4, 5]
            assert await both.service.on(1).counted("news") == (0, 4, 2, 1)

    run(body)


def test_what_comes_twice_is_taken_once(run: Run) -> None:
    """As when two incarnations of a shard listen for their node."""

    async def body() -> None:
        async with nodes() as both:
            await subscribed(both, "news")
            both.broker.fault = lambda subject, message: [message, message] if ".topic." in subject else [message]
            for number in range(5):
                await topic(both, "news").publish(Line(0, number))
            await topic(both, "other").publish(Line(0, 0))
            lines = await heard(both, "news", 5)
            assert [line.number for line in lines] == [0, 1, 2, 3, 4]
            assert await both.service.on(1).counted("news") == (0, 5, 0, 1)

    run(body)


def test_who_has_left_hears_nothing_and_the_broker_is_told(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await subscribed(both, "news")
            assert both.others[1].do(lambda side: [*side.mesh.topics.beyond._listening]) == ["news"]
            await both.service.on(1).cease("news")
            assert both.others[1].do(lambda side: [*side.mesh.topics.beyond._listening]) == []

    run(body)


def test_a_broker_that_comes_back_is_subscribed_to_again(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await subscribed(both, "news")
            both.broker.restart()
            await both.here.far.connected()
            there = both.others[1]
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there.side.far.connected(), there.loop))

            async def arrives() -> bool:
                await topic(both, "news").publish(Line(0, 1))
                await asyncio.sleep(0.01)
                return bool(there.side.probe.listeners["news"].heard)

            while not await arrives():
                pass
            assert set(await heard(both, "news", 1)) == {Line(0, 1)}

    run(body)


def test_without_a_broker_the_node_hears_itself_and_what_others_miss_is_counted(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            both.broker.restart(comes_back=False)
            await until(lambda: both.here.far.wire is None)
            async with topic(both, "news").subscribe() as lines:
                await topic(both, "news").publish(Line(0, 1))
                assert await anext(lines) == Line(0, 1)
            assert topic(both, "news").stats().dropped == 1
            both.broker.is_there = True

    run(body)


def test_who_is_in_no_view_is_not_heard(run: Run) -> None:
    async def body() -> None:
        async with nodes(3) as three:
            await subscribed(three, "news")
            three.others[1].do(lambda side: side.see(2))
            for number in (2, 0):
                await three.service.on(number).publish("news", 1, publisher=number)
            assert (await heard(three, "news", 1))[0].publisher == 0
            assert len(await heard(three, "news", 1)) == 1

    run(body)


def test_a_message_that_the_broker_does_not_carry(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            most = both.broker.max_payload - ORIGIN.size
            await subscribed(both, "news")
            await topic(both, "news").publish(Line(0, 1, "x" * (most - 30)))
            with pytest.raises(cw.MessageTooLarge, match=r"the broker carries 1,048,576. Nothing was sent"):
                await topic(both, "news").publish(Line(0, 2, "x" * most))
            assert [line.number for line in await heard(both, "news", 1)] == [1]

    run(body)


@pytest.mark.parametrize("count", [3])
def test_ordered_topics_are_heard_in_one_order_on_all_nodes(run: Run, count: int) -> None:
    async def body() -> None:
        async with nodes(count) as three:
            for number in range(count):
                await three.service.on(number).listen("order", True)
            publishing = [three.service.on(number).publish("order", 50, ordered=True) for number in range(count)]
            await asyncio.gather(*publishing)
            told: list[Any] = []
            for number in range(count):
                side = three.here if number == 0 else three.others[number].side
                await until(lambda side=side: len(side.probe.listeners["order"].heard) == 50 * count)
                told.append([(line.publisher, line.number) for line in side.probe.listeners["order"].heard])
            assert all(each == told[0] for each in told)
            for publisher in range(count):
                assert [number for each, number in told[0] if each == publisher] == [*range(50)]

    run(body)
