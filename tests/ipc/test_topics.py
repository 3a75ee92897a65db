"""Topics between real processes. Shard 0 is this one; see fleet.py and listening.py."""

from __future__ import annotations

import asyncio
import signal
import threading
import zlib
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from fleet import Fleet, fleet
from listening import Line

import clockworker as cw
from tests.conftest import Run, until


async def heard(fleet: Fleet, shard: int, count: int, key: str = "room") -> list[Line]:
    """What a listener has heard, once that is so much."""
    probe = fleet.service.on(shard)
    while await probe.heard_count(key) < count:
        await asyncio.sleep(0.005)
    return await probe.heard(key)


async def settled(fleet: Fleet, shard: int, key: str) -> None:
    """Until nothing more comes."""
    count = -1
    while count != (now := await fleet.service.on(shard).heard_count(key)):
        count = now
        await asyncio.sleep(0.1)


def topic(fleet: Fleet, name: str = "room", ordered: bool = False) -> cw.Topic[Line]:
    return fleet.mesh.topics.topic(name, Line, ordered)


def owner(name: str, count: int) -> int:
    return zlib.crc32(name.encode()) * count >> 32


def stop(fleet: Fleet, shard: int) -> None:
    fleet.processes[shard].send_signal(signal.SIGSTOP)


def go_on(fleet: Fleet, shard: int) -> None:
    fleet.processes[shard].send_signal(signal.SIGCONT)


# What is heard


@pytest.mark.parametrize("ordered", [False, True])
def test_what_one_shard_publishes_all_hear_that_have_subscribed(run: Run, ordered: bool) -> None:
    async def body() -> None:
        async with fleet(3, topics=True) as mesh:
            for shard in range(3):
                await mesh.service.on(shard).listen("room", ordered)
            for shard in range(3):
                await mesh.service.on(shard).publish("room", 100, ordered=ordered)
            for shard in range(3):
                lines = await heard(mesh, shard, 300)
                for publisher in range(3):
                    assert [each.number for each in lines if each.publisher == publisher] == list(range(100))
                assert len(lines) == 300

    run(body)


def test_a_subscription_that_is_entered_hears_whoever_publishes_next(run: Run) -> None:
    async def body() -> None:
        async with fleet(3, topics=True) as mesh:
            for number in range(50):
                name = f"room:{number}"
                await mesh.service.on(1).listen(name)
                await mesh.service.on(2).publish(name, 1)
                assert len(await heard(mesh, 1, 1, name)) == 1

    run(body)


def test_a_topic_that_nobody_hears_stays_here(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True) as mesh:
            await mesh.service.on(1).listen("other")
            sent = mesh.mesh.stats().frames_sent
            for number in range(100):
                await topic(mesh).publish(Line(0, number))
            assert mesh.mesh.stats().frames_sent == sent
            assert mesh.mesh.topics.stats()["room"].published == 100

    run(body)


def test_a_thousand_subscribers_of_a_shard_cost_one_crossing(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True) as mesh:
            for number in range(1_000):
                await mesh.service.on(1).listen("room", key=str(number))
            sent = mesh.mesh.stats().frames_sent
            room = topic(mesh)
            for number in range(10):
                await room.publish(Line(0, number))
            assert mesh.mesh.stats().frames_sent - sent == 10
            for number in (0, 500, 999):
                assert [each.number for each in await heard(mesh, 1, 10, str(number))] == list(range(10))

    run(body)


def test_a_subscriber_that_has_left_is_sent_nothing(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True) as mesh:
            room = topic(mesh)
            for times in range(1, 4):
                await mesh.service.on(1).listen("room")
                await until(lambda: len(room._targets) == 1)
                await room.publish(Line(0, 1))
                await heard(mesh, 1, 1)
                await mesh.service.on(1).cease("room")
                await until(lambda: room._targets == ())
                await room.publish(Line(0, 2))
                assert await mesh.service.on(1).counted("room") == (0, times, 0, 0)

    run(body)


def test_many_publishers_of_an_ordered_topic_are_heard_in_one_order(run: Run) -> None:
    async def body() -> None:
        async with fleet(3, topics=True) as mesh:
            for shard in range(3):
                await mesh.service.on(shard).listen("room", True)
            await asyncio.gather(
                *(
                    mesh.service.on(shard).publish("room", 300, ordered=True, publisher=3 * shard + task)
                    for shard in range(3)
                    for task in range(3)
                )
            )
            seen = [await heard(mesh, shard, 2_700) for shard in range(3)]
            assert seen[0] == seen[1] == seen[2]
            by_publisher: dict[int, list[int]] = defaultdict(list)
            for line in seen[0]:
                by_publisher[line.publisher].append(line.number)
            assert len(by_publisher) == 9
            assert all(numbers == list(range(300)) for numbers in by_publisher.values())

    run(body)


@pytest.mark.parametrize("encode_local", [False, True])
def test_a_subscriber_of_the_publishers_own_shard_gets_the_message_itself_or_what_others_would(
    run: Run, encode_local: bool
) -> None:
    async def body() -> None:
        async with fleet(1, topics=True, encode_local=encode_local) as mesh:
            numbers = mesh.mesh.topics.topic("numbers", list[int])
            async with numbers.subscribe() as received:
                sent = [1, 2]
                await numbers.publish(sent)
                got = await anext(received)
                assert got == sent
                assert (got is sent) != encode_local

    run(body)


def test_large_messages_come_whole(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True, ring=1 << 16) as mesh:
            await mesh.service.on(1).listen("room")
            for number in range(20):
                await topic(mesh).publish(Line(0, number, "x" * 100_000))
            lines = await heard(mesh, 1, 20)
            assert [len(each.text) for each in lines] == [100_000] * 20

    run(body)


# Slow ones


def test_a_slow_subscriber_fills_its_own_queue_and_keeps_nobody_waiting(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True) as mesh:
            probe = mesh.service.on(1)
            ways = ["disconnect", "drop-oldest", "drop-newest"]
            for way in ways:
                await probe.listen("room", limit=10, when_full=way, key=way)
                await probe.may_read(way, False)
            await probe.listen("room", key="quick")
            for number in range(100):
                await topic(mesh).publish(Line(0, number))
                await heard(mesh, 1, number + 1, "quick")
            for way in ways:
                await probe.may_read(way, True)
            # Each had read one when it was stopped.
            expected = {"disconnect": range(11), "drop-oldest": [0, *range(90, 100)], "drop-newest": range(11)}
            for way, numbers in expected.items():
                lines = await heard(mesh, 1, 11, way)
                assert [each.number for each in lines] == list(numbers)
                assert (await probe.lost(way))[0] == 89
            while (await probe.lost("disconnect"))[1] is None:
                await asyncio.sleep(0.005)
            assert (await probe.lost("disconnect"))[1] == 89
            assert await probe.counted("room") == (0, 133, 3 * 89, 3)

    run(body)


@pytest.mark.parametrize("ordered", [False, True])
def test_a_slow_shard_has_publish_wait_and_publish_nowait_raise(run: Run, ordered: bool) -> None:
    """Of a topic by way of its owner, shard 2, shard 1 keeps the owner waiting, and that the publisher."""

    async def body() -> None:
        async with fleet(3, topics=True, limits={"credit": 16}) as mesh:
            name = next(name for name in map(str, range(99)) if owner(name, 3) == 2)
            room = topic(mesh, name, ordered)
            await mesh.service.on(1).listen(name, ordered)
            while not await mesh.service.on(1).heard_count(name):  # shard 2 may be starting
                await room.publish(Line(0, -1))
                await asyncio.sleep(0.005)
            await settled(mesh, 1, name)
            before = await mesh.service.on(1).heard_count(name)
            stop(mesh, 1)
            number = full = 0
            while full < 30:  # by way of the owner, which has credit of its own
                try:
                    room.publish_nowait(Line(0, number))
                    number, full = number + 1, 0
                except cw.ChannelFull:
                    full += 1
                await asyncio.sleep(0.01)
            assert number > 16 - 16 // 4
            with pytest.raises(cw.ChannelFull, match=r"shard \d has 16 messages to take in.* was sent to nobody"):
                room.publish_nowait(Line(0, number))
            waits = asyncio.create_task(room.publish(Line(0, number)))
            given_up = asyncio.create_task(room.publish(Line(0, -1)))
            last = asyncio.create_task(room.publish(Line(0, number + 1)))
            await asyncio.sleep(0.05)
            assert not waits.done()
            given_up.cancel()
            await asyncio.wait([given_up])
            await room.publish(Line(0, -2), when_full="drop")
            assert mesh.mesh.topics.stats()[name].dropped == 1
            go_on(mesh, 1)
            await asyncio.gather(waits, last)
            lines = await heard(mesh, 1, before + number + 2, name)
            assert [each.number for each in lines[before:]] == list(range(number + 2))

    run(body)


def test_who_waits_for_a_shard_that_dies_waits_no_longer(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True, limits={"credit": 16}) as mesh:
            await mesh.service.on(1).listen("room")
            room = topic(mesh)
            await until(lambda: len(room._targets) == 1)
            stop(mesh, 1)
            waiting = [asyncio.create_task(room.publish(Line(0, number))) for number in range(20)]
            await asyncio.sleep(0.05)
            assert [each.done() for each in waiting] == [True] * 16 + [False] * 4
            mesh.kill(1)
            mesh.mesh.disconnect(1)
            await asyncio.gather(*waiting)
            assert mesh.mesh.topics.stats()["room"] == cw.TopicStats(20, 0, 20, 0)
            await room.publish(Line(0, 20))
            assert mesh.mesh.topics.stats()["room"].dropped == 20, "nobody listens any more"
            mesh.restart(1)
            await mesh.service.on(1).listen("room")
            await room.publish(Line(0, 21))
            assert [each.number for each in await heard(mesh, 1, 1)] == [21]

    run(body)


def test_who_subscribes_does_not_wait_for_a_shard_that_has_died(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True) as mesh:
            await mesh.service.on(1).listen("other")  # it has asked by now
            await until(lambda: mesh.mesh.topics._outlets[mesh.mesh.links[1]].live)
            stop(mesh, 1)
            room = topic(mesh)
            entering = asyncio.create_task(room.subscribe().__aenter__())
            await asyncio.sleep(0.05)
            assert not entering.done()
            mesh.kill(1)
            mesh.mesh.disconnect(1)
            lines = await entering
            await room.publish(Line(0, 1))
            assert await anext(lines) == Line(0, 1)
            await lines.__aexit__(None, None, None)

    run(body)


def test_a_publisher_that_never_waits_leaves_its_own_subscribers_a_turn(run: Run) -> None:
    async def body() -> None:
        async with fleet(1, topics=True) as mesh:
            await mesh.service.on(0).listen("room", limit=8)
            room = topic(mesh)

            async def publish() -> None:
                for number in range(1_000):
                    await room.publish(Line(0, number))

            await mesh.executor.queue("foreground").spawn(publish())
            assert len(await heard(mesh, 0, 1_000)) == 1_000

    run(body)


# What is wrong


def test_names_that_are_none(run: Run) -> None:
    async def body() -> None:
        async with fleet(1) as mesh:
            make: Any = mesh.mesh.topics.topic
            make("ä" * 127 + "x", int)
            with pytest.raises(cw.UsageError, match=r"a topic's name has up to 255 bytes, and 'ä+'\.\.\. has 256"):
                make("ä" * 128, int)
            with pytest.raises(
                cw.UsageError, match=r"a topic's name is text of 1 to 255 bytes, and not bytes: b'room'"
            ):
                make(b"room", int)
            with pytest.raises(cw.UsageError, match=r"a topic's name is text of 1 to 255 bytes, and not str: ''"):
                make("", int)
            with pytest.raises(cw.UsageError, match=r"a topic's name is text that UTF-8 has"):
                make("\ud800", int)
            with pytest.raises(cw.ConfigurationError, match=r"a topic's type complex cannot be sent"):
                make("room", complex)
            room = make("room", int)
            with pytest.raises(
                cw.ConfigurationError, match=r"limit is 0; it must be a whole number of messages from 1"
            ):
                room.subscribe(limit=0)
            with pytest.raises(cw.ConfigurationError, match=r"when_full is 'wait'; it must be one of 'disconnect'"):
                room.subscribe(when_full="wait")
            with pytest.raises(cw.ConfigurationError, match=r"when_full is 'disconnect'; it must be 'wait' or 'drop'"):
                await room.publish(1, when_full="disconnect")
            with pytest.raises(cw.UsageError, match=r"topic 'room' carries int, and was given str; nothing was sent"):
                await room.publish("one")

    run(body)


def test_another_type_under_the_same_name(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True) as mesh:
            room = topic(mesh)
            assert topic(mesh) is room
            with pytest.raises(
                cw.SchemaMismatch, match=r"topic 'room' is of Line on this shard, and is asked for with int"
            ):
                mesh.mesh.topics.topic("room", int)
            with pytest.raises(cw.SchemaMismatch, match=r"is asked for with Line, ordered,"):
                topic(mesh, ordered=True)
            # Subscribed there: known here at once.
            await mesh.service.on(1).listen("lines")
            with pytest.raises(cw.SchemaMismatch, match=r"topic 'lines' is of int on shard 0 and of Line on shard 1: "):
                mesh.mesh.topics.topic("lines", int)
            # Here first: found when somebody subscribes there.
            numbers = mesh.mesh.topics.topic("numbers", int)
            with pytest.raises(
                cw.SchemaMismatch, match=r"topic 'numbers' is of int on shard 0 and of Line on shard 1: "
            ):
                await mesh.service.on(1).listen("numbers")
            await numbers.publish(1)
            assert numbers._targets == ()

    run(body)


class Longer(msgspec.Struct, frozen=True):
    """A later version of `Line`."""

    publisher: int
    number: int
    text: str = ""
    colour: str = "red"


Longer.__name__ = Longer.__qualname__ = "Line"


def test_versions_of_a_type_that_understand_each_other(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True) as mesh:
            await mesh.service.on(1).listen("room")
            await mesh.mesh.topics.topic("room", Longer).publish(Longer(0, 1))
            assert await heard(mesh, 1, 1) == [Line(0, 1)]

    run(body)


def test_publish_from_a_thread(run: Run) -> None:
    async def body() -> None:
        async with fleet(1) as mesh:
            room = topic(mesh)
            found: list[BaseException] = []

            def elsewhere() -> None:
                for attempt in (
                    lambda: room.publish_nowait(Line(0, 1)),
                    lambda: asyncio.run(room.publish(Line(0, 1))),
                    lambda: asyncio.run(room.subscribe().__aenter__()),
                    lambda: topic(mesh, "other"),
                ):
                    try:
                        attempt()
                    except cw.UsageError as error:
                        found.append(error)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join)
            assert len(found) == 4
            assert "loop.call_soon_threadsafe(topic.publish_nowait, message)" in str(found[0])
            assert mesh.mesh.topics.stats()["room"].published == 0

    run(body)


def test_a_subscription_is_entered_once_and_read_by_one(run: Run) -> None:
    async def body() -> None:
        async with fleet(1) as mesh:
            room = topic(mesh)
            lines = room.subscribe()
            with pytest.raises(cw.UsageError, match=r"was read before it was entered"):
                await anext(lines)
            async with lines:
                with pytest.raises(cw.UsageError, match=r"was entered before"):
                    await lines.__aenter__()
                first = asyncio.create_task(anext(lines))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                with pytest.raises(cw.UsageError, match=r"two tasks read one subscription"):
                    await anext(lines)
                await room.publish(Line(0, 1))
                assert await first == Line(0, 1)
            with pytest.raises(StopAsyncIteration):
                await anext(lines)
            with pytest.raises(cw.UsageError, match=r"was entered before"):
                await lines.__aenter__()

    run(body)


def test_a_subscriber_that_raises_has_left_and_nobody_else(run: Run) -> None:
    async def body() -> None:
        async with fleet(1) as mesh:
            room = topic(mesh)
            await mesh.service.on(0).listen("room")

            async def raises() -> None:
                async with room.subscribe() as lines:
                    entered.set()
                    async for line in lines:
                        raise ValueError(f"no more of {line.number}")

            entered = asyncio.Event()
            task = asyncio.create_task(raises())
            await entered.wait()
            assert room.subscribers == 2
            await room.publish(Line(0, 1))
            with pytest.raises(ValueError, match=r"no more of 1"):
                await task
            assert room.subscribers == 1
            await room.publish(Line(0, 2))
            assert [each.number for each in await heard(mesh, 0, 2)] == [1, 2]

    run(body)


def test_a_message_that_cannot_be_sent(run: Run) -> None:
    async def body() -> None:
        async with fleet(2, topics=True, limits={"max_message": 1_000}) as mesh:
            await mesh.service.on(1).listen("room")
            room = topic(mesh)
            with pytest.raises(cw.MessageTooLarge, match=r"'room' is 1,\d\d\d bytes encoded; max_message is 1,000"):
                await room.publish(Line(0, 1, "x" * 1_000))
            with pytest.raises(TypeError, match=r"a message of topic 'room' cannot be sent"):
                await room.publish(Line(0, 1, object()))  # type: ignore[arg-type]
            assert mesh.mesh.topics.stats()["room"].published == 0

    run(body)


def test_a_message_that_is_not_what_it_says_is_dropped_and_told_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        async with fleet(1, encode_local=True) as mesh:
            room = topic(mesh)
            async with room.subscribe() as lines:
                wrong: Any = [Line(0, "one"), Line("me", 2)]  # type: ignore[arg-type]
                for each in (*wrong, Line(0, 3)):
                    await room.publish(each)
                assert await anext(lines) == Line(0, 3)
                assert lines.dropped == 2
            assert mesh.mesh.topics.stats()["room"] == cw.TopicStats(3, 1, 2, 0)

    run(body)
    assert caplog.text.count("a message is not Line, and is not delivered") == 1


def test_topics_beyond_the_first_are_counted_together(run: Run) -> None:
    async def body() -> None:
        async with fleet(1) as mesh:
            for number in range(100):
                await topic(mesh, str(number)).publish(Line(0, number))
            stats = mesh.mesh.topics.stats()
            assert len(stats) == 65
            assert stats["(others)"].published == 36
            assert len(mesh.mesh.topics._topics) <= 1, "a topic that nobody has is forgotten"

    run(body)
