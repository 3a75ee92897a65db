"""Topics between nodes, by the broker's subjects: who publishes does so once, whatever number of nodes listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from clockworker.cluster import _subjects
from clockworker.cluster._links import FarLinks
from clockworker.cluster._wire import Subscription, Wire, WireError
from clockworker.ipc import Mesh, remote

logger = logging.getLogger("clockworker.cluster")


class _Listening:
    """To one topic."""

    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self.heard = heard
        self.known: list[Callable[[], None]] = []  # who waits for the broker's confirmation
        self.subscription: Subscription | None = None
        self.subscribing: asyncio.Task[None] | None = None


class OrderedTopics:
    """A service of each shard: what the owner of an ordered topic is called for."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    @remote
    async def put(self, name: str, message: bytes) -> None:
        self._mesh.topics.put_in_order(name, message)


class FarTopics:
    """Of one shard, whose executor runs; what `ipc.topics._beyond.Beyond` is."""

    def __init__(self, far: FarLinks, cluster: str) -> None:
        self._far = far
        self._cluster = cluster
        self._listening: dict[str, _Listening] = {}
        self._published: dict[str, str] = {}  # subjects, by topic
        self._loop = asyncio.get_running_loop()
        self._owners = far.mesh.owners
        self._ordered = far.mesh.start(OrderedTopics, OrderedTopics(far.mesh))
        far.when_connected(self._connected)

    def most(self) -> int:
        wire = self._far.wire
        return 1 << 20 if wire is None else wire.max_payload

    def publish(self, name: str, message: bytes) -> bool:
        wire = self._far.wire
        if wire is None:
            return False
        subject = self._published.get(name)
        if subject is None:
            if len(self._published) >= 10_000:
                self._published.clear()
            subject = _subjects.topic(self._cluster, self._far.node, self._far.shard, name)
            self._published[name] = subject
        return wire.publish(subject, message)

    def listen(self, name: str, heard: Callable[[bytes], None], known: Callable[[], None]) -> None:
        found = self._listening.get(name)
        if found is None:
            found = self._listening[name] = _Listening(heard)
            found.known.append(known)
            self._subscribe(name, found)
        elif found.subscribing is not None:
            found.known.append(known)
        else:
            known()

    def cease(self, name: str) -> None:
        listening = self._listening.pop(name, None)
        if listening is not None:
            if listening.subscribing is not None:
                listening.subscribing.cancel()
            if listening.subscription is not None:
                listening.subscription.close()
            self._tell(listening)

    async def put_in_order(self, name: str, message: bytes) -> None:
        await self._ordered.of(name).put(name, message)

    def put_in_order_nowait(self, name: str, message: bytes) -> None:
        self._ordered.send_nowait(self._owners.of(name), OrderedTopics.put, name, message)

    def _connected(self, wire: Wire) -> None:
        """To another server, perhaps, which knows nothing of us."""
        for name, listening in self._listening.items():
            self._subscribe(name, listening)

    def _subscribe(self, name: str, listening: _Listening) -> None:
        if listening.subscribing is not None:
            listening.subscribing.cancel()
        wire = self._far.wire
        if wire is None:  # nothing comes of other nodes before there is one; those of this node need not wait for it
            self._tell(listening)
        else:
            listening.subscribing = self._loop.create_task(self._subscribed(name, listening, wire), name="subscribe")

    async def _subscribed(self, name: str, listening: _Listening, wire: Wire) -> None:
        def heard(subject: str, body: bytes) -> None:
            sender = _subjects.sender(subject)
            if sender is not None and sender.node != self._far.node and self._far.knows(sender.node):
                listening.heard(body)

        try:
            subscription = await wire.subscribe(_subjects.topic_of_any(self._cluster, name), heard)
        except WireError as error:
            logger.warning("topic %r is not heard from other nodes: %s", name, error)
        else:
            if self._listening.get(name) is listening:
                listening.subscription = subscription
            else:
                subscription.close()
        listening.subscribing = None
        self._tell(listening)

    def _tell(self, listening: _Listening) -> None:
        known, listening.known = listening.known, []
        for tell in known:
            tell()
