"""Links to peers, made and cut as the supervisor says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from clockworker.ipc import Mesh
from clockworker.shards.protocol._messages import Change, Connect, Disconnect, Quiet, Unconnected
from clockworker.shards.worker._peers import Peers

RECONNECT_S = 0.25  # after which a link that could not be made is asked for again


class PeerLinks:
    """Of one shard. peers: hears who is there. send: to the supervisor. complain: of what the system refuses."""

    def __init__(
        self,
        shard: int,
        mesh: Mesh,
        peers: Peers,
        send: Callable[[Quiet | Unconnected], None],
        complain: Callable[[Exception], None],
    ) -> None:
        self._shard = shard
        self._mesh = mesh
        self._peers = peers
        self._send = send
        self._complain = complain

    def missing(self) -> int:
        """How many are not made yet."""
        return sum(not link.present().connection.connected for link in self._mesh.peer_links())

    def connect(self, message: Connect, descriptors: list[int]) -> None:
        """descriptors: as `Connect` has them. What the system refuses is asked for again."""
        incoming, outgoing, memory, event = descriptors
        try:
            self._mesh.connect(
                message.peer,
                message.epoch,
                incoming=incoming,
                outgoing=outgoing,
                doorbell=(memory, event),
                place=message.place,
                beside=message.beside,
                ready=message.ready,
            )
        except OSError as error:
            self._complain(error)
            self.connect_later(message)
        if message.peer != self._shard:
            self._peers.connected(message.peer, message.incarnation, beside=message.beside)

    def connect_later(self, message: Connect) -> None:
        """There were no descriptors for it, or no memory: ask once more."""
        self._mesh.disconnect(message.peer, beside=message.beside)
        asyncio.get_running_loop().call_later(RECONNECT_S, self._send, Unconnected(message.peer, message.epoch))

    def disconnect(self, message: Disconnect) -> None:
        """The peer is gone: what waits for it fails."""
        self._mesh.disconnect(message.peer, beside=message.beside)
        if message.peer != self._shard:
            self._peers.disconnected(message.peer, beside=message.beside)

    def change(self, message: Change) -> None:
        """The peer's successor takes its place."""
        peer = message.peer
        self._mesh.change(peer, when_quiet=lambda: self._send(Quiet(peer)))
        self._peers.changed(peer)
