"""The way of ordered topics' messages: to the shard that owns the topic, which sends them to all that listen, the publisher's
among them, one after the other. So all see the same order.

A passage is that to one peer, over its incarnations. It has credit of its own, given back when the owner has passed the message
on: if a shard is so slow that the owner waits, so does who publishes. While the peer is replaced, messages go to its successor
only when the old one has passed on all that it was sent; so the order of one publisher is kept.
"""

from __future__ import annotations

from collections import deque

from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.topics._outlet import Counts, Outlet

_PASS_ON = int(Kind.PASS_ON)


class Passage(Outlet):
    """To the peer whose own link this is (`_link_cy`: it knows which of its two incarnations has the place)."""

    def __init__(self, own: Link) -> None:
        super().__init__(own)
        self._own = own

    def is_free(self) -> bool:
        """Whether a message can go at once."""
        if self.link is not self._own.present():
            self.go_on()
        return super().is_free() and self.link is self._own.present()

    def is_open(self) -> bool:
        """Whether there is an owner to send it to."""
        return self._own.present().connection.connected

    def send(self, order: int, topic: int, body: bytes, counts: Counts) -> None:
        """order: of the body's first bytes, how many are the topic's name."""
        self.credit -= 1
        self.under_way.append(counts)
        self.connection.send(_PASS_ON, order, 0, 0, body)

    def go_on(self) -> None:
        """Who waits may go, as far as there is credit; to the successor once the old one has passed on what it was sent."""
        present = self._own.present()
        if self.link is not present:
            if self.under_way:
                return
            self.link = present
            self.connection = present.connection
        super().go_on()

    def lose(self) -> None:
        """The incarnation that the messages go to is gone."""
        under_way = self.under_way
        self.under_way = deque()
        self.credit = self.limit
        for counts in under_way:
            counts.dropped += 1
        if self.is_open():
            self.go_on()
        else:
            line, self.line = self.line, {}
            for delivery, (_, _, _, counts) in line.items():
                counts.dropped += 1
                delivery.left(self)
