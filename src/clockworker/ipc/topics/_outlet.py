"""An outlet: the messages that go to one incarnation of a peer.

As many are under way as there is credit, which the peer gives back when it has taken them out of the ring: at once, whatever
its subscribers do. So a slow subscriber keeps nobody waiting, and a slow shard does: who publishes waits in its `line`, in
order, until the peer has taken more in, or is gone. Credit is apart from that of calls, and is given back without a task, so
nothing can stand still for it.

`send_many` has one message go to many peers: it is encoded once, and each ring gets the same bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.topics._interest import Interests
from clockworker.ipc.topics._words import FIRST_HAND

_TOPIC = int(Kind.TOPIC)
_TAKEN = int(Kind.TAKEN)


class Counts:
    """Of one topic. published: here. delivered: to subscribers here. dropped: what a subscriber here, or a shard that has some,
    did not get."""

    __slots__ = ("delivered", "dropped", "published")

    def __init__(self) -> None:
        self.published = 0
        self.delivered = 0
        self.dropped = 0


class TopicStats(msgspec.Struct, frozen=True):
    """What a shard has counted of one topic since it started.

    published: here. delivered: to subscribers here. dropped: what subscribers here did not get, and what a shard with
    subscribers did not, since it was too slow or died. subscribers: here, now.
    """

    published: int
    delivered: int
    dropped: int
    subscribers: int


class Delivery:
    """A message that waits at some outlets. when_done: told when it waits at none."""

    __slots__ = ("_done", "_waiter", "outlets")

    def __init__(self) -> None:
        self.outlets: list[Outlet] = []
        self._waiter: asyncio.Future[None] | None = None
        self._done: Callable[[], None] | None = None

    def then(self, done: Callable[[], None]) -> None:
        """Have it called."""
        self._done = done

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Who is cancelled meanwhile leaves: where the message waits it is not sent."""
        if not self.outlets:
            return
        self._waiter = loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            for outlet in self.outlets:
                outlet.line.pop(self, None)
            self.outlets.clear()
            raise

    def left(self, outlet: Outlet) -> None:
        """It does not wait there any more."""
        self.outlets.remove(outlet)
        if not self.outlets:
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
            if self._done is not None:
                self._done()


class Outlet:
    """To one link's peer. credit: how many more messages may be under way. line: who waits, with the message's order, the
    peer's number for its topic, its body and whose counts it has."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.connection = link.connection
        self.limit = link.shared.limits.credit
        self.line: dict[Delivery, tuple[int, int, bytes, Counts]] = {}
        self._many = max(1, self.limit // 4)
        self.reset()

    def reset(self) -> None:
        """There is another incarnation of the peer, or none."""
        self.credit = self.limit
        self.live = False  # it has asked for our topics, and is told of what changes
        self.interests = Interests()
        self.told: set[str] = set()  # types, by digest
        self.under_way: deque[Counts] = deque()
        self._sent = 0
        self._debt = 0

    def is_free(self) -> bool:
        """Whether a message can go at once."""
        return self.credit > 0 and not self.line and not self.connection.crowded

    def send(self, order: int, topic: int, body: bytes, counts: Counts) -> None:
        self.credit -= 1
        self._sent += 1
        self.under_way.append(counts)
        self.connection.send(_TOPIC, order, topic, self._sent, body)

    def taken(self, count: int) -> bool:
        """The peer has taken so many in. False if so many were not under way."""
        if count > len(self.under_way):
            return False
        for _ in range(count):
            self.under_way.popleft()
        self.credit += count
        self.go_on()
        return True

    def go_on(self) -> None:
        """Who waits may go, as far as there is credit."""
        while self.line and self.credit > 0 and not self.connection.crowded and self.connection.connected:
            delivery, (order, topic, body, counts) = next(iter(self.line.items()))
            del self.line[delivery]
            self.send(order, topic, body, counts)
            delivery.left(self)

    def owe(self) -> None:
        """A message of the peer's has been taken in. Credit goes back many at a time."""
        self._debt += 1
        if self._debt >= self._many:
            debt, self._debt = self._debt, 0
            self.connection.send(_TAKEN, 0, 0, debt, b"")

    def lose(self) -> None:
        """The peer is gone. What it had not said to have taken in is lost, and so is what waits."""
        under_way, line = self.under_way, self.line
        self.line = {}
        self.reset()
        for counts in under_way:
            counts.dropped += 1
        for delivery, (_, _, _, counts) in line.items():
            counts.dropped += 1
            delivery.left(self)


Target = tuple[Outlet, int]  # where there is a subscriber, and its number for the topic there


def send_many(targets: Iterable[Target], body: bytes, counts: Counts, order: int = FIRST_HAND) -> Delivery | None:
    """Send one message to all of them, encoded once. What it returns waits where there is no credit; None: it is sent."""
    delivery: Delivery | None = None
    for outlet, topic in targets:
        if outlet.credit > 0 and not outlet.line and not outlet.connection.crowded:
            outlet.send(order, topic, body, counts)
        else:
            if delivery is None:
                delivery = Delivery()
            delivery.outlets.append(outlet)
            outlet.line[delivery] = (order, topic, body, counts)
    return delivery
