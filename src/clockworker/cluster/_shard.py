"""A shard's part: what the supervisor says of the cluster goes to `shard.cluster`, and from there to the shard's far links."""

from __future__ import annotations

import os

from clockworker.cluster._cluster import Cluster
from clockworker.cluster._fence import FENCE_PART
from clockworker.cluster._links import FarLinks
from clockworker.cluster._nats import NatsWire
from clockworker.cluster._topics import FarTopics
from clockworker.cluster._wire import Wire
from clockworker.cluster._word import take_word
from clockworker.ipc import Mesh
from clockworker.shards.config._cluster import ClusterConfig
from clockworker.shards.protocol._messages import Fenced, NodesSilent, ViewChanged, ViewSettled
from clockworker.shards.protocol._reading import SESSION_ENDS


class ShardInCluster:
    """Of the shard with this mesh, on the running loop. succeeds: another incarnation of it has its place yet."""

    def __init__(self, config: ClusterConfig, mesh: Mesh, *, succeeds: bool) -> None:
        self._config = config
        self.cluster = Cluster(config.node, mesh.shard_id, FENCE_PART * config.node_timeout)
        self.links = FarLinks(
            mesh,
            self._wire,
            cluster=config.name,
            node=config.node,
            keys=self.cluster,
            silence_s=config.node_timeout,
            succeeds=succeeds,
        )
        self.cluster.when_changed(self._see)

    def start(self) -> None:
        """Connect, and go on trying. Once the executor runs, before the application does."""
        self.links.mesh.topics.join(FarTopics(self.links, self._config.name))
        self.links.start()

    def leave(self) -> None:
        """A successor is ready: other nodes' calls are for it."""
        self.links.leave()

    async def close(self) -> None:
        """Peers are told, and calls end."""
        await self.links.close()

    def figures(self) -> dict[str, int]:
        """For `CallReading`."""
        links = self.links
        return {
            "far_calls": links.calls_sent,
            "far_sessions": links.sessions(),
            "far_window_waits": links.window_waits,
            **{f"ended_{reason}": links.ended[reason] for reason in SESSION_ENDS},
        }

    def handle(self, message: Fenced | ViewChanged | ViewSettled | NodesSilent, descriptors: list[int]) -> None:
        cluster = self.cluster
        match message:
            case Fenced():
                for descriptor in descriptors[:1]:
                    cluster.take_word(take_word(descriptor))
                for descriptor in descriptors[1:]:
                    os.close(descriptor)
            case ViewChanged(epoch, view, owners, moved, incarnation, settled):
                cluster.take_view(epoch, view, owners, moved, incarnation=incarnation, settled=settled)
            case ViewSettled(epoch):
                cluster.settle(epoch)
            case NodesSilent(nodes):
                cluster.take_silent(nodes)

    def _wire(self) -> Wire:
        config = self._config
        return NatsWire(config, f"{config.name} {config.node} shard {self.cluster.shard}", config.node_timeout / 2)

    def _see(self) -> None:
        cluster = self.cluster
        view = cluster.view
        nodes = {} if view is None else view.nodes
        self.links.see(cluster.slot, nodes, cluster.silent)
