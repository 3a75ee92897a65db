"""Deadlines, credit that is not there, one-way requests and groups, between real processes."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import random
import signal
from typing import Any

import pytest
from fleet import Fleet, fleet
from probe import Probe, ProbeError, count_up, function_in_background, pid_and
from test_mesh import settled, spawn

import clockworker as cw
from tests.conftest import Run, needs, until


async def until_hanging(mesh: Fleet, count: int, shard: int = 1) -> None:
    while (await mesh.service.on(shard).hangs())[0] != count:
        await asyncio.sleep(0.001)


async def started(mesh: Fleet) -> None:
    """The other processes are up: what is measured in time from here is not their start."""
    for shard in range(1, mesh.count):
        await mesh.service.on(shard).nothing()


# Deadlines


def test_a_call_that_takes_too_long(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            await started(mesh)
            for shard in (0, 1):
                timeout = 0.02
                while True:  # until there is time to begin it
                    with pytest.raises(cw.CallTimeout, match=rf"Probe.hang .*on shard {shard}") as caught:
                        await mesh.service.on(shard, timeout=timeout).hang()
                    if "was not run" not in str(caught.value):
                        break
                    timeout *= 2
                assert f"Probe.hang on shard {shard} did not answer in time" in str(caught.value)
                await until_hanging(mesh, 0, shard)
                assert await mesh.service.on(shard).hangs() == (0, 1), "the callee was cancelled"
                assert await mesh.service.on(shard, timeout=30).add(1) == 111
            assert mesh.mesh.stats().calls_timed_out >= 1
            await settled(mesh)

    run(body)


def test_a_call_timeout_is_a_timeout_error_and_others_are_not_taken_for_it(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for shard in (0, 1):
                with pytest.raises(TimeoutError) as caught:
                    await mesh.service.on(shard, timeout=30).fail("TimeoutError")
                assert not isinstance(caught.value, cw.CallTimeout)

    run(body)


def test_timeouts_that_are_none(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            await started(mesh)
            for wrong in (-1, float("nan"), float("inf"), "1", True):
                with pytest.raises(
                    cw.ConfigurationError, match=r"timeout is .*; it must be a number of seconds from 0"
                ):
                    mesh.service.on(1, timeout=wrong)  # type: ignore[arg-type]
            for shard in (0, 1):
                with pytest.raises(cw.CallTimeout):
                    await mesh.service.on(shard, timeout=0).hang()
            with pytest.raises(AttributeError, match="marked @remote are"):
                mesh.service.on(1, timeout=1).noted  # noqa: B018

    run(body)


def test_the_time_covers_waiting_for_credit(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 2}) as mesh:
            await started(mesh)
            probe = mesh.service.on(1)
            handles = [spawn(mesh, probe.wait_gate(number)) for number in range(2)]
            timed = [spawn(mesh, mesh.service.on(1, timeout=0.02).note(number)) for number in range(5)]
            later = spawn(mesh, probe.note(9))
            for handle in timed:
                with pytest.raises(
                    cw.CallTimeout, match="was not called: there was no credit in time, and nothing was"
                ):
                    await handle
            lanes = mesh.mesh.links[1].credit.lanes.values()
            assert sum(len(lane.waiting) for lane in lanes) == 1, "they use no memory"
            await mesh.executor.queue("background").spawn(probe.open_gate())
            assert [await handle for handle in handles] == [0, 1]
            assert await later == 9
            assert await probe.notes() == [0, 1, 9]
            await settled(mesh)

    run(body)


def test_a_request_whose_time_is_over_when_its_turn_comes_is_not_run(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            await started(mesh)
            busy = spawn(mesh, mesh.service.on(1).spin(0.2))
            timed = [spawn(mesh, mesh.service.on(1, timeout=0.03).note(number)) for number in range(3)]
            for handle in timed:
                with pytest.raises(cw.CallTimeout):
                    await handle
            await busy
            assert await mesh.service.on(1).notes() == []
            await settled(mesh)

    run(body)


def test_a_deadline_is_inherited_by_the_calls_that_the_method_makes(run: Run) -> None:
    async def body() -> None:
        async with fleet(3) as mesh:
            await started(mesh)
            assert await mesh.service.on(1).relay_left(2) is None
            for on in (mesh.service.on(1, timeout=20), mesh.service.on(0, timeout=20)):
                left = await on.relay_left(2)
                assert left is not None
                assert 0 < left < 20
            assert await mesh.service.on(1).relay_left(2) is None
            with pytest.raises(cw.CallTimeout):
                await mesh.service.on(1, timeout=0.3).relay_hang(2)  # it hangs there before that
            await until_hanging(mesh, 0, 2)
            assert await mesh.service.on(2).hangs() == (0, 1)
            await settled(mesh)

    run(body)


def test_a_deadline_for_several_calls(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            await started(mesh)
            probe = mesh.service.on(1)
            with cw.deadline(20):
                for _ in range(3):
                    left = await probe.left()
                    assert left is not None
                    assert 0 < left < 20
                with cw.deadline(50):
                    left = await probe.left()
                    assert left is not None
                    assert left < 20, "of two the earlier holds"
                left = await mesh.service.on(1, timeout=5).left()
                assert left is not None
                assert left < 5
            assert await probe.left() is None
            with cw.deadline(0.02):
                with pytest.raises(cw.CallTimeout, match="did not answer in time"):
                    await probe.hang()
                with pytest.raises(cw.CallTimeout, match="was not called: its deadline has passed"):
                    await probe.hang()
            await settled(mesh)

    run(body)


def test_deadlines_at_every_moment_lose_no_credit(run: Run) -> None:
    async def body() -> None:
        rng = random.Random(17)
        async with fleet(limits={"credit": 4}) as mesh:
            await started(mesh)
            for _ in range(15):
                handles = [
                    spawn(mesh, mesh.service.on(1, timeout=rng.random() * 0.003).note(number)) for number in range(40)
                ]
                for handle in handles:
                    match await handle.outcome():
                        case cw.Ok(_) | cw.TaskPanicked(cw.CallTimeout()):
                            pass
                        case other:
                            pytest.fail(f"{other!r}")
            await settled(mesh)

    run(body)


@pytest.mark.slow
def test_ten_thousand_callers_of_one_that_is_slow(run: Run) -> None:
    """Each is served or times out, in order, and those that leave take their memory with them."""
    count = 10_000 if cw.compiled else 2_000

    async def body() -> None:
        async with fleet(ring=4096, limits={"credit": 16}) as mesh:
            await started(mesh)
            ended: list[int] = []

            async def call(number: int) -> bool:
                # Every second one has little patience; nobody has been served by then.
                timeout = 0.05 if number % 2 else None
                try:
                    await mesh.service.on(1, timeout=timeout).wait_gate(number)
                    return True
                except cw.CallTimeout:
                    return False
                finally:
                    ended.append(number)

            handles = [spawn(mesh, call(number)) for number in range(count)]
            await until(lambda: len(ended) == count // 2)
            assert [number for number in ended if number >= 16] == list(range(17, count, 2))
            lanes = mesh.mesh.links[1].credit.lanes.values()
            assert sum(len(lane.waiting) for lane in lanes) <= count // 2
            assert len(mesh.mesh.shared.deadlines) <= 200
            del ended[:]
            await spawn(mesh, mesh.service.on(1).open_gate(), "background")
            assert [await handle for handle in handles] == [True, False] * (count // 2)
            assert ended == list(range(0, count, 2))
            noted = await mesh.service.on(1).notes()
            assert noted == sorted(noted)
            assert set(noted) >= set(range(0, count, 2))
            await settled(mesh)

    run(body)


# No waiting


def test_a_call_that_will_not_wait_for_credit(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 2}) as mesh:
            nowait = mesh.service.on_nowait(1)
            calls = [nowait.wait_gate(number) for number in range(2)]  # sent, before anybody awaits them
            await mesh.executor.queue("background").spawn(until_hanging(mesh, 2))
            with pytest.raises(
                cw.ChannelFull, match=r"2 calls are in flight to shard 1 in this queue.*Probe.wait_gate was not"
            ):
                nowait.wait_gate(2)
            await mesh.executor.queue("background").spawn(mesh.service.on(1).open_gate())
            assert await asyncio.gather(*calls) == [0, 1]
            assert await mesh.service.on_nowait(1, timeout=20).add(1) == 111
            assert await mesh.service.on_nowait(0).add(1) == 111
            await settled(mesh)

    run(body)


def test_credit_of_one_queue_is_not_that_of_another(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 2}) as mesh:
            flood = [spawn(mesh, mesh.service.on(1).wait_gate(number), "background") for number in range(5)]
            await until(lambda: mesh.mesh.stats().credit_waits == 3)
            for _ in range(10):
                assert await spawn(mesh, mesh.service.on(1).add(1)) == 111
            await spawn(mesh, mesh.service.on(1).open_gate())
            assert [await each for each in flood] == list(range(5))
            await settled(mesh)

    run(body)


# One way


def test_one_way_requests_are_run_in_order_and_nobody_waits_for_them(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 16}) as mesh:
            for shard in (0, 1):
                for number in range(500):
                    await mesh.service.send(shard, Probe.note_or_fail, number, fails=False)
                noted: list[int] = []
                while len(noted) < 500:
                    noted += await mesh.service.on(shard).notes()
                    await asyncio.sleep(0)
                assert noted == list(range(500))
            stats = mesh.mesh.stats()
            assert stats.one_ways_sent == 500
            assert stats.credit_waits > 0
            remote = await mesh.service.on(1).stats()
            assert remote.one_ways_received == 500
            assert stats.frames_received < 300, "credit comes back many at a time, and there are no replies"

    run(body)


def test_one_way_requests_are_bounded(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"credit": 8}) as mesh:
            for shard in (0, 1):
                await spawn(mesh, flood(mesh, shard))

    async def flood(mesh: Fleet, shard: int) -> None:
        sent = 0
        with pytest.raises(cw.ChannelFull, match=r"wait_gate was not called"):
            for sent in range(20):
                mesh.service.send_nowait(shard, Probe.wait_gate, sent)
        assert sent == 8
        waiting = spawn(mesh, mesh.service.send(shard, Probe.wait_gate, 8))
        await spawn(mesh, until_hanging(mesh, 8, shard), "background")
        assert not waiting.done()
        await spawn(mesh, mesh.service.on(shard).open_gate(), "background")
        await waiting
        await spawn(mesh, until_hanging(mesh, 0, shard), "background")
        assert await mesh.service.on(shard).notes() == list(range(9))

    run(body)


def test_what_a_one_way_request_raises_is_logged_where_it_runs(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            with caplog.at_level(logging.ERROR, "clockworker.ipc"):
                await mesh.service.send(0, Probe.note_or_fail, 1, True)
                await until(lambda: caplog.records)
            (record,) = caplog.records
            assert "Probe.note_or_fail, sent by this shard, failed" in record.getMessage()
            assert record.exc_info is not None
            assert isinstance(record.exc_info[1], ProbeError)
            await mesh.service.send(1, Probe.note_or_fail, 1, True)
            while await mesh.service.on(1).notes() != [1]:
                await asyncio.sleep(0.001)
            assert mesh.executor.stats().panics == 0

    run(body)


def test_one_way_requests_to_a_shard_that_is_down_and_of_what_cannot_be_sent(run: Run) -> None:
    async def body() -> None:
        async with fleet(limits={"max_message": 1_000}) as mesh:
            with pytest.raises(cw.MessageTooLarge):
                await mesh.service.send(1, Probe.echo, bytes(1_000))
            with pytest.raises(TypeError, match="missing 1 required positional argument"):
                mesh.service.send_nowait(1, Probe.note)  # type: ignore[call-arg]
            with pytest.raises(cw.UsageError, match="settled is no method of Probe that is marked @remote"):
                await mesh.service.send(1, settled)  # type: ignore[arg-type]
            with pytest.raises(IndexError, match="there is no shard 7"):
                await mesh.service.send(7, Probe.note, 1)
            mesh.kill(1)
            mesh.mesh.disconnect(1)
            with pytest.raises(cw.ShardDown):
                await mesh.service.send(1, Probe.note, 1)
            with pytest.raises(cw.ShardDown):
                mesh.service.send_nowait(1, Probe.note, 1)

    run(body)


def test_one_way_work_of_a_peer_that_died_goes_on(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            link = mesh.mesh.links[1]
            identifier = mesh.service._methods["wait_gate"].identifier
            mesh.mesh.accept(link, 6, 0, identifier, 0, b"\x91\x05")
            await until(lambda: mesh.probe.hanging == 1)
            mesh.kill(1)
            mesh.mesh.disconnect(1)
            mesh.probe.gate.set()
            await until(lambda: mesh.probe.hanging == 0)
            assert mesh.probe.noted == [5]

    run(body)


# Groups


def test_the_group_travels(run: Run) -> None:
    async def body() -> None:
        async with fleet(3) as mesh:
            foreground = mesh.executor.queue("foreground")
            for key in ("tenant", b"t", 7, ("a", ("b", 1))):
                assert await foreground.group(key).spawn(mesh.service.on(1).group()) == _as_list(key)
                assert await foreground.group(key).spawn(mesh.service.on(1).relay_group(2)) == _as_list(key)
            assert await foreground.spawn(mesh.service.on(1).group()) is None
            key = object()  # means nothing elsewhere, but is a group of its own there too
            assert await foreground.group(key).spawn(mesh.service.on(1).group()) == [0, hash(key)]
            await settled(mesh)

    run(body)


def _as_list(key: Any) -> Any:
    return [_as_list(each) for each in key] if isinstance(key, tuple) else key


# Functions


def test_functions_of_modules(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            call = mesh.mesh.function_caller
            assert await call(1, pid_and)(3) == (mesh.processes[1].pid, 3, 1)
            assert await call(1, pid_and)(3, y=4) == (mesh.processes[1].pid, 3, 4)
            assert await call(0, pid_and)(3, y=4) == (os.getpid(), 3, 4)
            for shard in (0, 1):
                assert "background" in await call(shard, function_in_background)(False)
                with pytest.raises(ProbeError, match="of a function"):
                    await call(shard, function_in_background)(True)
                assert [number async for number in call(shard, count_up)(5)] == list(range(5))
            with pytest.raises(IndexError, match="there is no shard 2"):
                call(2, pid_and)
            await settled(mesh)

    run(body)


@cw.remote
async def only_here() -> None: ...


def test_a_function_that_the_other_shard_does_not_have(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            with pytest.raises(cw.SchemaMismatch, match=r"shard 1 does not know the function that shard 0 calls"):
                await mesh.mesh.function_caller(1, only_here)()
            await settled(mesh)

    run(body)


# What it is to asyncio


def test_a_call_is_an_ordinary_coroutine(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            probe = mesh.service.on(1)
            call = probe.add(1)
            assert inspect.iscoroutine(call)
            task = asyncio.get_running_loop().create_task(call)
            assert "Probe.add" in repr(task)
            assert await asyncio.gather(task, probe.add(2), mesh.service.on(0).add(3)) == [111, 112, 113]
            assert await asyncio.wait_for(probe.add(4), 20) == 114
            with pytest.warns(RuntimeWarning, match=r"coroutine 'Probe.add' was never awaited"):
                probe.add(5)
            await settled(mesh)

    run(body)


def test_from_a_thread(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            for shard in (0, 1):

                def work(shard: int = shard) -> tuple[int, str]:
                    answer = mesh.service.call_threadsafe(shard, Probe.add, 1, c=3).result(timeout=30)
                    with pytest.raises(ValueError, match="wrong value") as caught:
                        mesh.service.call_threadsafe(shard, Probe.fail, "ValueError").result(timeout=30)
                    return answer, str(caught.value)

                assert (await asyncio.to_thread(work))[0] == 14
            hanging = mesh.service.call_threadsafe(1, Probe.hang)
            await until_hanging(mesh, 1)
            assert hanging.cancel()
            await until_hanging(mesh, 0)
            await settled(mesh)

    run(body)


# Methods that cannot suspend, which have no task


def test_requests_with_and_without_a_task_are_served_in_order(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            probe = mesh.service.on(1)
            await started(mesh)
            calls = [
                spawn(mesh, probe.note(number) if number % 3 else probe.note_at_once(number)) for number in range(60)
            ]
            answers = [await call for call in calls]
            assert answers[1::3] == list(range(1, 60, 3))
            assert set(answers[::3]) == {"Probe.note_at_once in foreground"}
            assert await probe.notes() == list(range(60))
            await settled(mesh)

    run(body)


def test_a_request_whose_caller_leaves_before_its_turn_is_not_run(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            await started(mesh)
            probe = mesh.service.on(1)
            # Stopped, it takes in all at once when it goes on: the requests, then that their callers have left.
            os.kill(mesh.processes[1].pid, signal.SIGSTOP)
            calls = [spawn(mesh, probe.note_at_once(number)) for number in range(3)]
            timed = spawn(mesh, mesh.service.on(1, timeout=0.01).note_at_once(3))
            with pytest.raises(cw.CallTimeout):
                await timed
            calls[1].abort()
            with pytest.raises(cw.TaskCancelled):
                await calls[1]
            os.kill(mesh.processes[1].pid, signal.SIGCONT)
            assert {await call for call in calls[::2]} == {"Probe.note_at_once in foreground"}
            assert await probe.notes() == [0, 2]
            await settled(mesh)

    run(body)


@needs("suspend")
def test_a_method_whose_code_is_replaced_by_one_that_waits_ends_in_an_error(run: Run) -> None:
    async def body() -> None:
        async with fleet() as mesh:
            probe = mesh.service.on(1)
            assert await probe.note_replaced(1) == 1
            await probe.replace()
            with pytest.raises(RuntimeError, match="has suspended, and what it was made of could not"):
                await probe.note_replaced(2)
            await mesh.service.send(1, Probe.note_replaced, 3)
            assert await probe.notes() == [1, 2, 3]

    run(body)


@pytest.mark.parametrize("value", [-(2**70), object(), "\ud800"], ids=["large", "object", "surrogate"])
def test_an_argument_that_cannot_be_sent_is_named(run: Run, value: Any) -> None:
    """However it is sent, and nothing is."""

    async def body() -> None:
        async with fleet() as mesh:
            there, nowait = mesh.service.on(1), mesh.service.on_nowait(1)
            named = pytest.raises(TypeError, match=r"Probe.add\(\): the argument b cannot be sent: ")
            with named:
                await there.add(1, value)
            with named:
                await mesh.service.on(1, timeout=5).add(1, value)
            with named:
                await nowait.add(1, value)
            with named:
                await mesh.service.send(1, Probe.add, 1, value)
            with named:
                mesh.service.send_nowait(1, Probe.add, 1, value)
            with named:
                await mesh.service.map([1], Probe.add, 1, b=value)
            with pytest.raises(TypeError, match=r"Probe.rows\(\): the argument count cannot be sent"):
                await anext(there.rows(value))  # type: ignore[call-overload]
            with pytest.raises(TypeError, match=r"probe.pid_and\(\): the argument x cannot be sent"):
                await mesh.mesh.function_caller(1, pid_and)(value)
            assert mesh.mesh.stats().calls_sent == mesh.mesh.stats().one_ways_sent == 0

    run(body)
