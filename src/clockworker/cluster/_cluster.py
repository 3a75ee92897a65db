"""`shard.cluster`: what a shard knows of the cluster, and whether it may begin a keyed call.

The supervisor tells of each new view, with the table of partitions, before it tells anybody else that this node is at its
epoch; and of the moment from which what was gained may be served. Between the two a shard serves what it had before and still
has.

    served    partitions that may begin here, as long as the word says that the node owns (`_word`)
    waiting   those that the view gives us and that may not be served before it is settled
    target    the rest of ours, which are served as soon as the services' `partitions_moved` has returned
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TypeAlias

import msgspec

from clockworker._errors import CallError, NodeIsolated, NotOwner, UsageError
from clockworker.cluster._partitions import partition_of
from clockworker.cluster._view import View
from clockworker.cluster._word import Word, boot_time
from clockworker.ipc.calls._owners import PLACES, Owner, checksum

log = logging.getLogger("clockworker.cluster")

# `partitions_moved` of a service: gained, lost, epoch.
Hook: TypeAlias = Callable[[frozenset[int], frozenset[int], int], Awaitable[object]]

RETRY_S = 1.0  # of a hook that has raised


class ClusterNode(msgspec.Struct, frozen=True):
    """slot: what the places of its shards begin with, `slot * 1024`. shards: how many. since: when it joined, in seconds of
    Unix time."""

    slot: int
    shards: int
    since: float


class ClusterView(msgspec.Struct, frozen=True):
    """epoch: only grows. nodes: by name, those that are in the cluster."""

    epoch: int
    nodes: dict[str, ClusterNode]


class Cluster:
    """Made by the shard's process. node: our own name. shard: our number in it. epoch: that of the view which we act by, 0
    before the first. confirm_s: how long the others may take to confirm a new view before it is said that we are cut off; they
    do within a beat or two, and on a machine that keeps them waiting as late as they confirm anything (`fence_after`)."""

    def __init__(self, node: str, shard: int, confirm_s: float) -> None:
        self.node = node
        self._confirm_s = confirm_s
        self.epoch = 0
        self.shard = shard
        self._word: Word | None = None
        self._changed_at = float("-inf")  # when a view came after another, by `boot_time`
        self._incarnation = 0
        self._view: View | None = None
        self._by_slot: dict[int, tuple[str, int]] = {}  # slot -> name, shards
        self._slot = 0  # ours; 0: we are not in the view
        self._owners: array[int] = array("I")
        self._target: frozenset[int] = frozenset()  # ours, and not to wait for
        self._waiting: frozenset[int] = frozenset()  # ours, once the view is settled
        self._served: frozenset[int] = frozenset()
        self._told: frozenset[int] = frozenset()  # what the services have heard that they have
        self._telling: frozenset[int] = frozenset()  # what they are hearing of
        self._lost: frozenset[int] = frozenset()  # of both, what has been another's since, and perhaps is ours again
        self._hooks: list[Hook] = []
        self._one_at_a_time = asyncio.Lock()
        self._moving: asyncio.Task[None] | None = None
        self._silent: frozenset[str] = frozenset()
        self._listeners: list[Callable[[], None]] = []
        self._changed = asyncio.Event()

    # What an application asks.

    @property
    def nodes(self) -> dict[str, ClusterNode]:
        """Those of the view, by name; none before the first."""
        nodes = {} if self._view is None else self._view.nodes
        return {name: ClusterNode(node.slot, node.shards, node.since) for name, node in nodes.items()}

    def owns(self, key: bytes | str | int) -> bool:
        """Whether a call that is keyed by it would begin on this shard, now."""
        return bool(self._owners) and self.refusal(self.partition(key)) is None

    async def changes(self) -> AsyncIterator[ClusterView]:
        """The view as it is, once there is one, and then each newer one. Who takes them slowly misses some, never the last."""
        seen = 0
        while True:
            while self.epoch == seen:
                await self._changed.wait()
            seen = self.epoch
            yield ClusterView(seen, self.nodes)

    # What routes calls asks (`_links.Keys`).

    @property
    def slot(self) -> int:
        """Ours; 0 while we are not in the view."""
        return self._slot

    @property
    def view(self) -> View | None:
        """As it was read; None before the first."""
        return self._view

    @property
    def silent(self) -> frozenset[str]:
        """Nodes of the view that this one has not heard for node_timeout."""
        return self._silent

    def partition(self, key: bytes | str | int) -> int:
        """Raises `NodeIsolated` before the first view."""
        return self.owner(checksum(key)).partition

    def owner(self, checksum: int) -> Owner:
        """Of the key with this checksum: the local number of a shard of this node, or a place. Raises `NodeIsolated`."""
        if not self._owners:
            if self._view is None:
                raise NodeIsolated(f"node {self.node} has not joined the cluster yet: it knows no owner of any key")
            raise NodeIsolated(f"the cluster has no nodes at epoch {self.epoch}")
        partition = partition_of(checksum, len(self._owners))
        slot = self._owners[partition]
        shard = partition % self._by_slot[slot][1]
        return Owner(shard if slot == self._slot else slot * PLACES + shard, partition, self.epoch)

    def refusal(self, partition: int, epoch: int = 0) -> CallError | None:
        """Why a call of this partition, which its caller has looked up at that epoch, must not begin here now; None: it may."""
        if partition in self._served:
            if self._word is not None and self._word.is_valid(self.epoch):
                return None
            if self._is_to_be_confirmed():
                return NotOwner(
                    f"partition {partition} is ours, and most of the cluster has yet to confirm the new view"
                )
            return NodeIsolated(f"node {self.node} is cut off: most of the cluster has not confirmed it of late")
        if self._is_ours(partition):
            return NotOwner(f"partition {partition} is ours at epoch {self.epoch}, and not served yet")
        return NotOwner(f"partition {partition} is another's at epoch {self.epoch}; the caller was at epoch {epoch}")

    def _is_to_be_confirmed(self) -> bool:
        """A new view is on its way to us, or has just come. Each begins with nobody's confirmation."""
        if boot_time() - self._changed_at < self._confirm_s:
            return True
        return self._word is not None and not self._word.is_of(self.epoch)

    def when_changed(self, listener: Callable[[], None]) -> None:
        """Called after each new view, and when another node falls silent or is heard again."""
        self._listeners.append(listener)

    # What the supervisor tells.

    def take_word(self, word: Word) -> None:
        self._word = word

    def take_view(
        self, epoch: int, value: bytes, owners: bytes, moved: bytes, *, incarnation: int, settled: bool
    ) -> None:
        """owners: of each partition the slot. moved: the partitions that the view has moved to this node from the view before.
        Both arrays of 32-bit numbers."""
        view = View.decode(value)
        self._view = view
        self._by_slot = {node.slot: (name, node.shards) for name, node in view.nodes.items()}
        self._slot = view.nodes[self.node].slot if view.has(self.node, incarnation) else 0
        self._owners = array("I", owners)
        mine = self._mine()
        # Of views that were missed nobody knows what they moved.
        fresh = mine & frozenset(array("I", moved)) if epoch == self.epoch + 1 else mine
        if self.epoch:
            self._changed_at = boot_time()
        self.epoch = epoch
        self._waiting = frozenset() if settled else fresh & frozenset(array("I", moved))
        known = self._told | self._telling
        self._lost |= known & (fresh | (known - mine))
        self._served = (self._served & mine) - fresh
        self._target = mine - self._waiting
        self._move()
        self._changed.set()
        self._changed = asyncio.Event()
        self._call_listeners()

    def take_silent(self, nodes: Collection[str]) -> None:
        self._silent = frozenset(nodes)
        self._call_listeners()

    def settle(self, epoch: int) -> None:
        """What was gained may be served, if this is still the view."""
        if epoch == self.epoch:
            self._target |= self._waiting
            self._waiting = frozenset()
            self._move()

    def _call_listeners(self) -> None:
        for listener in self._listeners:
            listener()

    # The services' hook.

    async def add_hook(self, hook: Hook) -> None:
        """Of a service that is about to start: it is told of what is served already, before it is."""
        if not callable(hook):
            raise UsageError(
                f"partitions_moved is {hook!r}; give `async def partitions_moved(self, gained, lost, epoch)`"
            )
        async with self._one_at_a_time:
            if self._told:
                await self._tell_one(hook, self._told, frozenset(), self.epoch)
            self._hooks.append(hook)

    def _is_ours(self, partition: int) -> bool:
        if not self._slot or partition >= len(self._owners):
            return False
        return self._owners[partition] == self._slot and partition % self._by_slot[self._slot][1] == self.shard

    def _mine(self) -> frozenset[int]:
        if not self._slot:
            return frozenset()
        shards = self._by_slot[self._slot][1]
        owners, slot = self._owners, self._slot
        return frozenset(p for p in range(self.shard, len(owners), shards) if owners[p] == slot)

    def _move(self) -> None:
        """Serve what may be served, after the services have heard of it."""
        if not self._hooks:
            self._served = self._told = self._target
            self._lost = frozenset()
        elif self._moving is None or self._moving.done():
            self._moving = asyncio.get_running_loop().create_task(self._tell(), name="partitions_moved")

    async def _tell(self) -> None:
        async with self._one_at_a_time:
            while True:
                target, lost, epoch = self._target, self._lost, self.epoch
                gained = target - (self._told - lost)
                if not gained and not lost:
                    return
                self._lost, self._telling = frozenset(), target
                for hook in self._hooks:
                    await self._tell_one(hook, gained, lost, epoch)
                self._told, self._telling = target, frozenset()
                self._served = (target & self._target) - self._lost

    async def _tell_one(self, hook: Hook, gained: frozenset[int], lost: frozenset[int], epoch: int) -> None:
        while True:
            try:
                await hook(gained, lost, epoch)
                return
            except Exception:
                log.exception("partitions_moved raised; %d partitions are not served before it returns", len(gained))
                await asyncio.sleep(RETRY_S)
