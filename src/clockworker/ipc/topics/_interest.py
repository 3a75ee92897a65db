"""What a peer wants to hear: policy only.

A shard says to each peer what topics it has subscribers of. Each of these words has a number that only grows, and a word that
is not newer than the last one changes nothing: whatever way words take, an older one never undoes a newer. The numbers are
those of the shard's incarnation, and so is the table: another incarnation begins with an empty one.
"""

from __future__ import annotations

import msgspec

from clockworker.ipc.calls._schema import MethodSchema


class Interest(msgspec.Struct, frozen=True):
    """Of one topic. topic: the peer's number for it, by which it wants to have messages. schema: its type there."""

    topic: int
    ordered: bool
    schema: MethodSchema


class Interests:
    """Of one incarnation of a peer."""

    def __init__(self) -> None:
        self.wanted: dict[str, Interest] = {}
        self.last_word = 0

    def take(self, word: int, name: str, interest: Interest | None) -> bool:
        """The peer's word: it wants to hear the topic, or not any more. False if a newer one has been heard already."""
        if word <= self.last_word:
            return False
        self.last_word = word
        if interest is None:
            self.wanted.pop(name, None)
        else:
            self.wanted[name] = interest
        return True
