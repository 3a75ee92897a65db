"""Calls between real processes. Shard 0 is this one; see fleet.py, node.py and probe.py."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from fleet import Fleet, fleet
from probe import FAILURES, Point, Probe, ProbeError, Record, TwoArguments

import clockworker as cw
from clockworker.ipc.calls._call_cy import new_call
from clockworker.ipc.calls._definitions import remote_methods
from clockworker.ipc.calls._failure import RemoteTraceback
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._schema import MethodSchema, ServiceSchema
from tests.conftest import Run, until

METHODS = remote_methods(Probe)


def spawn(fleet: Fleet, call: Coroutine[Any, Any, Any], queue: str = "foreground") -> cw.JoinHandle[Any]:
    return fleet.executor.queue(queue).spawn(call)


async def settled(fleet: Fleet) -> None:
    """Wait until nothing is in flight, and check that nothing was lost."""
    await until(lambda: fleet.mesh.stats().calls_in_flight == 0)
    assert fleet.mesh.stats().missed_wakeups == 0
    for link in fleet.mesh.links:
        assert not link.serving
        assert not link.pending
        for lane in link.credit.lanes.values():
            assert not lane.waiting
            assert lane.credit == fleet.mesh.limits.credit


# Sleep and wake-up


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a core for each of two shards")
def test_a_shard_that_sleeps_on_its_own_core_is_rung_ahead_of_a_call(run: Run) -> None:
    cores = os.sched_getaffinity(0)

    async def body() -> None:
        async with fleet(cores={max(cores)}) as mesh:
            doorbell = mesh.mesh.links[1].connection.doorbell
            while mesh.mesh.link_stats()[1].wakeups_ahead < 3:
                await until(doorbell.may_ring_ahead, "it sleeps")
                assert await mesh.service.on(1).echo(b"early") == b"early"
            for number in range(200):
                assert await mesh.service.on(1).echo(b"%d" % number) == b"%d" % number
            await settled(mesh)
            stats = mesh.mesh.stats()
            assert 0 <= stats.wakeups_in_vain <= stats.wakeups
            link = mesh.mesh.link_stats()[1]
            assert link.wakeups_ahead <= link.wakeups

    os.sched_setaffinity(0, {min(cores)})
    try:
        run(body)
    finally:
        os.sched_setaffinity(0, cores)


# What a call brings and takes


def test_calls_reach_the_shard_that_they_name(run: Run) -> None:
    async def body() -> None:
        async with fleet(3) as mesh:
            seen = [await mesh.service.on(shard).whoami() for shard in range(3)]
            assert seen[0] == (0, os.getpid())
            assert seen[1:] == [(shard, mesh.processes[shard].pid) for shard in (1, 2)]
            assert await mesh.service.on(1).relay(2, b"around") == b"around"
            assert await mesh.service.on(2).relay(0, b"back") == b"back"
            await settled(mesh)
            stats = mesh.mesh.stats()
            assert (stats.calls_local, stats.calls_sent, stats.calls_received) == (1, 4, 1)
            assert stats.frames_sent == stats.frames_received == 5 + 2  # and the service's schema to each and from each
            assert stats.bytes_sent > 0
            assert stats.bytes_received > 0

    run(body)


def test_arguments_by_position_by_name_and_by_default(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for probe in (mesh.service.on(0), mesh.service.on(1)):
                assert await probe.add(1) == 111
                assert await probe.add(1, 2) == 103
                assert await probe.add(b=2, a=1) == 103
                assert await probe.add(1, c=3) == 14
                assert await probe.add(1, 2, c=3) == 6
                assert await probe.nothing() is None

    run(body)


def test_types_survive(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            point = Point(3, 1.5, ["a", "ü"])
            record = Record("k", datetime(2024, 2, 29, 12, tzinfo=UTC), b"\0\xff")
            for mixed in (7, "seven", None):
                sent = (point, record, mixed, {"x": {1, 2}})
                assert await mesh.service.on(1).types(*sent) == sent

    run(body)


def test_wrong_arguments_are_type_errors(run: Run) -> None:
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((), {}, r"Probe.add\(\) missing 1 required positional argument: 'a'"),
        ((1, 2, 3), {}, r"Probe.add\(\) takes from 1 to 2 positional arguments but 3 were given"),
        ((1,), {"d": 4}, r"Probe.add\(\) got an unexpected keyword argument 'd'"),
        ((1,), {"a": 1}, r"Probe.add\(\) got multiple values for argument 'a'"),
        (("one",), {}, r"Probe.add\(\) was called with arguments that it does not take: Expected `int`, got `str`"),
        ((object(),), {}, "Encoding objects of type object is unsupported"),
    ]

    async def body() -> None:
        async with fleet() as mesh:
            for args, kwargs, message in cases:
                with pytest.raises(TypeError, match=message):
                    await mesh.service.on(1).add(*args, **kwargs)
            assert await mesh.service.on(1).add(1) == 111
            await settled(mesh)

    run(body)


def test_whatever_cannot_be_decoded_is_answered(run: Run) -> None:
    cases = [
        ("text", b"\x91\xa1\xff"),  # no UTF-8
        ("deep", b"\x91" * 100_000),  # deeper than the stack
        ("text", b"\x91"),  # cut short
        ("text", b"\xc1"),  # no msgpack
        ("text", b""),
        ("text", b"\x92\xa1a\xa1b"),  # too many
    ]

    async def body() -> None:
        async with fleet() as mesh:
            encode = mesh.mesh.shared.encode
            for method, encoded in cases:
                mesh.mesh.shared.encode = lambda _, encoded=encoded: encoded
                with pytest.raises(TypeError, match="arguments that it does not take"):
                    await new_call(mesh.mesh.links[1], Kind.REQUEST, METHODS[method], (), 0, False)
            mesh.mesh.shared.encode = encode
            assert await mesh.service.on(1).add(1) == 111
            await settled(mesh)

    run(body)


def test_a_result_that_cannot_be_sent_or_is_not_what_it_declares(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            with pytest.raises(TypeError, match=r"Probe.unsendable\(\) returned what cannot be sent"):
                await mesh.service.on(1).unsendable()
            with pytest.raises(TypeError, match=r"the result of Probe.lie from shard 1 is not what it declares"):
                await mesh.service.on(1).lie()
            await settled(mesh)

    run(body)


# Exceptions


def test_builtin_exceptions_come_back_as_themselves(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for name in (
                "ValueError",
                "KeyError",
                "FileNotFoundError",
                "UnicodeDecodeError",
                "ZeroDivisionError",
                "TimeoutError",
            ):
                expected = FAILURES[name]()
                with pytest.raises(type(expected)) as caught:
                    await mesh.service.on(1).fail(name)
                assert type(caught.value) is type(expected)
                assert caught.value.args == expected.args
                assert isinstance(caught.value.__cause__, RemoteTraceback)
                assert "in fail" in str(caught.value.__cause__)
                assert "probe.py" in str(caught.value.__cause__)
            await settled(mesh)

    run(body)


def test_declared_exceptions_come_back_as_themselves(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            with pytest.raises(ProbeError, match="undeclared"):
                await mesh.service.on(1).fail_declared("ProbeError")
            with pytest.raises(TwoArguments, match="a and b"):
                await mesh.service.on(1).fail_declared(
                    "TwoArguments"
                )  # whose __init__ wants other arguments than its args

    run(body)


def test_other_exceptions_become_remote_errors(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for name, type_name in [
                ("ProbeError", "probe.ProbeError"),
                ("CancelledError", "asyncio.exceptions.CancelledError"),
            ]:
                with pytest.raises(cw.RemoteError) as caught:
                    await mesh.service.on(1).fail(name)
                assert caught.value.type_name == type_name
                assert "Probe.fail on shard 1 raised" in str(caught.value)
                assert "in fail" in caught.value.remote_traceback
            await settled(mesh)

    run(body)


def test_a_group_of_exceptions_is_one_here_too(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            handled = []
            try:
                await mesh.service.on(1).fail("ExceptionGroup")
            except* ValueError as group:
                handled.extend(group.exceptions)
            assert repr(handled) == "[ValueError('one')]"
            await settled(mesh)

    run(body)


def test_every_exception_is_answered(run: Run) -> None:
    """Those too whose arguments cannot be encoded, or that are no Exception: the caller must not wait for ever."""

    async def body() -> None:
        async with fleet() as mesh:
            for name in ("huge number", "surrogates", "Unprintable", "enormous", "many", "Ends"):
                with pytest.raises((ValueError, cw.RemoteError)):
                    await mesh.service.on(1).fail(name)
            await settled(mesh)

    run(body)


# Size


def test_large_values_go_in_chunks(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            value = random.Random(5).randbytes(3_000_000)
            assert await mesh.service.on(1).echo(value) == value
            small = [spawn(mesh, mesh.service.on(1).echo(bytes([number]))) for number in range(20)]
            large = [spawn(mesh, mesh.service.on(1).echo(value[number:])) for number in range(3)]
            assert [await each for each in small] == [bytes([number]) for number in range(20)]
            assert [await each for each in large] == [value[number:] for number in range(3)]
            assert await mesh.service.on(1).relay(0, value) == value
            await settled(mesh)
            assert mesh.mesh.stats().bytes_sent > 3 * 3_000_000

    run(body)


def test_sizes_around_the_largest_frame(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for length in (*range((1 << 14) - 16, (1 << 14) + 4), 1 << 15, 1 << 16):
                assert await mesh.service.on(1).echo(bytes(length)) == bytes(length)

    run(body)


def test_messages_that_are_too_large(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"max_message": 100_000}) as mesh:
            sent = mesh.mesh.stats().frames_sent
            with pytest.raises(cw.MessageTooLarge, match=r"the arguments of Probe.echo is .* max_message is 100,000"):
                await mesh.service.on(1).echo(bytes(100_000))
            assert mesh.mesh.stats().frames_sent == sent
            with pytest.raises(cw.MessageTooLarge, match=r"the result of Probe.big is"):
                await mesh.service.on(1).big(100_000)
            assert len(await mesh.service.on(1).big(99_990)) == 99_990
            await settled(mesh)

    run(body)


# Order, credit, back-pressure


@pytest.mark.slow
def test_ten_thousand_callers_with_little_credit(run: Run) -> None:
    count = 10_000 if cw.compiled else 2_000

    async def body() -> None:
        async with fleet(limits={"credit": 64}) as mesh:
            probe = mesh.service.on(1)
            handles = [
                spawn(mesh, probe.note(number), queue)
                for number in range(count)
                for queue in ("foreground", "background")
            ]
            most = 0
            while not all(handle.done() for handle in handles):
                most = max(most, mesh.mesh.stats().calls_in_flight)
                await asyncio.sleep(0.001)
            assert 0 < most <= 2 * 64  # credit is for each queue
            assert [await handle for handle in handles] == [number for number in range(count) for _ in range(2)]
            noted = await probe.notes()
            assert sorted(noted) == [number for number in range(count) for _ in range(2)]
            await settled(mesh)
            assert mesh.mesh.stats().credit_waits > 0

    run(body)


def test_calls_of_one_queue_are_served_in_order(run: Run) -> None:
    count = 3_000 if cw.compiled else 1_000

    async def body() -> None:
        async with fleet(limits={"credit": 16}) as mesh:
            probe = mesh.service.on(1)
            called: list[int] = []

            async def call(number: int) -> None:
                called.append(number)
                await probe.note(number)

            for number in range(count):
                spawn(mesh, call(number))
                if number % 100 == 0:
                    await asyncio.sleep(0)  # some call while others wait for credit
            await mesh.executor.drain()
            assert called == list(range(count))
            assert await probe.notes() == called

    run(body)


@pytest.mark.slow
def test_full_rings_both_ways_do_not_deadlock(run: Run) -> None:
    """Each floods the other with calls whose replies are larger than the ring."""

    async def body() -> None:
        calls = 500 if cw.compiled else 100
        async with fleet(ring=4096, limits={"credit": 100}) as mesh:
            there = spawn(mesh, mesh.service.on(1).flood(0, calls, 5_000))
            here = spawn(mesh, mesh.probe.flood(1, calls, 5_000))
            requests = [spawn(mesh, mesh.service.on(1).echo(bytes(5_000))) for _ in range(calls)]
            assert await there == await here == calls * 5_000
            for request in requests:
                assert await request == bytes(5_000)
            await settled(mesh)

    run(body)


# Cancellation


def test_cancelling_the_caller_cancels_the_callee(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            probe = mesh.service.on(1)
            handle = spawn(mesh, probe.hang())
            while await probe.hangs() != (1, 0):
                await asyncio.sleep(0)
            handle.abort()
            with pytest.raises(cw.TaskCancelled):
                await handle
            while await probe.hangs() != (0, 1):
                await asyncio.sleep(0)
            limits: list[asyncio.Timeout] = []

            async def hang_for_a_while() -> None:
                async with asyncio.timeout(None) as limit:
                    limits.append(limit)
                    await probe.hang()

            task = asyncio.ensure_future(hang_for_a_while())
            while await probe.hangs() != (1, 1):
                await asyncio.sleep(0)
            limits[0].reschedule(0.0)
            with pytest.raises(TimeoutError):
                await task
            while await probe.hangs() != (0, 2):
                await asyncio.sleep(0)
            await settled(mesh)

    run(body)


def test_cancelling_one_that_waits_for_credit(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 2}) as mesh:
            probe = mesh.service.on(1)
            handles = [spawn(mesh, probe.hang()) for _ in range(6)]
            await until(lambda: mesh.mesh.stats().credit_waits == 4)
            handles[3].abort()
            handles[4].abort()
            handles[0].abort()
            handles[1].abort()
            await until(lambda: handles[4].done() and handles[1].done())
            await until(lambda: mesh.mesh.stats().calls_in_flight == 2)
            handles[2].abort()
            handles[5].abort()
            assert await probe.add(1) == 111
            while (await probe.hangs())[0]:
                await asyncio.sleep(0)
            await settled(mesh)

    run(body)


def test_cancelling_at_every_moment_loses_no_credit(run: Run) -> None:
    async def body() -> None:
        rng = random.Random(11)
        async with fleet(limits={"credit": 4}) as mesh:
            probe = mesh.service.on(1)
            for _ in range(30):
                handles = [spawn(mesh, probe.note(number)) for number in range(20)]
                for _ in range(rng.randrange(10)):
                    await asyncio.sleep(0)
                for handle in rng.sample(handles, 10):
                    handle.abort()
                for handle in handles:
                    await handle.outcome()
            await settled(mesh)

    run(body)


# Queues


def test_the_queue_travels_unless_the_method_has_its_own(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for shard in (0, 1):
                probe = mesh.service.on(shard)
                for queue in ("foreground", "background"):
                    assert await spawn(mesh, probe.queue(), queue) == queue
                    assert await spawn(mesh, probe.background(), queue) == "background"
            assert await mesh.service.on(1).queue() == "foreground"  # the first, for a caller that has none

    run(body)


def test_an_exception_is_the_callers_wherever_the_method_runs(run: Run) -> None:
    """On one's own shard too it is the caller's to handle, and no panic of the executor's."""

    async def body() -> None:
        async with fleet() as mesh:
            for shard in (0, 1):
                with pytest.raises(ValueError, match="in the background"):
                    await mesh.service.on(shard).fail_in_background()
            assert mesh.executor.stats().panics == 0

    run(body)


# Starting late, dying, coming back


def test_calls_before_the_service_is_started_wait(run: Run) -> None:
    async def body() -> None:
        async with fleet(waits=True) as mesh:
            probe = mesh.service.on(1)
            handles = [spawn(mesh, probe.note(number)) for number in range(10)]
            await until(lambda: mesh.mesh.stats().calls_in_flight == 10)
            handles[4].abort()
            await until(lambda: mesh.mesh.stats().calls_in_flight == 9)
            mesh.release(1)
            for number, handle in enumerate(handles):
                if number != 4:
                    assert await handle == number
            # The one that was cancelled while it waited is not run at all.
            assert await probe.notes() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
            await settled(mesh)

    run(body)


def test_calls_of_a_service_that_is_never_started_end(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with fleet(waits=True, start_grace_s=0.0) as mesh:
            probe = mesh.service.on(1)
            early = [spawn(mesh, probe.note(number)) for number in range(3)]
            await until(lambda: mesh.mesh.stats().calls_in_flight == 3)
            early[1].abort()
            mesh.release(1)  # to say that it is ready
            said = r"shard 1 has not started the service probe.Probe, and has been ready for 0 s; it has started none"
            for handle in early[::2]:
                with pytest.raises(cw.SchemaMismatch, match=said):
                    await handle
            with pytest.raises(cw.SchemaMismatch, match=said):
                await probe.note(3)
            with pytest.raises(cw.SchemaMismatch, match=said):
                await anext(probe.rows(3))
            mesh.release(1)  # to start it after all
            await until_served(probe)
            assert await probe.notes() == []
            await settled(mesh)

    async def until_served(probe: Probe) -> None:
        while True:
            try:
                return await probe.nothing()
            except cw.SchemaMismatch:
                await asyncio.sleep(0.001)

    run(body)


def test_a_peer_that_is_killed(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 8}) as mesh:
            probe = mesh.service.on(1)
            (_, pid) = await probe.whoami()
            in_flight = [spawn(mesh, probe.hang()) for _ in range(8)]
            while mesh.mesh.stats().calls_in_flight < 8:
                await asyncio.sleep(0)
            waiting = [spawn(mesh, probe.add(1)) for _ in range(3)]
            await until(lambda: mesh.mesh.stats().credit_waits == 3)
            mesh.kill(1)
            mesh.mesh.disconnect(1)
            for handle in in_flight:
                with pytest.raises(
                    cw.ShardDied, match=r"shard 1 died with Probe.hang in flight; it may have run or not"
                ):
                    await handle
            for handle in waiting:
                with pytest.raises(cw.ShardDown, match="shard 1 is down; nothing was sent"):
                    await handle
            with pytest.raises(cw.ShardDown):
                await probe.add(1)
            mesh.mesh.disconnect(1)  # once more does no harm
            assert await mesh.service.on(0).add(1) == 111
            mesh.restart(1)
            (shard, new_pid) = await probe.whoami()
            assert shard == 1
            assert new_pid != pid
            assert await probe.echo(bytes(1_000_000)) == bytes(1_000_000)
            await settled(mesh)

    run(body)


@pytest.mark.slow
def test_kills_under_load(run: Run) -> None:
    """Whatever is in flight ends, in a value, ShardDied or ShardDown; and the next incarnation serves."""

    async def body() -> None:
        rng = random.Random(13)
        async with fleet(ring=4096, limits={"credit": 32}) as mesh:
            probe = mesh.service.on(1)
            assert await probe.add(1) == 111
            values = died = down = 0
            for _ in range(4):
                handles = [spawn(mesh, probe.echo(bytes(rng.randrange(3_000)))) for _ in range(400)]
                stop = rng.randrange(100)
                await until(lambda: sum(handle.done() for handle in handles) > stop)  # noqa: B023
                mesh.kill(1)
                mesh.mesh.disconnect(1)
                for handle in handles:
                    match await handle.outcome():
                        case cw.Ok(_):
                            values += 1
                        case cw.TaskPanicked(cw.ShardDied()):
                            died += 1
                        case cw.TaskPanicked(cw.ShardDown()):
                            down += 1
                        case other:
                            pytest.fail(f"{other!r}")
                mesh.restart(1)
                assert await probe.add(1) == 111
            await settled(mesh)
            assert values > 0
            assert died + down > 0

    run(body)


def test_a_replaced_peer_gets_nothing_that_was_meant_for_the_old(run: Run) -> None:
    """connect() without disconnect() before it: requests of the old incarnation that wait for a service are dropped."""

    class Late:
        @cw.remote
        async def ask(self) -> str:
            return "late"

    method = remote_methods(Late)["ask"]

    async def body() -> None:
        async with fleet() as mesh:
            assert await mesh.service.on(1).add(1) == 111
            link = mesh.mesh.links[1]
            link.schemas["late"] = ServiceSchema("late", {"ask": MethodSchema(method.identifier, "", "")})
            mesh.mesh.accept(link, Kind.REQUEST, 0, method.identifier, 77, b"\x90")
            assert len(mesh.mesh.parked) == 1
            mesh.kill(1)
            mesh.restart(1)
            assert mesh.mesh.parked == []
            mesh.mesh.start(Late, Late())
            assert not link.serving
            assert await mesh.service.on(1).add(1) == 111

    run(body)


@pytest.mark.parametrize("how", ["kind", "chunks", "credit", "schema"])
def test_a_poisoned_ring_is_dropped(run: Run, caplog: pytest.LogCaptureFixture, how: str) -> None:
    async def body() -> None:
        async with fleet(limits={"max_message": 50_000}) as mesh:
            probe = mesh.service.on(1)
            waiting = spawn(mesh, probe.hang())
            assert await probe.add(1) == 111
            with caplog.at_level(logging.ERROR, "clockworker.ipc"):
                with pytest.raises(cw.ShardDied, match="shard 1 broke its ring"):
                    await probe.scribble(how)
                with pytest.raises(cw.ShardDied, match="shard 1 broke its ring"):
                    await waiting
            (record,) = caplog.records
            assert "shard 0 drops its rings with shard 1, which has broken the rules" in record.getMessage()
            with pytest.raises(cw.ShardDown):
                await probe.add(1)
            mesh.kill(1)
            mesh.restart(1)
            assert await probe.add(1) == 111

    run(body)


# Descriptors


def test_a_mesh_leaves_no_descriptors_and_no_maps(run: Run) -> None:
    def open_now() -> tuple[int, int]:
        with open("/proc/self/maps") as maps:
            return len(os.listdir("/proc/self/fd")), sum("memfd:clockworker" in line for line in maps)

    async def body() -> None:
        before = open_now()
        async with fleet(3) as mesh:
            assert await mesh.service.on(1).relay(2, b"x") == b"x"
            assert open_now() > before
        for process in mesh.processes.values():
            assert process.returncode == 0
        assert open_now()[1] == before[1]
        assert open_now()[0] <= before[0]

    run(body)


# Polling


def test_with_polling_it_works_and_still_falls_asleep(run: Run) -> None:
    async def body() -> None:
        async with fleet(idle_poll_us=2_000) as mesh:
            for number in range(200):
                assert await mesh.service.on(1).add(number) == number + 110
            turns = -1
            while turns != mesh.executor.stats().turns:
                turns = mesh.executor.stats().turns
                await asyncio.sleep(0.05)
            assert mesh.mesh.doorbell.asleep()
            assert await mesh.service.on(1).add(1) == 111
            await settled(mesh)

    run(body)


def test_raw_values_are_not_mistaken(run: Run) -> None:
    """msgspec.Raw passes through unchanged, as in msgspec."""

    async def body() -> None:
        async with fleet() as mesh:
            assert await mesh.service.on(1).deep([1, {"a": b"x"}]) == [1, {"a": b"x"}]
            assert await mesh.service.on(1).text(msgspec.Raw(b"\xa2ab")) == 2  # type: ignore[arg-type]

    run(body)
