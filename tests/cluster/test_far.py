"""Calls over a far link, and what becomes of them when the way fails. The broker is in memory (`memory_broker`)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable
from typing import Any

import pytest
from probe import count_up, pid_and

import clockworker as cw
from clockworker.cluster import _far_cy as _far
from clockworker.cluster import _session_cy as _session
from clockworker.cluster._session_cy import HEAD, IDLE, OPEN
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._owners import PLACES
from tests.cluster.nodes import Nodes, nodes, place
from tests.conftest import DEADLINE, Run, until

SILENCE_S = 1.0


async def outcome(call: Awaitable[Any]) -> Any:
    """What a call ends in."""
    try:
        return await call
    except cw.CallError as error:
        return error


async def opened(both: Nodes) -> None:
    assert await both.service.on(1).echo(b"first") == b"first"


async def settled(both: Nodes) -> None:
    """Nothing is in flight, and no credit is lost."""
    for number in both.others:
        link = both.connection(number).link
        await until(lambda link=link: not link.pending and not link.serving)
        for lane in link.credit.lanes.values():
            assert not lane.waiting
            assert lane.credit == both.mesh.limits.credit


def test_a_call_there_and_back(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            assert await both.service.on(1).echo(b"across") == b"across"
            assert await both.service.on(1).relay(0, b"and back") == b"and back"
            assert both.mesh.stats().calls_sent == 2
            assert both.mesh.stats().calls_received == 1
            await settled(both)

    run(body)


def test_numbers_of_shards(run: Run) -> None:
    async def body() -> None:
        async with nodes(3) as three:
            real = three.service._inner
            assert real.others == [place(1), place(2)]
            assert [shard for shard, _ in await real.map(type(three.probe).whoami)] == [0, 1, 2]
            assert await real.on(place(2)).whoami() == await three.service.on(2).whoami()
            assert await three.service.on(1).relay(2, b"from one to another") == b"from one to another"
            for wrong in (1, -1, PLACES, place(1) + 1, place(9), 10**30):
                with pytest.raises(IndexError, match=rf"there is no shard {wrong}: they are 0 to 0, and what"):
                    real.on(wrong)
            with pytest.raises(
                AttributeError, match=r"'nothing_such' cannot be called on shard 0 of node b\.example; "
            ):
                real.on(place(1)).nothing_such()

    run(body)


def test_a_service_may_keep_to_its_node(run: Run) -> None:
    @cw.node_local
    class Local:
        @cw.remote
        async def one(self) -> int:
            return 1

    async def body() -> None:
        async with nodes() as both:
            service = both.mesh.start(Local, Local())
            assert service.others == []
            assert await service.map(Local.one) == [1]
            assert await service.map_reduce(lambda a, b: a + b, 0, Local.one) == 1
            await service.broadcast(Local.one)

    run(body)


def test_only_a_class_keeps_to_its_node() -> None:
    with pytest.raises(cw.ConfigurationError, match="takes the class of a service, and 3 is none"):
        cw.node_local(3)  # type: ignore[type-var]


def test_many_calls_of_a_turn_are_one_message(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await opened(both)
            before = both.broker.messages
            calls = [both.service.on(1).echo(b"x") for _ in range(500)]
            assert await asyncio.gather(*calls) == [b"x"] * 500
            # 64 frames are taken in a turn, and answered in a message.
            assert both.broker.messages - before < 60
            await settled(both)

    run(body)


def test_a_flood_is_some_messages_behind_each_other(run: Run) -> None:
    """So that the peer and the broker are at work while we go on; a few calls are one message."""

    async def body() -> None:
        async with nodes() as both:
            await opened(both)
            pieces: list[int] = []  # frames of each message of ours

            def count(subject: str, message: bytes) -> list[bytes]:
                if len(message) > HEAD.size and ".to.b_2eexample." in subject:
                    pieces.append(message.count(b"a flood's call"))
                return [message]

            both.broker.fault = count

            async def call(number: int) -> list[int]:
                pieces.clear()
                calls = [both.service.on(1).echo(b"a flood's call") for _ in range(number)]
                await asyncio.gather(*calls)
                return list(pieces)

            assert await call(8) == [8]
            found = await call(_far.FEWEST * 2)
            assert len(found) == 2
            assert found[0] == _far.FEWEST
            assert sum(found) == 2 * _far.FEWEST
            both.broker.fault = None
            await settled(both)

    run(body)


def test_a_flood_of_large_calls_does_not_look_like_silence(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=SILENCE_S) as both:
            await opened(both)
            value = bytes(2_000_000)
            answers = await asyncio.gather(*(both.service.on(1).echo(value) for _ in range(20)))
            assert answers == [value] * 20
            assert not both.here.far.ended
            assert both.here.far.window_waits
            await settled(both)

    run(body)


def test_what_is_under_way_is_bounded_though_the_peer_takes_nothing_in(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await opened(both)
            connection = both.connection()
            both.broker.stall()
            calls = [both.executor.queues()[0].spawn(both.service.on(1).echo(bytes(100_000))) for _ in range(100)]
            await until(lambda: connection.crowded)
            stalled = sum(len(message) for _, message in both.broker.stalled or ())
            assert stalled <= connection.session.window + 20 * HEAD.size
            assert connection.backlog_bytes <= connection.session.window + 100_100
            with pytest.raises(cw.ChannelFull, match=r"bytes wait for room on the way to shard 0 of node b\.example"):
                await both.service.on_nowait(1).echo(b"")
            both.broker.go_on()
            for call in calls:
                assert await call == bytes(100_000)
            await settled(both)

    run(body)


def test_a_wire_that_is_full_is_waited_for(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await opened(both)
            for number in range(20):
                both.here.far.wire.full = True  # type: ignore[union-attr]
                calls = [both.service.on(1).echo(b"%d" % number) for _ in range(3)]
                assert await asyncio.gather(*calls) == [b"%d" % number] * 3
            await settled(both)

    run(body)


# What is lost


def lose(both: Nodes, numbers: set[int], to: str = "b_2eexample") -> None:
    """Of the messages to that node from now on, those with these numbers."""
    count = 0

    def fault(subject: str, body: bytes) -> list[bytes]:
        nonlocal count
        if f".to.{to}." not in subject:
            return [body]
        count += 1
        return [] if count - 1 in numbers else [body]

    both.broker.fault = fault


def test_a_message_that_is_lost_ends_the_calls_of_its_session(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=SILENCE_S) as both:
            await opened(both)
            hanging = both.executor.queues()[0].spawn(outcome(both.service.on(1).hang()))
            await until(lambda: both.others[1].side.probe.hanging)
            lose(both, {0})
            lost = both.executor.queues()[0].spawn(outcome(both.service.on(1).echo(b"lost")))
            await asyncio.sleep(0.01)
            after = both.executor.queues()[0].spawn(outcome(both.service.on(1).echo(b"after")))
            for call in (hanging, lost, after):
                error = await call
                assert type(error) is cw.ShardDied
                assert "in flight; it may have run or not" in str(error)
            await until(lambda: both.others[1].side.probe.cancelled)
            assert both.others[1].side.far.ended["gap"] == 1
            assert both.here.far.ended["bye"] == 1
            assert await both.service.on(1).echo(b"again") == b"again"
            await settled(both)

    run(body)


def test_a_last_message_that_is_lost_is_missed_within_a_third_of_silence(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=3.0) as both:
            await opened(both)
            lose(both, {0})
            began = time.monotonic()
            with pytest.raises(cw.ShardDied):
                await both.service.on(1).echo(b"lost")
            assert time.monotonic() - began > 0.5
            assert both.others[1].side.far.ended["gap"] == 1
            await settled(both)

    run(body)


def test_who_is_cut_off_is_down_after_silence_and_comes_back(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=SILENCE_S) as both:
            await opened(both)
            both.broker.fault = lambda subject, body: []
            began = time.monotonic()
            error = await outcome(both.service.on(1).echo(b"nowhere"))
            assert type(error) is cw.ShardDied
            assert "was not heard for 1 s with Probe.echo in flight" in str(error)
            assert SILENCE_S <= time.monotonic() - began < DEADLINE / 2
            error = await outcome(both.service.on(1).echo(b"nowhere"))  # no session begins: nothing was sent
            assert type(error) is cw.ShardDown
            assert "shard 0 of node b.example is down; nothing was sent" in str(error)
            both.broker.fault = None
            assert await both.service.on(1).echo(b"healed") == b"healed"
            await settled(both)

    run(body)


def test_a_node_that_is_silent_is_down_at_once(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await opened(both)
            hanging = both.executor.queues()[0].spawn(outcome(both.service.on(1).hang()))
            await until(lambda: both.others[1].side.probe.hanging)
            both.here.see(2, silent=("b.example",))
            assert type(await hanging) is cw.NodeDied
            with pytest.raises(cw.NodeDown, match=r"node b.example is not heard; nothing was sent to its shard 0"):
                await both.service.on(1).echo(b"")
            with pytest.raises(cw.ShardDown):
                await both.service.on(1).echo(b"")
            assert both.service._inner.others == [place(1)]
            both.here.see(2)
            assert await both.service.on(1).echo(b"heard again") == b"heard again"
            await settled(both)

    run(body)


def test_a_node_that_leaves_the_view_is_down_and_no_place_any_more(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            await opened(both)
            both.here.see(1)
            assert both.service._inner.others == []
            with pytest.raises(cw.NodeDown):
                await both.service.on(1).echo(b"")

    run(body)


def test_a_shard_that_has_died_is_known_by_what_its_successor_says(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=3.0) as both:
            await opened(both)
            hanging = both.executor.queues()[0].spawn(outcome(both.service.on(1).hang()))
            await until(lambda: both.others[1].side.probe.hanging)
            both.others[1].end(dies=True)
            both.others[1] = type(both.others[1])(1, 2, both.broker, {})
            assert type(await hanging) is cw.ShardDied
            assert both.here.far.ended == {"bye": 1}
            assert await both.service.on(1).echo(b"successor") == b"successor"
            await settled(both)

    run(body)


def test_a_node_that_leaves_says_so(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=60.0) as both:
            await opened(both)
            hanging = both.executor.queues()[0].spawn(outcome(both.service.on(1).hang()))
            await until(lambda: both.others[1].side.probe.hanging)
            await asyncio.to_thread(both.others[1].end)
            assert type(await hanging) is cw.ShardDied

    run(body)


def test_a_broker_that_is_lost_ends_all_sessions_at_once(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=60.0) as both:
            await opened(both)
            hanging = both.executor.queues()[0].spawn(outcome(both.service.on(1).hang()))
            await until(lambda: both.others[1].side.probe.hanging)
            both.broker.restart(comes_back=False)
            assert type(await hanging) is cw.ShardDied
            with pytest.raises(cw.ShardDown):
                await both.service.on(1).echo(b"")
            await until(lambda: both.others[1].side.probe.cancelled)
            both.broker.is_there = True
            await both.here.far.connected()
            await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(both.others[1].side.far.connected(), both.others[1].loop)
            )
            assert await both.service.on(1).echo(b"again") == b"again"
            assert both.here.far.ended["lost"] == 1
            await settled(both)

    run(body)


def test_a_stall_is_no_loss(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=30.0) as both:
            await opened(both)
            both.broker.stall()
            call = both.executor.queues()[0].spawn(both.service.on(1).echo(b"late"))
            await asyncio.sleep(0.05)
            both.broker.go_on()
            assert await call == b"late"
            assert not both.here.far.ended

    run(body)


def test_a_deadline_ends_a_call_whatever_the_way_does(run: Run) -> None:
    async def body() -> None:
        async with nodes(silence_s=60.0) as both:
            await opened(both)
            both.broker.stall()
            with pytest.raises(cw.CallTimeout):
                await both.service.on(1, timeout=0.05).echo(b"late")
            both.broker.go_on()
            assert await both.service.on(1).echo(b"then") == b"then"
            await settled(both)

    run(body)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_way_does_a_call_runs_at_most_once_and_ends(run: Run, seed: int) -> None:
    """Messages are lost, doubled, swapped and late; the broker restarts. Each call ends, in its own answer or in an error, and
    none has run twice, nor any that was said not to have been sent."""

    async def body() -> None:
        async with nodes(silence_s=0.5) as both:
            chance = random.Random(seed)
            kept: list[bytes] = []

            def fault(subject: str, body: bytes) -> list[bytes]:
                what = chance.random()
                if what < 0.02:
                    return []
                if what < 0.04:
                    return [body, body]
                if what < 0.05 and ".to.b" in subject:
                    kept.append(body)
                    return []
                if kept and what > 0.9 and ".to.b" in subject:
                    return [body, kept.pop()]
                return [body]

            both.broker.fault = fault
            ends: dict[int, Any] = {}

            async def call(number: int) -> None:
                await asyncio.sleep(chance.random() * 0.5)
                ends[number] = await outcome(both.service.on(1).note(number))

            handles = [both.executor.queues()[number % 2].spawn(call(number)) for number in range(400)]
            for _ in range(3):
                await asyncio.sleep(0.2)
                both.broker.restart()
            for handle in handles:
                await handle
            while sum(end == number for number, end in ends.items()) <= 20:  # a busy machine has answered few until now
                await call(len(ends))
            both.broker.fault = None
            await both.here.far.connected()
            noted = both.others[1].side.probe.noted
            assert len(noted) == len(set(noted)), "a call has run twice"
            for number, end in ends.items():
                assert end == number or isinstance(end, cw.ShardDied | cw.ShardDown), end
                if end == number:
                    assert number in noted
                elif isinstance(end, cw.ShardDown):
                    assert number not in noted, "it was said not to have been sent"

            async def answered() -> bool:
                return await outcome(both.service.on(1).echo(b"over")) == b"over"

            while not await answered():
                await asyncio.sleep(0.01)
            await settled(both)

    run(body)


# Rules, and who speaks


def test_a_peer_that_breaks_the_rules_ends_its_session(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with nodes() as both:
            for kind, call, data, why in (
                (5, 0, b"", "a frame of unknown kind 5"),
                (35, 0, b"", "a frame of kind 35, about topics"),
                (Kind.TOPIC, 0, b"", "a frame of kind 13, about topics"),
                (Kind.CREDIT, 1_000, b"", "credit for 1000 requests that were not sent"),
                (Kind.SCHEMA, 0, b"\xc1", "a schema that cannot be read"),
            ):
                await opened(both)
                caplog.clear()
                both.connection().send(kind, 0, 0, call, data)
                await until(lambda: both.connection().session.state == IDLE)
                assert f"has broken the rules: {why}" in caplog.text
            assert both.others[1].side.far.ended == {"rules": 5}
            assert await both.service.on(1).echo(b"on") == b"on"

    run(body)


def test_the_sender_is_who_the_subject_says(run: Run) -> None:
    async def body() -> None:
        async with nodes(3) as three:
            await opened(three)
            session = three.connection(1).session
            unknown: list[str] = []
            three.here.far._unknown = unknown.append
            # The third node, which the broker lets speak for itself only, knows the numbers of a session of the second.
            forged = HEAD.pack(_session.VERSION, _session.BYE, 0, session.ours, 0, 0)
            three.others[2].do(lambda side: side.far.wire.publish("cw.test.to.a.0.c.0", forged))
            three.others[2].do(lambda side: side.far.wire.publish("cw.test.to.a.0.stranger.0", forged))
            three.others[2].do(lambda side: side.far.wire.publish("cw.test.to.a.0.c.77", forged))
            three.others[2].do(lambda side: side.far.wire.publish("cw.test.to.a.0.c.x", forged))
            await until(lambda: unknown)
            assert unknown == ["stranger"]
            assert await three.service.on(2).echo(b"after it") == b"after it"
            assert session.state == OPEN
            assert not three.here.far.ended

    run(body)


def test_another_version_is_refused_and_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with nodes(silence_s=SILENCE_S) as both:
            await opened(both)
            session = both.connection().session
            future = HEAD.pack(2, 0, session.theirs, session.ours, 1, 0)
            both.others[1].do(lambda side: side.far.wire.publish("cw.test.to.a.0.b_2eexample.0", future))
            await until(lambda: both.here.far.ended["version"])
            assert "shard 0 of node b.example: that speaks version 2, and we speak 1" in caplog.text

    run(body)


def test_a_session_without_calls_ends_and_a_call_begins_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        monkeypatch.setattr(_far, "IDLE_NS", 300_000_000)
        async with nodes() as both:
            await opened(both)
            hanging = both.executor.queues()[0].spawn(outcome(both.service.on(1).hang()))
            await until(lambda: both.others[1].side.probe.hanging)
            await asyncio.sleep(1.0)
            assert both.connection().session.state == OPEN
            hanging.abort()
            await until(lambda: both.connection().session.state == IDLE)
            assert both.here.far.ended == {"idle": 1}
            assert both.here.far._in_session == set()
            assert await both.service.on(1).echo(b"another") == b"another"
            await settled(both)

    run(body)


def test_groups_of_two_nodes_are_two(run: Run) -> None:
    """A key that does not travel is stood for by its sender's place."""

    async def body() -> None:
        key = ("not", object)  # a class does not travel
        async with nodes(3) as three:
            for number in (1, 2):
                sent = three.executor.queues()[0].group(key).spawn(three.service.on(number).group())
                assert await sent == [place(0), hash(key)]  # in the result, which is plain data

    run(body)


# Keys


def test_a_call_of_a_key_carries_partition_and_epoch_and_is_checked_where_it_runs(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            service, keys, there = both.service._inner, both.here.keys, both.others[1].side.keys
            keys.place = place(1)
            owner = both.mesh.owners.of("key")
            assert owner == place(1)
            assert (await service.on(owner).whoami())[0] == 1
            assert there.asked == [(owner.partition, 7)]
            assert await service.of("key").echo(b"of") == b"of"
            assert [row.x async for row in service.of("key").rows(3)] == [0, 1, 2]
            assert [row.x async for row in service.on(owner).rows(3)] == [0, 1, 2]
            await service.send(owner, type(both.probe).note, 5)
            service.send_nowait(owner, type(both.probe).note, 6)
            await until(lambda: both.others[1].side.probe.noted == [5, 6])
            assert await service.on_nowait(owner).echo(b"nowait") == b"nowait"
            assert await service.on(owner, timeout=10).left() > 1
            assert len(there.asked) == 8
            there.refuses = cw.NotOwner("it has moved")
            for call in (service.on(owner).echo(b""), service.on(owner).note(1), service.on(owner).note_at_once(1)):
                with pytest.raises(cw.NotOwner, match="it has moved"):
                    await call
            with pytest.raises(cw.NotOwner):
                await anext(service.on(owner).rows(3))
            there.refuses = cw.NodeIsolated("cut off")
            with pytest.raises(cw.NodeIsolated, match="cut off"):
                await service.of("key").echo(b"")
            assert both.others[1].side.probe.noted == [5, 6]

    run(body)


def test_a_key_of_ours_is_checked_too(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            service, keys = both.service._inner, both.here.keys
            owner = both.mesh.owners.of("key")
            assert owner == 0
            assert await service.on(owner).echo(b"here") == b"here"
            assert await service.of("key").background() == "background"
            assert [row.x async for row in service.of("key").rows(2)] == [0, 1]
            keys.refuses = cw.NodeIsolated("cut off")
            for call in (service.on(owner).echo(b""), service.of("key").background()):
                with pytest.raises(cw.NodeIsolated):
                    await call
            with pytest.raises(cw.NodeIsolated):
                await service.send(owner, type(both.probe).note, 1)
            with pytest.raises(cw.NodeIsolated):
                service.send_nowait(owner, type(both.probe).note, 1)
            assert await service.on(0).echo(b"of no key") == b"of no key"
            assert not both.probe.noted

    run(body)


def test_of_follows_a_key_that_moves(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            service, keys, there = both.service._inner, both.here.keys, both.others[1].side.keys
            keys.place = place(1)
            there.refuses = cw.NotOwner("not yet")
            call = both.executor.queues()[0].spawn(service.of("key").whoami())
            await until(lambda: len(there.asked) > 2)
            there.refuses = None
            assert (await call)[0] == 1
            there.refuses = cw.NotOwner("no more")
            call = both.executor.queues()[0].spawn(service.of("key").whoami())
            await until(lambda: len(there.asked) > 6)
            keys.place = 0
            assert (await call)[0] == 0

    run(body)


def test_of_gives_up_at_its_deadline_with_the_last_error(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            service, there = both.service._inner, both.others[1].side.keys
            both.here.keys.place = place(1)
            there.refuses = cw.NotOwner("never")
            with pytest.raises((cw.NotOwner, cw.CallTimeout)):
                await service.of("key", timeout=0.2).whoami()
            with cw.deadline(0.2), pytest.raises((cw.NotOwner, cw.CallTimeout)):
                await service.of("key").whoami()
            both.here.see(2, silent=("b.example",))
            with pytest.raises(cw.NodeDown):  # given the time for one try at least
                await service.of("key", timeout=1.0).whoami()
            with pytest.raises(AttributeError, match="'no_such' cannot be called on the shard of a key"):
                service.of("key").no_such()

    run(body)


def test_a_function_is_called_where_a_key_is(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            keys, there = both.here.keys, both.others[1].side.keys
            owner = both.mesh.owners.of("key")
            call = both.mesh._inner.function_caller
            assert (await call(owner, pid_and)(3))[1:] == (3, 1)
            assert both.here.keys.asked
            keys.refuses = cw.NodeIsolated("cut off")
            with pytest.raises(cw.NodeIsolated):
                await call(owner, pid_and)(3)
            keys.place = place(1)
            owner = both.mesh.owners.of("key")
            assert (await call(owner, pid_and)(3))[1:] == (3, 1)
            assert [number async for number in call(owner, count_up)(3)] == [0, 1, 2]
            there.refuses = cw.NotOwner("moved")
            with pytest.raises(cw.NotOwner, match="moved"):
                await call(owner, pid_and)(3)

    run(body)
