"""A topic, as its publishers and subscribers see it: `shard.topic("room:7", Line)`.

Who publishes hands the message to the subscribers of this shard, as it is, and sends it once to each shard that has some. A
topic that nobody hears costs a look, and nothing leaves the shard.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from clockworker._errors import (
    ChannelFull,
    ConfigurationError,
    MessageTooLarge,
    NodeIsolated,
    NotOwner,
    ShardDied,
    ShardDown,
    UsageError,
)
from clockworker.ipc.topics._beyond import ORIGIN, Beyond, Publishers
from clockworker.ipc.topics._codec import Codec
from clockworker.ipc.topics._outlet import Counts, Delivery, Target, TopicStats, send_many
from clockworker.ipc.topics._subscription import Message, Subscription, WhenFull
from clockworker.ipc.topics._words import FIRST_HAND, IN_ORDER

if TYPE_CHECKING:
    from clockworker.ipc.topics._confirmation import Confirmation
    from clockworker.ipc.topics._passage import Passage
    from clockworker.ipc.topics._topics import Topics

T = TypeVar("T")

_WAYS = ("wait", "drop")


class Topic(Generic[T]):
    """What all shards know by a name, to publish and to subscribe. Made by `Shard.topic`: the same one for the same name, for
    as long as somebody has it. Belongs to the thread of the event loop.

    name: text of up to 255 bytes, the same on all shards.
    ordered: whether all subscribers see the messages of all publishers in one order.
    """

    def __init__(self, topics: Topics, name: str, codec: Codec, ordered: bool, counts: Counts) -> None:
        self.name = name
        self.ordered = ordered
        self._counts = counts
        self._number = 0  # ours for it, while it has a subscriber here
        self._targets: tuple[Target, ...] = ()
        self._confirmation: Confirmation | None = None
        self._topics = topics
        self._codec = codec
        self._loop = topics.loop
        self._thread = threading.get_ident()
        self._encode = topics.home.shared.encode
        self._subscriptions: dict[Subscription[T], None] = {}
        self._complained = False
        self._hurried = False  # a reader here had better have a turn
        self._bytes = name.encode()
        self._publishers = Publishers()
        self._passage: Passage | None = None
        if ordered:
            self._passage = topics.passage_to(zlib.crc32(self._bytes) * topics.count >> 32)

    async def publish(self, message: T, *, when_full: Literal["wait", "drop"] = "wait") -> None:
        """Send it to whoever has subscribed, on every shard. At most once: a shard that dies does not hear it, and nobody is
        told of that but the counts.

        when_full: what becomes of it where a shard is slow to take its messages in. "wait": this call waits. "drop": that
            shard does not get it. Subscribers that are slow keep nobody waiting.

        Raises `UsageError` for a message that is plainly of another type, or from another thread, `ConfigurationError` for
        another `when_full`, and `MessageTooLarge`; then nothing was sent. Who is cancelled while it waits may have sent it to
        some.
        """
        if when_full not in _WAYS:
            raise ConfigurationError(f"when_full is {when_full!r}; it must be 'wait' or 'drop'")
        self._check(message)
        if self._topics.learning:
            await self._topics.learned()
        if self.ordered and (beyond := self._topics.beyond) is not None:
            await self._put_in_order(beyond, message)
            return
        delivery = self._publish(message, when_full == "drop")
        if delivery is not None:
            await delivery.wait(self._loop)
        if self._hurried:
            self._hurried = False
            await asyncio.sleep(0)

    def publish_nowait(self, message: T) -> None:
        """The same of `message` for who cannot wait: `ChannelFull` if a shard is slow to take its messages in. Nothing was sent
        then, to nobody. Raises `UsageError` and `MessageTooLarge` as `publish` does."""
        self._check(message)
        if self.ordered and (beyond := self._topics.beyond) is not None:
            body = self._encoded(message)
            self._check_most(beyond, body)
            beyond.put_in_order_nowait(self.name, body)
            self._counts.published += 1
            return
        passage = self._way()
        for outlet, _ in self._targets if passage is None else ():
            if not outlet.is_free():
                raise self._full(outlet.link.peer)
        if passage is not None and passage.is_open() and not passage.is_free():
            raise self._full(passage.link.peer)
        self._publish(message, False)

    def subscribe(self, *, limit: int = 256, when_full: WhenFull = "disconnect") -> Subscription[T]:
        """`async with topic.subscribe() as messages: async for message in messages: ...`. The block is entered when all live
        shards know of it: what is published from then on is heard.

        limit: how many messages wait for who reads. when_full: what becomes of one more. "disconnect": the subscription ends,
            in `Lagged`; "drop-oldest": it takes the place of the one that has waited longest; "drop-newest": it is not put in.

        Raises `ConfigurationError` for another limit or `when_full`; and `SchemaMismatch`, when it is entered, if another shard
        has the topic with a type whose messages are not understood here.
        """
        return Subscription(self, limit, when_full)

    def stats(self) -> TopicStats:
        """What this shard has counted of it since it started; of one beyond the first 64, of all of those."""
        counts = self._counts
        return TopicStats(counts.published, counts.delivered, counts.dropped, self.subscribers)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {self._codec.shown}{', ordered' if self.ordered else ''}>"

    # The way of a message

    def _publish(self, message: T, drop: bool) -> Delivery | None:
        passage = self._way()
        if passage is None:
            return self._post(message, drop)
        body = self._encoded(message)
        self._counts.published += 1
        if not passage.is_open() or (drop and not passage.is_free()):
            self._counts.dropped += 1
            return None
        return passage.pass_on(self._bytes, body, self._counts)

    def _way(self) -> Passage | None:
        """Of an ordered topic's messages; None: they are put in order here."""
        return self._passage or (self._topics.following if self.ordered else None)

    def _post(self, message: T, drop: bool) -> Delivery | None:
        targets = self._targets
        delivery: Delivery | None = None
        as_sent = self._topics.home.encode_local and bool(self._subscriptions)
        beyond = self._topics.beyond
        if targets or as_sent or beyond is not None:
            for outlet, _ in targets:
                outlet.connection.send_soon()
            body = self._encoded(message)
            if beyond is not None:
                self._publish_beyond(beyond, body)
            if drop:
                targets = self._free(targets)
            delivery = send_many(targets, body, self._counts, IN_ORDER if self.ordered else FIRST_HAND)
        self._counts.published += 1
        if self._subscriptions:
            self._deliver(Message(None, body) if as_sent else Message(message))
        return delivery

    async def _put_in_order(self, beyond: Beyond, message: T) -> None:
        """By way of the owner, which may be on another node."""
        body = self._encoded(message)
        self._check_most(beyond, body)
        self._counts.published += 1
        try:
            await beyond.put_in_order(self.name, body)
        except (NodeIsolated, NotOwner, ShardDied, ShardDown):
            self._counts.dropped += 1

    def _publish_beyond(self, beyond: Beyond, body: bytes) -> None:
        """To other nodes."""
        self._check_most(beyond, body)
        if not beyond.publish(self.name, self._topics.origins.next(self.name) + body):
            self._counts.dropped += 1

    def _check_most(self, beyond: Beyond, body: bytes) -> None:
        if ORIGIN.size + len(body) > beyond.most():
            raise MessageTooLarge(
                f"a message of topic {self.name!r} is {len(body):,} bytes encoded; the broker carries {beyond.most():,}. "
                "Nothing was sent"
            )

    def _take_beyond(self, message: bytes) -> None:
        """Of another node, for the subscribers of this shard."""
        if len(message) < ORIGIN.size:
            return
        lost = self._publishers.take(*ORIGIN.unpack_from(message))
        if lost is not None:
            self._counts.dropped += lost
            self._deliver(Message(None, message[ORIGIN.size :]))

    def _free(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        free = tuple(target for target in targets if target[0].is_free())
        self._counts.dropped += len(targets) - len(free)
        return free

    def _deliver(self, message: Message) -> None:
        """To the subscribers of this shard."""
        for subscription in tuple(
            self._subscriptions
        ):  # waking a reader runs a scheduler, which may be the application's
            if subscription._put(message):
                self._hurried = True

    def _encoded(self, message: T) -> bytes:
        try:
            body: bytes = self._encode(message)
        except Exception as error:
            raise TypeError(f"a message of topic {self.name!r} cannot be sent: {error}") from error
        most = self._topics.home.shared.max_message
        if len(body) + len(self._bytes) > most:
            raise MessageTooLarge(
                f"a message of topic {self.name!r} is {len(body):,} bytes encoded; max_message is {most:,}. Nothing was sent"
            )
        return body

    def _check(self, message: object) -> None:
        self._check_thread("publish")
        self._codec.check(message, self.name)

    def _check_thread(self, what: str) -> None:
        if threading.get_ident() != self._thread or asyncio._get_running_loop() not in (None, self._loop):
            raise UsageError(
                f"{what} of topic {self.name!r} was called outside its shard's own event loop, and nothing was sent; from "
                "another thread, use `loop.call_soon_threadsafe(topic.publish_nowait, message)`"
            )
        self._topics.check_open(what)

    def _full(self, peer: int) -> ChannelFull:
        credit = self._topics.home.shared.limits.credit
        return ChannelFull(
            f"shard {peer} has {credit:,} messages to take in, or its ring is full; the message of topic {self.name!r} was "
            "sent to nobody"
        )

    # Subscribers

    def _add(self, subscription: Subscription[T]) -> None:
        self._subscriptions[subscription] = None
        if len(self._subscriptions) == 1:
            self._topics.want(self)

    def _remove(self, subscription: Subscription[T]) -> None:
        self._subscriptions.pop(subscription, None)
        if not self._subscriptions:
            self._topics.want_no_more(self)

    async def _known_everywhere(self) -> None:
        confirmation = self._confirmation
        if confirmation is not None:
            await confirmation.wait()

    @property
    def subscribers(self) -> int:
        """How many there are on this shard."""
        return len(self._subscriptions)
