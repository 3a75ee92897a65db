"""Nodes with a shard each, over a broker in memory: the first is the test itself, each other one a thread with a loop of its
own.

What it gives has the shape of `fleet` of tests/ipc: shard 0 is here, shard 1 and so on are there. Their real numbers are
others, so that the tests of that fleet run over far links as they are.
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
from clockworker.cluster._far_cy import FarConnection
from clockworker.cluster._links import FarLinks
from clockworker.cluster._topics import FarTopics
from clockworker.ipc.calls._owners import PLACES, Owner
from tests.cluster.memory_broker import MemoryBroker

NAMES = ["a", "b.example", "c", "d"]
SILENCE_S = 2.0


class Node(NamedTuple):
    slot: int
    shards: int


def place(number: int) -> int:
    """Of the one shard of the node with this number."""
    return (number + 1) * PLACES


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

    _TAKES_A_NUMBER = ("on", "on_nowait", "send", "send_nowait", "call_threadsafe", "function_caller")

    def __init__(self, inner: Any, numbers: dict[int, int]) -> None:
        self._inner = inner
        self._numbers = numbers

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._TAKES_A_NUMBER:
            return found
        return lambda shard, *args, **kwargs: found(self._numbers.get(shard, shard), *args, **kwargs)


class RenumberedService(Renumbered):
    async def map(self, first: Any, *args: Any, **kwargs: Any) -> Any:
        if not callable(first):
            first = [self._numbers.get(shard, shard) for shard in first]
        return await self._inner.map(first, *args, **kwargs)


class RenumberedMesh(Renumbered):
    @property
    def links(self) -> list[Any]:
        return [
            self._inner.links[0] if place == 0 else self._inner.places[place]._link
            for _, place in sorted(self._numbers.items())
        ]


class Side:
    """One node: its executor's mesh, in its own thread."""

    def __init__(
        self, number: int, count: int, broker: MemoryBroker, executor: cw.Executor, options: dict[str, Any]
    ) -> None:
        self.number = number
        self.mesh = cw.Mesh(
            0,
            1,
            executor,
            cw.create_doorbell(1),
            limits=cw.Limits(**options.get("limits", {})),
            idle_poll_us=options.get("idle_poll_us", 0),
            start_grace_s=options.get("start_grace_s", 5.0),
            encode_local=number == 0 and options.get("encode_local", False),
        )
        self.numbers = {each: 0 if each == number else place(each) for each in range(count)}
        self.keys = FixedKeys(0 if number == 0 else place(0))
        self.far = FarLinks(
            self.mesh,
            broker.wire,
            cluster="test",
            node=NAMES[number],
            keys=self.keys,
            silence_s=options.get("silence_s", SILENCE_S),
            succeeds=options.get("succeeds", False),
        )
        self.see(count)
        if options.get("short_names"):
            self._call_others("shard {}")
        self.mesh.topics.join(FarTopics(self.far, "test"))
        self.renumbered = RenumberedMesh(self.mesh, self.numbers)
        self.probe = Probe(number, self.renumbered)  # type: ignore[arg-type]

    def _call_others(self, form: str) -> None:
        """As the shards of a fleet are called in what is said."""
        for number, place in self.numbers.items():
            if place:
                peer = self.far._peer(place)
                assert peer is not None
                for connection in peer.connections:
                    connection.where = form.format(number)

    def see(self, count: int, silent: tuple[str, ...] = ()) -> None:
        """A view of the first so many nodes."""
        nodes = {NAMES[each]: Node(each + 1, 1) for each in range(count)}
        self.far.see(self.number + 1, nodes, silent)

    def start(self) -> Any:
        self.service = self.mesh.start(Probe, self.probe)
        self.probe.service = RenumberedService(self.service, self.numbers)  # type: ignore[assignment]
        return self.probe.service

    async def close(self) -> None:
        await self.far.close()
        self.mesh.close()


class Other:
    """Another node than the test's."""

    def __init__(self, number: int, count: int, broker: MemoryBroker, options: dict[str, Any]) -> None:
        self._number = number
        self._count = count
        self._broker = broker
        self._options = options
        self._started = threading.Event()
        self._is_over = asyncio.Event()
        self._dies = False
        self.side: Side
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"node {NAMES[number]}", daemon=True)
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
            self.side = Side(self._number, self._count, self._broker, executor, self._options)
            self.side.far.start()
            await self.side.far.connected()
            if not self._options.get("waits"):
                self.side.start()
            elif not self._options.get("start_grace_s", 5.0):
                self.side.mesh.ready()
            self._started.set()
            await self._is_over.wait()
            if not self._dies:
                await self.side.close()

    def do(self, what: Callable[[Side], Any]) -> Any:
        """In its thread."""

        async def done() -> Any:
            return what(self.side)

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(30)

    def end(self, *, dies: bool = False) -> None:
        """dies: without a word to anybody."""
        self._dies = dies
        if dies:
            self._broker.cut(self.side.far.wire)
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._is_over.set)
            self._thread.join(30)
            assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


class Nodes:
    """See above."""

    def __init__(self, broker: MemoryBroker, executor: cw.Executor, here: Side, others: dict[int, Other]) -> None:
        self.broker = broker
        self.executor = executor
        self.here = here
        self.others = others
        self.mesh = here.renumbered
        self.service: Any = here.start()
        self.probe = here.probe
        self.count = 1 + len(others)
        self.processes = {number: SimpleNamespace(pid=os.getpid()) for number in others}

    def connection(self, number: int = 1) -> FarConnection:
        """To that node."""
        found = self.here.far._peer(place(number))
        assert found is not None
        return found.present

    def release(self, number: int) -> None:
        """Let a node that waits start its service."""
        self.others[number].do(lambda side: side.start())


@asynccontextmanager
async def nodes(count: int = 2, **options: Any) -> AsyncIterator[Nodes]:
    """So many nodes, gone at the end. Options: limits, silence_s, broker, waits, start_grace_s, idle_poll_us,
    short_names."""
    broker = options.pop("broker", None) or MemoryBroker()
    others = {number: Other(number, count, broker, options) for number in range(1, count)}
    try:
        async with cw.Executor([cw.Queue("foreground", 8), cw.Queue("background")], on_panic="catch") as executor:
            here = Side(0, count, broker, executor, options)
            here.far.start()
            await here.far.connected()
            try:
                yield Nodes(broker, executor, here, others)
            finally:
                await here.close()
    finally:
        for other in others.values():
            other.end()
