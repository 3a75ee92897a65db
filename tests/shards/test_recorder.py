"""What goes into the slots, of a real executor, without a server."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import msgspec
import pytest

import clockworker as cw
from clockworker.ipc import LinkStats, Mesh, MeshStats, create_doorbell
from clockworker.shards.protocol._reading import NOTHING_FAR, Counters
from clockworker.shards.protocol._request_readings import Requests, RouteReading
from clockworker.shards.protocol._slots import SlotReader, SlotWriter, create_slots
from clockworker.shards.worker import _recorder
from clockworker.shards.worker._recorder import Recorder
from tests.conftest import Run, until


class Stubborn:
    """A group's key without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Counted:
    """A mesh in which no two counters are the same."""

    def stats(self) -> MeshStats:
        return MeshStats(*range(100, 100 + len(MeshStats.__struct_fields__)))

    def link_stats(self) -> list[LinkStats]:
        fields = len(LinkStats.__struct_fields__)
        return [LinkStats(peer, True, *range(1000 * peer + 2, 1000 * peer + fields)) for peer in (1, 2)]


def test_each_counter_of_the_mesh_is_in_its_own_slot(run: Run) -> None:
    async def body() -> None:
        descriptor = create_slots(1, 3)
        reader = SlotReader(descriptor, ["q"])
        mesh = Counted()
        async with cw.Executor([cw.Queue("q")]) as executor:
            recorder = Recorder(SlotWriter(descriptor, 1), executor, mesh, lambda: (0, 0, 0), Counters)  # type: ignore[arg-type]
            os.close(descriptor)
            recorder.write()
        stats, links = mesh.stats(), mesh.link_stats()
        calls = msgspec.structs.asdict(reader.read().calls)
        assert calls.pop("rings_ahead") == sum(link.wakeups_ahead for link in links)
        assert calls.pop("ring_used_bytes") == links[-1].ring_used_bytes
        assert calls.pop("ring_bytes") == links[-1].ring_bytes
        names = {"local", "sent", "received", "in_flight", "timed_out", "waiting"}
        for name in NOTHING_FAR:  # of a cluster, and not the mesh's
            del calls[name]
        assert calls == {name: getattr(stats, f"calls_{name}" if name in names else name) for name in calls}
        for link in links:
            ring = msgspec.structs.asdict(reader.read_rings()[link.peer])
            assert ring.pop("used_bytes") == link.ring_used_bytes
            assert ring == {name: getattr(link, name) for name in ring}
        reader.close()

    run(body)


def test_a_reading_is_what_the_executor_says(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        executor = cw.Executor([cw.Queue("fast", share=8), cw.Queue("slow")], on_panic="catch")
        descriptor = create_slots(2, 2)
        reader = SlotReader(descriptor, ["fast", "slow"])
        async with executor:
            mesh = Mesh(0, 2, executor, create_doorbell(2))
            recorder = Recorder(
                SlotWriter(descriptor, 2),
                executor,
                mesh,
                lambda: (7, 3, 1),
                lambda: Counters({"orders": 12}),
                lambda: (2, 5),
                lambda: Requests({"fast": {"/": RouteReading(status_2=9)}}),
            )
            os.close(descriptor)
            recorder.start()

            async def step(times: int) -> None:
                for _ in range(times):
                    await asyncio.sleep(0)

            forever = asyncio.Event()
            fast = executor.queue("fast")
            handles = [fast.group(key).spawn(step(50)) for key in ("a", Stubborn())]
            waiting = fast.group("waits").spawn(forever.wait())  # type: ignore[arg-type]
            stubborn = fast.group(Stubborn()).spawn(forever.wait())  # type: ignore[arg-type]
            for handle in handles:
                await handle
            before = time.monotonic_ns()
            recorder.write()
            reading = reader.read()
            assert before <= reading.written_ns <= time.monotonic_ns()
            stats = executor.queue_stats()["fast"]
            queue = reading.queues["fast"]
            assert (queue.share, queue.polls, queue.busy_ns) == (8, stats.polls, stats.busy_ns)
            assert (queue.spawned, queue.finished, queue.tasks) == (4, 2, 2)
            assert queue.poll_time == stats.poll_time
            assert queue.wait == stats.wait
            assert 0 < queue.wait.count < queue.polls
            assert reading.queues["slow"].polls == 0
            assert (reading.loop.connections_accepted, reading.loop.connections_open) == (7, 3)
            assert (reading.loop.blocking_running, reading.loop.blocking_waiting) == (2, 5)
            assert reading.counters.values == {"orders": 12}
            assert reading.http.get("fast", "/").status_2 == 9
            assert reading.process.rss_bytes > 10**6
            assert reading.process.cpu_ns > 0
            assert [ring.frames_sent for ring in reader.read_rings()] == [0, 0]
            # By itself, too.
            await until(lambda: reader.read().written_ns > reading.written_ns, "a next reading")
            assert set(reader.read().queues["fast"].groups.service_ns) <= {"waits", "<Stubborn>", "a"}
            forever.set()
            await waiting
            await stubborn
            recorder.stop()
            mesh.close()
        assert reader.read().queues["fast"].finished == 4
        reader.close()

    run(body)
    assert "cannot be read" not in caplog.text, "each figure is found where it says that it is counted"


def test_what_raises_stops_its_own_figures_alone(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever section: the others go on, the log says so once, and when it can be read again it is."""
    broken: set[str] = set()

    def or_raise(name: str, value: Any) -> Any:
        def read(*args: Any, **kwargs: Any) -> Any:
            if name in broken:
                raise ZeroDivisionError(name)
            return value(*args, **kwargs)

        return read

    async def body() -> None:
        descriptor = create_slots(1, 2)
        reader = SlotReader(descriptor, ["q"])
        async with cw.Executor([cw.Queue("q")]) as executor:
            mesh = Mesh(0, 2, executor, create_doorbell(2))
            orders = 0
            recorder = Recorder(
                SlotWriter(descriptor, 1),
                executor,
                mesh,
                or_raise("connections", lambda: (orders, 0, 0)),
                or_raise("counters", lambda: Counters({"orders": orders})),
                requests=or_raise("requests", lambda: Requests({"q": {"/": RouteReading(status_2=orders)}})),
            )
            os.close(descriptor)
            recorder._usage.read = or_raise("usage", recorder._usage.read)  # type: ignore[method-assign]
            recorder._mesh.stats = or_raise("mesh", mesh.stats)  # type: ignore[method-assign]
            recorder.start()
            for name in ("connections", "counters", "usage", "mesh", "requests"):
                broken.add(name)
                orders += 1
                await settle(recorder)
                reading = reader.read()
                assert (reading.loop.connections_accepted == orders) == (name != "connections")
                assert (reading.counters.values == {"orders": orders}) == (name != "counters")
                assert (reading.http.get("q", "/").status_2 == orders) == (name != "requests")
                before = reading.written_ns
                await until(lambda: reader.read().written_ns > before, "the next tick, and the next")  # noqa: B023
                broken.clear()
                await settle(recorder)
                reading = reader.read()
                assert (reading.loop.connections_accepted, reading.counters.values) == (orders, {"orders": orders})
            assert len([record for record in caplog.records if "cannot be read" in record.message]) <= 6
            assert caplog.text.count("the counters of this shard cannot be read") == 1
            recorder.stop()
            mesh.close()
        reader.close()

    async def settle(recorder: Recorder) -> None:
        recorder._next.cancel()
        recorder._tick()

    run(body)


def test_requests_that_need_no_step_are_written_while_the_shard_rests(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is refused starts no task."""
    monkeypatch.setattr(_recorder, "REST_WRITE_S", 1e9)

    async def body() -> None:
        descriptor = create_slots(1, 1)
        reader = SlotReader(descriptor, ["q"])
        refused = 0
        async with cw.Executor([cw.Queue("q")]) as executor:
            mesh = Mesh(0, 1, executor, create_doorbell(1))
            recorder = Recorder(
                SlotWriter(descriptor, 1),
                executor,
                mesh,
                lambda: (0, 0, 0),
                Counters,
                requests=lambda: Requests({"q": {"other": RouteReading(status_5=refused)}}),
            )
            os.close(descriptor)
            recorder.start()
            recorder.rest(True)
            refused = 3
            await until(lambda: reader.read().http.get("q", "other").status_5 == 3, "it is written")
            recorder.stop()
            mesh.close()
        reader.close()

    run(body)
