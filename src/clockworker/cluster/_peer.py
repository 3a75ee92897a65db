"""A shard of another node, of which there are two while it is replaced in good order.

The incarnation that leaves says so in each of its sessions (`_session_cy.HELD`), gives up its place, and goes on with what it
has. Who hears that has new calls wait, and begins a session with the successor at once: by the same subject, which only the
successor answers any more. Then those that wait go there, and the two links change parts, as those of neighbours do
(`_link_cy`).

Both may be heard meanwhile, so a message is for the session that it names; one that names none is for who has none.
"""

from __future__ import annotations

from collections.abc import Callable

from clockworker.cluster._far_cy import FarConnection, Post
from clockworker.cluster._session_cy import HEAD, IDLE, Ended, Session
from clockworker.ipc.calls._link_cy import Link

_LONGEST_WORD = (
    256 * 1024
)  # bytes of what shards tell each other that is no call's, and that max_message does not bound


class FarPeer:
    """place: its number among all."""

    def __init__(self, post: Post, node: str, shard: int, place: int, session: Callable[[], Session]) -> None:
        longest = max(post.mesh.shared.max_message, _LONGEST_WORD)
        self.node = node
        self.shard = shard
        self._connections = [FarConnection(post, self, node, shard, place, session(), longest) for _ in range(2)]
        self._present = 0
        self.link: Link = self._connections[0].link
        self.link.pair(self._connections[1].link)

    @property
    def present(self) -> FarConnection:
        """To the incarnation that new calls go to."""
        return self._connections[self._present]

    @property
    def other(self) -> FarConnection:
        return self._connections[1 - self._present]

    @property
    def connections(self) -> list[FarConnection]:
        return self._connections

    def set_window(self, window: int) -> None:
        for connection in self._connections:
            connection.session.window = window

    def become(self, node: str) -> None:
        """Of this name: slots are used once in a cluster, and again in another, to which ours may yield."""
        self.go(Ended("left", "has left the cluster"))
        self.node = node
        for connection in self._connections:
            connection.become(node)

    def come(self, *, waits: bool) -> None:
        """Its node is in the view and heard, and so are we. waits: calls have to."""
        for connection in self._connections:
            connection.come(waits=waits)

    def go(self, ended: Ended) -> None:
        """It is not."""
        for connection in self._connections:
            connection.go(ended)

    def leave(self) -> None:
        """We are about to be replaced."""
        for connection in self._connections:
            connection.leave()

    def hear(self, message: bytes, *, alone: bool) -> None:
        """alone: there is no other incarnation of us, which it might be for."""
        if len(message) < HEAD.size:
            self.present.hear(message)
            return
        _, _, theirs, ours, _, _ = HEAD.unpack_from(message)
        if ours:
            found = [each for each in self._connections if each.session.ours == ours]
            if not found and not alone:
                return
        else:
            found = [each for each in self._connections if each.session.theirs == theirs]
            if not found:
                found = [self.other] if self.present.session.is_held else [self.present]
        (found[0] if found else self.present).hear(message)

    # What its connections ask, and tell

    def is_present(self, connection: FarConnection) -> bool:
        return connection is self.present

    def held(self, connection: FarConnection) -> None:
        if connection is self.present:
            connection.link.suspend()
            self.other.drop(Ended("anew", "has been replaced twice"))
            self.other.begin()

    def opened(self, connection: FarConnection) -> None:
        if connection is self.other and self.present.session.is_held:
            self._change()

    def _change(self) -> None:
        """The successor has its place. What waits goes there."""
        self._present = 1 - self._present
        self.link.change(lambda: None)

    def ended(self, connection: FarConnection) -> None:
        self.link.look_for_split()
        if connection is self.present and self.other.session.state != IDLE:
            self._change()  # it has left before its successor has answered
        elif connection is self.other and self.present.session.is_held and self.present.session.state != IDLE:
            connection.begin()  # the successor is slow to answer
