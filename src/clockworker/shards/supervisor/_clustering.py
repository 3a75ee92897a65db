"""The supervisor as a node of a cluster: what `cluster._membership` has to say goes to all shards, and to those that come
later.

Nothing of `cluster` is imported before there is a `[cluster]`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from clockworker._errors import ConfigurationError
from clockworker.shards.config._cluster import SECRET_PREFIX, ClusterConfig, check_cluster_files
from clockworker.shards.observe._view import ClusterStanding, NodeView
from clockworker.shards.protocol._messages import Fenced, NodesSilent, ViewChanged, ViewSettled
from clockworker.shards.supervisor._member import Members
from clockworker.shards.supervisor._process import ShardProcess

if TYPE_CHECKING:
    from clockworker.cluster._membership import Membership
    from clockworker.cluster._wire import Wire


class Clustering:
    """refused: told why this node cannot be in its cluster."""

    def __init__(self, config: ClusterConfig, members: Members, refused: Callable[[str], None]) -> None:
        from clockworker.cluster._word import Word, create_word

        self._config = config
        self._members = members
        self._is_refused = refused
        self._descriptor = create_word()
        self._word = Word(self._descriptor, writable=True)
        self._view: ViewChanged | None = None
        self._settled: ViewSettled | None = None
        self._silent = NodesSilent(())
        self._membership: Membership | None = None

    def start(self) -> None:
        """On the running loop."""
        from clockworker.cluster._membership import Membership

        self._membership = Membership(self._config, len(self._members), self._wire, self._word, self)
        self._membership.start()

    def ready(self) -> None:
        """All shards are."""
        if self._membership is not None:
            self._membership.ready()

    def is_in_view(self) -> bool:
        return self._membership is not None and self._membership.is_in_view()

    def standing(self) -> ClusterStanding:
        """For those who look."""
        membership, name, node = self._membership, self._config.name, self._config.node
        if membership is None or (view := membership.view) is None:
            problem = "" if membership is None else membership.problem
            connected = membership is not None and membership.connected
            return ClusterStanding(name, node, 0, False, False, False, connected, problem, 0, [])
        return ClusterStanding(
            name,
            node,
            membership.epoch,
            membership.is_in_view(),
            membership.owns(),
            membership.is_settled(),
            membership.connected,
            membership.problem,
            max(0, membership.reconnects),
            [
                NodeView(each, one.slot, one.shards, each in self._silent.nodes, one.since)
                for each, one in sorted(view.nodes.items(), key=lambda item: item[1].slot)
            ],
        )

    async def leave(self) -> None:
        """Others serve what is ours, as soon as they know."""
        if self._membership is not None:
            await self._membership.leave(self._config.node_timeout)

    async def stop(self) -> None:
        if self._membership is not None:
            await self._membership.stop()
        self._word.close()
        os.close(self._descriptor)

    def add(self, process: ShardProcess) -> None:
        """A shard has been started, and knows nothing yet. Raises `OSError`."""
        process.send(Fenced(), [self._descriptor])
        for message in (self._view, self._settled, self._silent):
            if message is not None:
                process.send(message)

    # What the membership has to say.

    def tell(self, message: ViewChanged | ViewSettled | NodesSilent) -> None:
        match message:
            case ViewChanged():
                self._view, self._settled = message, None
            case ViewSettled():
                self._settled = message
            case NodesSilent():
                self._silent = message
        for member in self._members.everyone():
            member.tell(message)

    def refused(self, reason: str) -> None:
        self._is_refused(reason)

    def _wire(self) -> Wire:
        from clockworker.cluster._nats import NatsWire

        # Sooner than the fence: another server may be reached before it falls.
        silence = self._config.node_timeout / 2
        return NatsWire(self._config, f"{self._config.name} {self._config.node} supervisor", silence)


def check_cluster_needs(config: ClusterConfig) -> None:
    """Raises `ConfigurationError` if a file is not there, or what signs for a key."""
    signs = f"{SECRET_PREFIX}NKEY" if os.environ.get(f"{SECRET_PREFIX}NKEY") else ""
    if config.credentials is not None:
        signs = "[cluster] credentials"
    if signs and importlib.util.find_spec("nkeys") is None:
        raise ConfigurationError(f"{signs} needs nkeys, which is not installed: pip install 'clockworker[cluster]'")
    check_cluster_files(config)
