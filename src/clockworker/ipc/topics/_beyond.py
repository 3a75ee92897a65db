"""Topics on other nodes, as those of this one see them.

One shard of a node, chosen by the topic's name, listens for what other nodes publish, while a shard of its node has a
subscriber; it hands on over the rings what comes. A publisher of this node publishes for all others by itself. It has a random
number, and counts its messages, so that who subscribes knows of those that were lost; and does not take one twice, while there
are two incarnations of the shard that listens.

Ordered topics have one owner among the shards of all nodes. Who publishes calls it, and it publishes, so that all nodes hear
one publisher.
"""

from __future__ import annotations

import secrets
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

ORIGIN = struct.Struct("<II")  # publisher, number
_MOST_PUBLISHERS = 10_000  # of a topic
_MOST_TOPICS = 10_000
_LAST = 0xFFFFFFFF


class Beyond(Protocol):
    """What carries topics between nodes."""

    def most(self) -> int:
        """Bytes of a message that it can carry."""

    def publish(self, name: str, message: bytes) -> bool:
        """To all other nodes that listen. False if it cannot be sent."""

    def listen(self, name: str, heard: Callable[[bytes], None], known: Callable[[], None]) -> None:
        """`heard(message)` for each from now on. known: called once the broker has confirmed that, or there is none. Again for
        the same name: only `known` is new."""

    def cease(self, name: str) -> None:
        """Hear no more of it."""

    async def put_in_order(self, name: str, message: bytes) -> None:
        """Have the owner of an ordered topic, of all shards of all nodes, pass it on to all (`Topics.put_in_order`)."""

    def put_in_order_nowait(self, name: str, message: bytes) -> None:
        """The same for who cannot wait. Raises `ChannelFull`."""


def listener_of(name: str, count: int) -> int:
    """The shard, of so many, that listens for its node."""
    return zlib.crc32(name.encode()) * count >> 32


class Origins:
    """What messages of this shard begin with: of each topic, which publisher we are, and how many it has sent. Policy only.

    draw: a random number from 1 to 2**32 - 1.
    """

    def __init__(self, draw: Callable[[], int] = lambda: secrets.randbelow(_LAST) + 1) -> None:
        self._draw = draw
        self._of: dict[str, tuple[int, int]] = {}

    def next(self, name: str) -> bytes:
        """Of the next message of that topic."""
        publisher, number = self._of.pop(name, (0, _LAST))
        if number >= _LAST:
            publisher, number = self._draw(), 0
        if len(self._of) >= _MOST_TOPICS:  # the one in which nothing was published for longest
            del self._of[next(iter(self._of))]
        self._of[name] = publisher, number + 1
        return ORIGIN.pack(publisher, number + 1)


class Publishers:
    """Of one topic, on other nodes: the last number of each. Policy only."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def take(self, publisher: int, number: int) -> int | None:
        """How many messages before this one were lost; None: it was here before."""
        last = self._last.pop(publisher, None)
        if last is not None and number <= last:
            self._last[publisher] = last
            return None
        if len(self._last) >= _MOST_PUBLISHERS:  # the one that has been silent for longest
            del self._last[next(iter(self._last))]
        self._last[publisher] = number
        return 0 if last is None else number - last - 1
