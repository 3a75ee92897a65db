"""Two nodes with a shard each, over a broker in memory: node a is the test itself, node b a thread with a loop of its own.

What it gives has the shape of `fleet` of tests/ipc: shard 0 is here and shard 1 there. Their real numbers are others, so that
the tests of that fleet run over a far link as they are.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import uvloop
from probe import Probe

import clockworker as cw
from clockworker.cluster._links import FarLinks
from clockworker.ipc.calls._owners import PLACES, Owner
from tests.cluster.memory_broker import MemoryBroker

A, B = "a", "b.example"


class Node(NamedTuple):
    slot: int
    shards: int


NODES = {A: Node(1, 1), B: Node(2, 1)}
PLACE_A, PLACE_B = PLACES, 2 * PLACES
SILENCE_S = 2.0


class FixedKeys:
    """All keys belong to one place. refuses: what a call of one ends in."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.epoch = 7
        self.refuses: cw.CallError | None = None
        self.asked: list[tuple[int, int]] = []

    def owner(self, checksum: int) -> Owner:
        return Owner(self.place, checksum >> 20, self.epoch)

    def refusal(self, partition: int, epoch: int) -> cw.CallError | None:
        self.asked.append((partition, epoch))
        return self.refuses


class Renumbered:
    """Something with shard numbers, whose numbers here are those of a fleet. numbers: what they are really."""

    def __init__(self, inner: Any, numbers: dict[int, int]) -> None:
        self._inner = inner
        self._numbers = numbers

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("on", "on_nowait", "send", "send_nowait", "call_threadsafe", "function_caller"):
            return found
        return lambda shard, *args, **kwargs: found(self._numbers.get(shard, shard), *args, **kwargs)


class RenumberedMesh(Renumbered):
    @property
    def links(self) -> list[Any]:
        far = self._inner.places[max(self._numbers.values())]
        return [self._inner.links[0], far._link]


class Side:
    """One node: its executor's mesh, in its own thread."""

    def __init__(
        self, node: str, shard: int, broker: MemoryBroker, executor: cw.Executor, options: dict[str, Any]
    ) -> None:
        self.mesh = cw.Mesh(0, 1, executor, cw.create_doorbell(1), limits=cw.Limits(**options.get("limits", {})))
        here, there = (PLACE_A, PLACE_B) if node == A else (PLACE_B, PLACE_A)
        self.numbers = {shard: 0, 1 - shard: there}
        self.keys = FixedKeys(0)
        self.far = FarLinks(
            self.mesh,
            broker.wire,
            cluster="test",
            node=node,
            keys=self.keys,
            silence_s=options.get("silence_s", SILENCE_S),
        )
        self.far.see(here // PLACES, NODES)
        self.renumbered = RenumberedMesh(self.mesh, self.numbers)
        self.probe = Probe(shard, self.renumbered)  # type: ignore[arg-type]

    def start(self) -> cw.Sharded[Probe]:
        self.service = self.mesh.start(Probe, self.probe)
        self.probe.service = Renumbered(self.service, self.numbers)  # type: ignore[assignment]
        return self.probe.service

    async def close(self) -> None:
        await self.far.close()
        self.mesh.close()


class Other:
    """Node b."""

    def __init__(self, broker: MemoryBroker, options: dict[str, Any]) -> None:
        self._broker = broker
        self._options = options
        self._started = threading.Event()
        self._is_over = asyncio.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="node b", daemon=True)
        self._thread.start()
        assert self._started.wait(30)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            self.error = error
        self._started.set()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with cw.Executor([cw.Queue("foreground", 8), cw.Queue("background")], on_panic="catch") as executor:
            self.side = Side(B, 1, self._broker, executor, self._options)
            await self.side.far.start()
            self.side.start()
            self._started.set()
            await self._is_over.wait()
            if not self._dies:
                await self.side.close()

    _dies = False

    def do(self, what: Callable[[Side], Any]) -> Any:
        """In its thread."""

        async def done() -> Any:
            return what(self.side)

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(30)

    def end(self, *, dies: bool = False) -> None:
        """dies: without a word to anybody."""
        self._dies = dies
        self.loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


class Pair:
    """See above."""

    def __init__(self, broker: MemoryBroker, executor: cw.Executor, here: Side, other: Other) -> None:
        self.broker = broker
        self.executor = executor
        self.here = here
        self.other = other
        self.mesh = here.renumbered
        self.service: Any = here.start()
        self.probe = here.probe
        self.processes = {1: SimpleNamespace(pid=os.getpid())}

    @property
    def connection(self) -> Any:
        """Of node a to node b."""
        return self.here.far._connections[PLACE_B]


@asynccontextmanager
async def pair(count: int = 2, **options: Any) -> AsyncIterator[Pair]:
    """Both nodes, gone at the end. Options: limits, silence_s, broker."""
    assert count == 2
    broker = options.pop("broker", None) or MemoryBroker()
    other = Other(broker, options)
    try:
        async with cw.Executor([cw.Queue("foreground", 8), cw.Queue("background")], on_panic="catch") as executor:
            here = Side(A, 0, broker, executor, options)
            await here.far.start()
            try:
                yield Pair(broker, executor, here, other)
            finally:
                await here.close()
    finally:
        if other._thread.is_alive():
            other.end()
