"""How far does anybody get from its entitlement, where queues are in groups, and between the groups of one queue?

As `fairness` asks of queues beside each other, with the same fluid machine, one for each level: of the service that a level
has had, each of its members is entitled to its part.

- nested: two queues and two groups, in one of which is another group; 11 queues on three levels.
- groups: 16 groups of tasks in one queue, under `FairGroups`.

Both with random shares, `saturated`, `sleepers` and `changed` as there; changes are of groups and queues alike.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

import clockworker as cw
from bench._fluid import FluidModel

STEP_US = (20, 200)
SLICE_US = 1_000.0
TREE: dict[str, Any] = {
    "web": None,
    "background": None,
    "tenants": {"gold": None, "silver": None, "small": {"tin": None, "lead": None, "zinc": None}},
    "jobs": {"mail": None, "report": None, "index": None, "backup": None},
}


class Level(msgspec.Struct, frozen=True):
    """One level: of the top, or of a group. `distance` in microseconds, to either side, at the worst of its members."""

    what: str
    kind: str
    level: str
    members: int
    steps: int
    longest_poll_us: float
    owed_us: float
    ahead_us: float
    bound_us: float

    def holds(self) -> bool:
        return max(self.owed_us, self.ahead_us) <= self.bound_us


class Noted:
    """What happens, in its order, for the models to follow afterwards. A place is a level and a member's number there; whoever
    runs is noted with its places on all levels."""

    def __init__(self) -> None:
        self.models: dict[str, FluidModel] = {}
        self.log: list[Callable[[], None]] = []
        self.steps: list[int] = []

    def wake(self, places: list[tuple[str, int]]) -> None:
        def wake() -> None:
            for level, number in places:
                if self.models[level].queues[number].active:
                    break
                self.models[level].wake(number)

        self.log.append(wake)

    def sleep(self, places: list[tuple[str, int]]) -> None:
        def sleep() -> None:
            for level, number in places:
                self.models[level].sleep(number)
                if any(member.active for member in self.models[level].queues):
                    break

        self.log.append(sleep)

    def share(self, level: str, number: int, share: int) -> None:
        self.log.append(lambda: self.models[level].set_share(number, share))

    def begin(self, places: list[tuple[str, int]]) -> int:
        """A step, whose length is told by `end`. Returns its number."""
        number = len(self.steps)
        self.steps.append(0)

        def run() -> None:
            for level, member in places:
                self.models[level].run(member, self.steps[number])

        self.log.append(run)
        return number

    def follow(self, what: str, kind: str) -> list[Level]:
        for event in self.log:
            event()
        longest = max(self.steps) / 1e3
        found = []
        for name, model in self.models.items():
            model.end()
            owed, ahead = (
                max(getattr(member, side) for member in model.queues) / 1e3
                for side in ("most_owed_ns", "most_ahead_ns")
            )
            found.append(
                Level(what, kind, name, len(model.queues), len(self.steps), longest, owed, ahead, SLICE_US + longest)
            )
        return found


class Crowd:
    """Workers of one scenario. Its subclasses say where each belongs."""

    def __init__(self, kind: str, seconds: float, chance: random.Random) -> None:
        self.noted = Noted()
        self.kind = kind
        self.seconds = seconds
        self.chance = chance
        self.ends_ns = 0

    def begin(self, name: str) -> None:
        """A step of this worker."""
        raise NotImplementedError

    def places(self, name: str) -> list[tuple[str, int]]:
        raise NotImplementedError

    def run(self) -> list[Level]:
        raise NotImplementedError

    def step(self, name: str) -> bool:
        started = time.monotonic_ns()
        if started >= self.ends_ns:
            return False
        self.begin(name)
        until = started + self.chance.uniform(*STEP_US) * 1e3
        while time.monotonic_ns() < until:
            pass
        return True

    async def work(self, name: str, sleeps: bool) -> None:
        loop = asyncio.get_running_loop()
        while self.step(name):
            if not sleeps or self.chance.random() < 0.8:
                await asyncio.sleep(0)
            else:
                woken = loop.create_future()
                loop.call_later(self.chance.uniform(0.001, 0.020), self.wake, name, woken)
                self.noted.sleep(self.places(name))
                await woken

    def wake(self, name: str, woken: asyncio.Future[None]) -> None:
        self.noted.wake(self.places(name))
        woken.set_result(None)


class NestedQueues(Crowd):
    def __init__(self, kind: str, seconds: float, chance: random.Random) -> None:
        super().__init__(kind, seconds, chance)
        self.queues: list[str] = []
        self.groups: list[tuple[str, int, str]] = []  # level, number there, and key
        self.where: dict[str, list[tuple[str, int]]] = {}
        self.booked: dict[str, tuple[int, int]] = {}  # of each queue: its last step, and busy_ns before that
        self.declared = self._declare("top", TREE, [])

    def _declare(
        self, level: str, tree: dict[str, Any], outside: list[tuple[str, int]]
    ) -> list[cw.Queue | cw.QueueGroup]:
        shares = [self.chance.randint(1, 20) for _ in tree]
        self.noted.models[level] = FluidModel(shares, SLICE_US * 1e3)
        declared: list[cw.Queue | cw.QueueGroup] = []
        for number, (name, inside) in enumerate(tree.items()):
            places = [(level, number), *outside]
            if inside is None:
                self.queues.append(name)
                self.where[name] = places
                declared.append(cw.Queue(name, share=shares[number], slice=SLICE_US / 1e6))
            else:
                self.groups.append((level, number, name))
                declared.append(cw.QueueGroup(name, share=shares[number], queues=self._declare(name, inside, places)))
        return declared

    def places(self, name: str) -> list[tuple[str, int]]:
        return self.where[name]

    def begin(self, name: str) -> None:
        self._book(name)
        self.booked[name] = (self.noted.begin(self.where[name]), self._busy(name))

    def _book(self, name: str) -> None:
        """What the last step of the queue has cost is known by now."""
        if name in self.booked:
            number, before = self.booked[name]
            self.noted.steps[number] = self._busy(name) - before

    def _busy(self, name: str) -> int:
        return self.executor.queue(name)._queue.busy_ns

    async def main(self) -> None:
        self.executor = cw.current_executor()
        self.ends_ns = time.monotonic_ns() + int(self.seconds * 1e9)
        handles = []
        for number, name in enumerate(self.queues):
            self.noted.wake(self.where[name])
            sleeps = self.kind == "sleepers" and number % 2 == 1
            handles += [self.executor.queue(name).spawn(self.work(name, sleeps)) for _ in range(1 if sleeps else 2)]
        if self.kind == "changed":
            asyncio.get_running_loop().call_later(self.seconds / 2, self._change)
        for handle in handles:
            await handle
        for name in self.queues:
            self._book(name)

    def _change(self) -> None:
        for level, number, key in self.groups:
            share = self.chance.randint(1, 20)
            self.executor.queue_group(key).share = share
            self.noted.share(level, number, share)
        for name in self.queues:
            share = self.chance.randint(1, 20)
            self.executor.queue(name).share = share
            self.noted.share(*self.where[name][0], share)

    def run(self) -> list[Level]:
        cw.run(self.main(), queues=self.declared)
        return self.noted.follow("nested queues", self.kind)


class TaskGroups(Crowd):
    def __init__(self, kind: str, seconds: float, chance: random.Random) -> None:
        super().__init__(kind, seconds, chance)
        self.shares = {f"tenant {number}": chance.randint(1, 100) for number in range(16)}
        self.names = list(self.shares)
        self.noted.models["groups"] = FluidModel(list(self.shares.values()), SLICE_US * 1e3)
        self.last: tuple[int, int] | None = None

    def places(self, name: str) -> list[tuple[str, int]]:
        return [("groups", self.names.index(name))]

    def begin(self, name: str) -> None:
        self._book()
        self.last = (self.noted.begin(self.places(name)), self.queue._queue.busy_ns)

    def _book(self) -> None:
        if self.last is not None:
            number, before = self.last
            self.noted.steps[number] = self.queue._queue.busy_ns - before

    async def main(self) -> None:
        self.queue = cw.current_executor().queue("q")
        self.ends_ns = time.monotonic_ns() + int(self.seconds * 1e9)
        handles = []
        for number, name in enumerate(self.names):
            self.noted.wake(self.places(name))
            sleeps = self.kind == "sleepers" and number % 2 == 1
            handles += [self.queue.group(name).spawn(self.work(name, sleeps)) for _ in range(1 if sleeps else 2)]
        if self.kind == "changed":
            asyncio.get_running_loop().call_later(self.seconds / 2, self._change)
        for handle in handles:
            await handle
        self._book()

    def _change(self) -> None:
        shares = {name: self.chance.randint(1, 100) for name in self.names}
        scheduler: Any = self.queue.scheduler
        scheduler.shares = shares
        for number, share in enumerate(shares.values()):
            self.noted.share("groups", number, share)

    def run(self) -> list[Level]:
        cw.run(self.main(), queues=[cw.Queue("q", scheduler=cw.FairGroups(self.shares))])
        return self.noted.follow("FairGroups", self.kind)
