"""Being a node of the cluster: the supervisor's part, which no application can stall.

It says twice a second or more that it is alive, hears the others, looks at the view each second and whenever a higher epoch is
heard of, writes it where `_fence` permits, and tells the shards. Every change of the view goes one way: it is read; the word in
shared memory gets its epoch, by which no keyed call begins; the shards get the table; and only then the others hear that we are
at that epoch, since they rely on our not serving by an older one.

A lost connection is made anew, for ever, and nothing else depends on it: the fence counts on, and stops us in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from array import array
from collections.abc import Callable
from typing import Protocol

import msgspec

from clockworker.cluster import _subjects
from clockworker.cluster._fence import VERSION, Alive, Fence
from clockworker.cluster._outage import Outage
from clockworker.cluster._partitions import Draws
from clockworker.cluster._view import View
from clockworker.cluster._wire import Bucket, Entry, Wire, WireError
from clockworker.cluster._word import Word, boot_time
from clockworker.shards.config._cluster import ClusterConfig
from clockworker.shards.protocol._messages import NodesSilent, ViewChanged, ViewSettled

log = logging.getLogger("clockworker.cluster")

LOOK_S = 1.0
RECONNECT_S = (0.1, 2.0)  # the first pause, and the longest
KEY = "view"
_RANDOM = 0xFFFF  # of a lineage: the rest is Unix time in ns


class Audience(Protocol):
    """The supervisor."""

    def tell(self, message: ViewChanged | ViewSettled | NodesSilent) -> None:
        """All shards are to hear it, and those that come later."""

    def refused(self, reason: str) -> None:
        """This node cannot be in the cluster, and need not try again."""


class Membership:
    """make: a new wire, not connected yet. word: what the shards compare. now: its clock, in seconds."""

    def __init__(
        self,
        config: ClusterConfig,
        shards: int,
        make: Callable[[], Wire],
        word: Word,
        audience: Audience,
        now: Callable[[], float] = boot_time,
    ) -> None:
        self._config = config
        self._shards = shards
        self._make = make
        self._word = word
        self._audience = audience
        self._now = now
        self.incarnation = random.SystemRandom().getrandbits(62) or 1
        self._fence = Fence(config.node, self.incarnation, config.node_timeout, self._now())
        self._outage = Outage(self._fence, self._now())
        self._draws = Draws(config.partitions)
        self._subject = _subjects.alive(config.name, config.node)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Alive)
        self._wire: Wire | None = None
        self._bucket: Bucket | None = None
        self._there = 0  # revision of what the store has; 0: nothing
        self._silent: tuple[str, ...] = ()
        self._settled = 0  # the last epoch of which the shards know that it is settled
        self._ready = False
        self._leaving = False
        self._refused = False
        self._news = asyncio.Event()
        self._problem = ""
        self._taken_since: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._strangers: set[str] = set()  # nodes of another release
        self.nonsense = 0  # messages that were none
        self.reconnects = -1

    # What the supervisor asks.

    @property
    def epoch(self) -> int:
        return self._fence.epoch

    @property
    def view(self) -> View | None:
        return self._fence.view

    @property
    def connected(self) -> bool:
        return self._bucket is not None

    def is_in_view(self) -> bool:
        view = self._fence.view
        return view is not None and view.has(self._config.node, self.incarnation)

    def owns(self) -> bool:
        return self._fence.owns(self._now())

    def is_settled(self) -> bool:
        return self._fence.is_settled(self._now())

    @property
    def problem(self) -> str:
        """With the broker, in a line; empty if there is none."""
        return self._problem

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._stay_connected(), name="cluster connection"),
            loop.create_task(self._say_alive(), name="cluster beat"),
            loop.create_task(self._follow(), name="cluster view"),
        ]
        for task in self._tasks:
            task.add_done_callback(_tell_of_fault)

    def ready(self) -> None:
        """The shards are: it may join."""
        self._ready = True
        self._news.set()

    async def leave(self, seconds: float) -> None:
        """Write ourselves out, so that others serve what is ours while we drain. Tried for so long; a node that could not is
        written out by the others in time."""
        self._leaving = True
        self._news.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.is_in_view() or self._was_last():  # noqa: ASYNC110  # the view's task says it by what it reads
                    await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._word.write(self._fence.epoch, 0.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._drop()

    # The connection.

    async def _stay_connected(self) -> None:
        pause, longest = RECONNECT_S
        while True:
            gone = asyncio.Event()
            wire = self._make()
            wire.lost = lambda error, gone=gone: self._is_lost(error, gone)  # type: ignore[misc]
            try:
                await wire.connect()
                self._wire = wire
                await wire.subscribe(_subjects.alive_of_any(self._config.name), self._heard)
                self._fence.listens(self._now())
                self._say()  # what was said meanwhile was lost, and confirmations run out
                self._bucket = await wire.bucket(f"cw_{self._config.name}")
                self.reconnects += 1
                self._has_problem("")
                pause = RECONNECT_S[0]
                self._news.set()
                await gone.wait()
            except WireError as error:
                self._has_problem(str(error))
            self._bucket = None
            await self._drop()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)

    def _is_lost(self, error: Exception, gone: asyncio.Event) -> None:
        self._bucket = None
        self._has_problem(str(error))
        gone.set()

    async def _drop(self) -> None:
        wire, self._wire, self._bucket = self._wire, None, None
        if wire is not None:
            await wire.close()

    def _has_problem(self, problem: str) -> None:
        """Each is said once, until it is another or none."""
        if problem != self._problem:
            self._problem = problem
            if problem:
                log.error("the cluster's broker cannot be used, tried again and again: %s", problem)
            else:
                log.info("the cluster's broker can be used: %s", ", ".join(self._config.shown_urls))

    # What is said and heard.

    async def _say_alive(self) -> None:
        while True:
            self._say()
            await asyncio.sleep(self._fence.beat_s)

    def _say(self) -> None:
        """Of ourselves, as the fence is now. What cannot be sent is lost, and the next says more."""
        at = self._now()
        self._outage.beat(at)
        alive = self._fence.say(at)
        if self._wire is not None:
            try:
                self._wire.publish(self._subject, self._encoder.encode(alive))
            except WireError as error:
                self._has_problem(str(error))
        self._write_word()
        if (silent := tuple(alive.silent)) != self._silent:
            self._silent = silent
            self._audience.tell(NodesSilent(silent))

    def _heard(self, subject: str, body: bytes) -> None:
        try:
            name = _subjects.name_of(subject.rpartition(".")[2])
            alive = self._decoder.decode(body)
        except Exception:  # whatever a decoder raises
            self.nonsense += 1
            return
        if name == self._config.node and alive.incarnation == self.incarnation:
            return
        if alive.version != VERSION:
            if name not in self._strangers:
                self._strangers.add(name)
                log.error(
                    "node %s is not heard: it says that it is alive in version %d, and we in %d; give both one release",
                    name,
                    alive.version,
                    VERSION,
                )
            return
        self._fence.heard(name, alive, self._now())
        if alive.epoch > max(self._fence.epoch, self._there):
            self._news.set()
        self._write_word()

    def _write_word(self) -> None:
        at = self._now()
        fence = self._fence
        until = fence.until(at)
        self._word.write(fence.epoch, until)
        self._outage.look(at, until)
        if fence.epoch > self._settled and fence.is_settled(at):
            self._settled = fence.epoch
            self._audience.tell(ViewSettled(fence.epoch))
            self._news.set()

    # The view.

    async def _follow(self) -> None:
        while not self._refused:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK_S)
            self._news.clear()
            bucket = self._bucket
            if bucket is None:
                continue
            try:
                await self._look(bucket)
            except WireError as error:  # without a leader, or a quorum: the next look may find one
                if self._bucket is bucket:  # else the connection was lost, which has been said
                    self._has_problem(f"the view cannot be read or written: {error}")
            else:
                if self._bucket is not None:
                    self._has_problem("")

    async def _look(self, bucket: Bucket) -> None:
        highest = max(self._fence.highest_epoch(), self._fence.epoch)
        found = await bucket.get(KEY)
        self._there = 0 if found is None else found.revision
        self._fence.misses(highest if highest > self._there else 0)
        if highest > self._there:
            # An old copy, or a store that was made anew under a cluster that lives: it would give two of each owner.
            self._write_word()
            raise self._lost(highest)
        if found is not None and found.value:
            self._take(found)
        if self._refused:
            return
        view = self._next(found)
        if view is not None:
            written = await bucket.update(KEY, view.encode(), self._there)
            if written is None:
                self._news.set()  # another was quicker
            else:
                self._there = written
                self._adopt(view, written)
                if self._was_last():
                    self._news.set()

    def _lost(self, highest: int) -> WireError:
        yields = f". This node, at epoch {self.epoch}, yields to them" if self._fence.yields_to(self._now()) else ""
        return WireError(
            f"its store has epoch {self._there}, and nodes run at epoch {highest}: it was lost, or is an old copy{yields}. If "
            "it does not come back, stop all nodes, then start them"
        )

    def _take(self, found: Entry) -> None:
        if found.revision < self._fence.epoch:
            return
        try:
            view = View.decode(found.value)
        except Exception as error:
            reason = f"the view in the broker's store makes no sense: {error}"
            if (
                self._fence.view is not None
            ):  # somebody has put it there by hand: the cluster that runs is not to end by it
                raise WireError(f"{reason}. Stop all nodes, delete it, then start them") from error
            self._refuse(reason)
            return
        if not self._fence.is_news(view, found.revision):
            if view.lineage != self._fence.lineage:
                raise self._lost(self.epoch)
            return
        config = self._config
        for name, given, there, until in (
            ("partitions", config.partitions, view.partitions, ""),
            ("two_nodes", config.two_nodes, view.two_nodes, ""),
            ("node_timeout", config.node_timeout, view.node_timeout, ", or stop all nodes first"),
        ):
            if given != there and (view.nodes or not until):
                self._refuse(
                    f"[cluster] {name} is {given}, and cluster {config.name} was started with {there}; give {there}{until}"
                )
                return
        self._adopt(view, found.revision)

    def _adopt(self, view: View, epoch: int) -> None:
        fence, before = self._fence, self._fence.view
        was_in = self.is_in_view()
        fence.adopt(view, epoch, self._now())
        self._word.write(epoch, 0.0)
        self._outage.adopted(self._now(), is_member=self.is_in_view() and not self._leaving)
        self._audience.tell(self._for_shards(view, epoch))
        self._settled = epoch if fence.is_settled(self._now()) else min(self._settled, epoch - 1)
        self._say()
        self._tell(before, view, epoch, was_in)

    def _tell(self, before: View | None, view: View, epoch: int, was_in: bool) -> None:
        joined = sorted(view.nodes.keys() - (before.nodes.keys() if before else ()))
        left = sorted(before.nodes.keys() - view.nodes.keys()) if before else []
        news = [f"joined: {', '.join(joined)}"] if joined else []
        news += [f"left: {', '.join(left)}"] if left else []
        log.info("epoch %d: %d nodes%s", epoch, len(view.nodes), f" ({'; '.join(news)})" if news else "")
        if was_in and not self.is_in_view() and not self._leaving:
            log.warning("this node was written out of the cluster: the others had not heard it; it joins again")

    def _for_shards(self, view: View, epoch: int) -> ViewChanged:
        name, nodes, previous = self._config.node, view.nodes, view.previous
        owners = self._draws.owners(view.shards())
        slots = {each: node.slot for each, node in nodes.items()}
        moved = array("I")
        if view.has(name, self.incarnation):
            before = self._draws.owners({each: node.shards for each, node in previous.items()})
            had = name in previous and previous[name].incarnation == self.incarnation
            moved.extend(
                partition
                for partition, owner in enumerate(owners)
                if owner == name and not (had and before[partition] == name)
            )
        return ViewChanged(
            epoch,
            view.encode(),
            array("I", [slots[owner] for owner in owners]).tobytes(),
            moved.tobytes(),
            self.incarnation,
            self._fence.is_settled(self._now()),
        )

    def _next(self, found: Entry | None) -> View | None:
        """The view that is to be written after this one; None: it is as it should be, or nobody may write."""
        config, fence, at = self._config, self._fence, self._now()
        if found is None or not found.value:
            if fence.view is not None:
                raise WireError(
                    f"the view was deleted, and nodes run at epoch {fence.epoch}: stop all, then start them"
                )
            is_sure = fence.may_be_first(at) if found is None else fence.has_listened(at)
            if not self._ready or self._leaving or not is_sure or fence.highest_epoch() > 0:
                return None
            # The later one is higher, unless clocks are wrong; then it is any of them.
            lineage = time.time_ns() & ~_RANDOM | random.SystemRandom().getrandbits(16)
            return self._joined(View(config.partitions, config.two_nodes, lineage=lineage))
        view = fence.view
        if view is None or found.revision != fence.epoch or not fence.is_settled(at) or fence.yields_to(at):
            return None
        if self._leaving:
            return view.without({config.node}) if self.is_in_view() or self._was_last() else None
        if not self.is_in_view():
            if not self._ready:
                return None
            if fence.is_heard(at):
                self._name_is_taken()
                return None
            self._taken_since = None
            if config.node in view.nodes and not fence.may_replace(at):
                return None
            return self._joined(view)
        dead = fence.dead(at)
        return view.without(dead) if dead else None

    def _joined(self, view: View) -> View:
        config = self._config
        if not view.nodes:
            view = msgspec.structs.replace(view, node_timeout=config.node_timeout)
        return view.with_node(config.node, self._shards, self.incarnation, time.time())

    def _was_last(self) -> bool:
        """All have left, which we know to be settled, and nobody could tell those that come later. A view of nobody that comes
        after one of nobody is settled for all."""
        view = self._fence.view
        return view is not None and not view.nodes and bool(view.previous) and self.is_settled()

    def _name_is_taken(self) -> None:
        """Another process says that it is alive under our name. One that has just ended falls silent; one that lives does
        not."""
        at = self._now()
        if self._taken_since is None:
            self._taken_since = at
        if at - self._taken_since >= 2 * self._config.node_timeout:
            self._refuse(
                f"another process is node {self._config.node} of cluster {self._config.name}; give this one another name "
                "([cluster] node, --cluster-node)"
            )

    def _refuse(self, reason: str) -> None:
        self._refused = True
        self._audience.refused(reason)


def _tell_of_fault(task: asyncio.Task[None]) -> None:
    """None of the three ends by itself. Without one of them the node would be cut off, and nobody would know why."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})
