"""All topics of a shard, and all that its peers say of theirs.

Each incarnation of a shard asks each incarnation of each peer for its topics as soon as the two are connected, and is answered
with a word for each that has a subscriber there; from then on it is told of each change, and says that it has heard it. A
subscription is entered when all who have asked have heard of it. Who has not asked yet is starting: it will get the answer
before it is ready, and until then is not waited for. So a roll of all shards loses nothing for those who stay: a successor
knows who listens before it serves, and while there are two incarnations of a shard, both are told and sent what they want.

What a peer wants is a table of its link (`_interest`), and dies with it.

Rejected: telling peers unasked when they are connected. A peer could have read that, been ready and have published before we
had read that it is there: a subscription entered in between, without having waited for it, would not hear it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import msgspec

from clockworker._errors import SchemaMismatch, UsageError
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.rings._ring_cy import PoisonedRing
from clockworker.ipc.topics._beyond import Beyond, Origins, listener_of
from clockworker.ipc.topics._codec import Codec
from clockworker.ipc.topics._confirmation import Confirmations
from clockworker.ipc.topics._counts import AllCounts
from clockworker.ipc.topics._interest import Interest
from clockworker.ipc.topics._outlet import Delivery, Outlet, Target, TopicStats, send_many
from clockworker.ipc.topics._passage import Passage
from clockworker.ipc.topics._subscription import Message
from clockworker.ipc.topics._topic import Topic
from clockworker.ipc.topics._words import ANSWERED, BEYOND, IN_ORDER, LEAVES, PASSED_ON, Word, check_name, read_word

logger = logging.getLogger("clockworker.ipc")

LEARN_S = 5.0  # how long a peer may take to say which topics it has
_MOST_WORDS = 1_000_000  # topics that a peer may want to hear
_MOST_SHOWN = 400

_TOPIC = int(Kind.TOPIC)
_PASS_ON = int(Kind.PASS_ON)
_TAKEN = int(Kind.TAKEN)
_INTEREST = int(Kind.INTEREST)
_HEARD = int(Kind.HEARD)
_TOPICS = int(Kind.TOPICS)


class Topics:
    """Of one mesh. links: those to its peers, which are the peers' own, and others. drain: takes in all that has come of a
    link; True if there may be more."""

    def __init__(self, home: Home, links: list[Link], others: list[Link], drain: Callable[[Link], bool]) -> None:
        self.home = home
        self.loop = home.shared.loop
        self.count = len(links)
        self.learning = False  # peers that were ready before us have not said yet which topics they have
        self.is_ready = False  # this shard is
        self._links = links
        self._drain = drain
        self._others = dict(zip(links, others, strict=True)) | dict(zip(others, links, strict=True))
        self._outlets = {link: Outlet(link) for link in self._others}
        self._passages: dict[int, Passage] = {}
        self._topics: weakref.WeakValueDictionary[str, Topic[Any]] = weakref.WeakValueDictionary()
        self._heard: dict[int, Topic[Any]] = {}  # with a subscriber here, by our number
        self._wanted: dict[str, dict[Outlet, int]] = {}  # by peers: their numbers
        self._codecs: dict[Any, Codec] = {}
        self._counts = AllCounts()
        self._schemas: dict[Outlet, dict[str, Any]] = {outlet: {} for outlet in self._outlets.values()}
        self._confirmations = Confirmations()
        self._next_topic = 0
        self._word = 0
        self._unanswered: set[Outlet] = set()
        self.following: Passage | None = (
            None  # to our earlier incarnation, which puts messages in order until it leaves
        )
        self._give_up: asyncio.TimerHandle | None = None
        self._when_learned: list[Callable[[], None]] = []
        self._held: list[tuple[Outlet, str, bytes]] = []  # to be passed on, once we know to whom
        self.beyond: Beyond | None = None
        self.origins = Origins()
        self._listening: set[str] = set()  # for other shards of our node, or for ourselves
        self._closed = False
        for link, outlet in self._outlets.items():
            if link.connection.connected:
                self._ask(outlet)

    # For the shard

    def topic(self, name: str, annotation: Any, ordered: bool = False) -> Topic[Any]:
        """The topic of that name. Raises `UsageError` for a name that is none, `ConfigurationError` for a type that does not
        travel, and `SchemaMismatch` if the topic is of another type, here or where it has a subscriber."""
        self.home.check_thread("topic")
        found = self._topics.get(name) if isinstance(name, str) else None
        if found is None:
            check_name(name)
        codec = self._codec(annotation)
        if found is not None:
            if found._codec is not codec or found.ordered != ordered:
                known = _described(found._codec.shown, found.ordered)
                raise SchemaMismatch(
                    f"topic {name!r} is of {known} on this shard, and is asked for with {_described(codec.shown, ordered)}"
                )
            return found
        for outlet in self._wanted.get(name, {}):
            why = self._why_not(codec, ordered, outlet, name, outlet.interests.wanted[name])
            if why:
                raise SchemaMismatch(why)
        topic: Topic[Any] = Topic(self, name, codec, ordered, self._counts.of(name))
        self._topics[name] = topic
        self._aim(name)
        return topic

    def stats(self) -> dict[str, TopicStats]:
        """Of each topic that has been used here; those beyond the first 64 together, as `(others)`."""
        return self._counts.stats(self._heard.values())

    def when_learned(self, tell: Callable[[], None]) -> None:
        """Call it once all peers that were ready have said which topics they have: now, if they have."""
        if self.learning:
            self._when_learned.append(tell)
        else:
            tell()

    async def learned(self) -> None:
        """Wait for that."""
        event = asyncio.Event()
        self.when_learned(event.set)
        await event.wait()

    def is_quiet(self) -> bool:
        """Whether nothing waits to be sent."""
        outlets = self._outlets.values()
        return not any(each.line or each.connection.backlog_bytes for each in (*outlets, *self._passages.values()))

    def check_open(self, what: str) -> None:
        """Raises `UsageError` once the mesh is closed, or this process is but a copy of the shard's."""
        if self._closed:
            raise UsageError(f"{what} of a topic was called after its shard had ended")
        if self.home.shared.refusal is not None:
            raise UsageError(self.home.shared.refusal)

    def close(self) -> None:
        """Nothing is taken in any more, and when this is said nothing sent."""
        if self.is_quiet():  # else some message has been passed on to some, and must not be once more
            for outlet in self._outlets.values():
                outlet.connection.send(_TOPICS, 0, 0, LEAVES, b"")
        self._closed = True
        if self._give_up is not None:
            self._give_up.cancel()

    # Peers

    def connected(self, link: Link, ready: bool) -> None:
        """A peer has come up. ready: it was there before us; we are not ready before we know its topics."""
        outlet = self._outlets[link]
        if ready:
            self._unanswered.add(outlet)
            self.learning = True
            if self._give_up is None:
                self._give_up = self.loop.call_later(LEARN_S, self._learn_no_more)
            if link.peer == self.home.shard_id and not self.is_ready:
                self.following = Passage(link)
        self._ask(outlet)
        self._go_on_to(link)

    def lost(self, link: Link) -> None:
        """A peer is gone. Its interest goes with it."""
        outlet = self._outlets[link]
        wanted = outlet.interests.wanted
        outlet.lose()
        self._schemas[outlet] = {}
        for name in wanted:
            self._forget(outlet, name)
        self._confirmations.lost(outlet)
        self._held = [held for held in self._held if held[0] is not outlet]
        self._answered(outlet)
        passage = self._passage_over(link)
        if passage is not None:
            self.following = self.following if passage is not self.following else None
            passage.lose()

    def changed(self, link: Link) -> None:
        """The peer's successor has its place."""
        self._go_on_to(link)

    def relieved(self, link: Link) -> None:
        """There is room in its ring again."""
        self._outlets[link].go_on()
        self._go_on_to(link)
        if self.following is not None:
            self.following.go_on()

    def passage_to(self, shard: int) -> Passage | None:
        """None: this shard is the owner."""
        if shard == self.home.shard_id:
            return None
        if shard not in self._passages:
            self._passages[shard] = Passage(self._links[shard])
        return self._passages[shard]

    def _passage_over(self, link: Link) -> Passage | None:
        """That which goes over this very link now."""
        passage = self.following if link.peer == self.home.shard_id else self._passages.get(link.peer)
        return passage if passage is not None and passage.link is link else None

    def _go_on_to(self, link: Link) -> None:
        passage = self._passages.get(link.peer)
        if passage is not None:
            passage.go_on()

    def _ask(self, outlet: Outlet) -> None:
        outlet.connection.send(_TOPICS, 0, 0, 0, b"")

    def _answered(self, outlet: Outlet) -> None:
        self._unanswered.discard(outlet)
        if self.learning and not self._unanswered:
            self._learn_no_more()

    def _learn_no_more(self) -> None:
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        if self._unanswered:
            peers = ", ".join(str(shard) for shard in sorted({each.link.peer for each in self._unanswered}))
            logger.error(
                "shard %d has not heard within %g s which topics shard %s has subscribers of, and goes on without: what is "
                "published here meanwhile is lost to them",
                self.home.shard_id,
                LEARN_S,
                peers,
            )
            self._unanswered.clear()
        self.learning = False
        told, self._when_learned = self._when_learned, []
        for tell in told:
            tell()
        held, self._held = self._held, []
        for outlet, name, message in held:
            self._pass_on(outlet, name, message)

    # What this shard wants to hear

    def want(self, topic: Topic[Any]) -> None:
        """It has a first subscriber."""
        self._next_topic += 1
        topic._number = self._next_topic
        self._heard[topic._number] = topic
        word = self._say_to_all(topic)
        missing: set[object] = {outlet for outlet in self._outlets.values() if outlet.live}
        if is_listener := self._is_listener(topic.name):
            missing.add(self.beyond)
        topic._confirmation = self._confirmations.begin(word, missing)
        if is_listener:
            self._listen(topic.name, functools.partial(self._confirmations.heard, word, self.beyond))

    def want_no_more(self, topic: Topic[Any]) -> None:
        """The last has left."""
        if topic._confirmation is not None:
            self._confirmations.forget(topic._confirmation)
            topic._confirmation = None
        self._heard.pop(topic._number, None)
        topic._number = 0
        self._cease(topic.name)
        if not self._closed:
            self._say_to_all(topic)

    def _say_to_all(self, topic: Topic[Any]) -> int:
        """Returns the word's number."""
        self._word += 1
        for outlet in list(self._outlets.values()):
            if outlet.live:
                self._say(outlet, topic)
        return self._word

    def _say(self, outlet: Outlet, topic: Topic[Any]) -> None:
        word = Word(topic.name, topic._number)
        if topic._number:
            schema = topic._codec.schema
            if schema.digest in outlet.told:
                schema = msgspec.structs.replace(schema, description=b"")
            outlet.told.add(schema.digest)
            word = Word(topic.name, topic._number, topic.ordered, schema)
        outlet.connection.send(_INTEREST, 0, 0, self._word, self.home.shared.encode(word))

    # Other nodes

    def join(self, beyond: Beyond) -> None:
        """There are some."""
        self.beyond = beyond
        for name in {*self._wanted, *(topic.name for topic in self._heard.values())}:
            if self._is_listener(name):
                self._listen(name, lambda: None)

    def put_in_order(self, name: str, message: bytes) -> None:
        """Of an ordered topic that is ours, among those of all nodes: to all that listen."""

        def post() -> None:
            self._post(name, message)

        self.when_learned(post)

    def _is_listener(self, name: str) -> bool:
        return self.beyond is not None and listener_of(name, self.count) == self.home.shard_id

    def _listen(self, name: str, known: Callable[[], None]) -> None:
        assert self.beyond is not None
        self._listening.add(name)
        self.beyond.listen(name, functools.partial(self._hand_on, name), known)

    def _cease(self, name: str) -> None:
        """If nobody of this node has a subscriber any more."""
        topic = self._topics.get(name)
        if name in self._listening and name not in self._wanted and (topic is None or not topic._number):
            self._listening.discard(name)
            if self.beyond is not None:
                self.beyond.cease(name)

    def _hand_on(self, name: str, message: bytes) -> None:
        """A message of another node, to all shards of ours that want it. Who is slow does not get it: the publisher cannot
        wait, it would have to for the slowest of all nodes."""
        counts = self._counts.of(name)
        for outlet, number in list(self._wanted.get(name, {}).items()):
            if outlet.is_free():
                outlet.send(BEYOND, number, message, counts)
            else:
                counts.dropped += 1
        topic = self._topics.get(name)
        if topic is not None and topic._number:
            topic._take_beyond(message)

    # What comes from peers

    def take(self, link: Link, kind: int, queue: int, method: int, number: int, body: bytes) -> None:
        """A frame that is about topics. Raises `PoisonedRing` for one that breaks the rules."""
        outlet = self._outlets[link]
        if kind == _TOPIC:
            if queue == IN_ORDER:
                self._take_in_order(link)
            outlet.owe()
            topic = self._heard.get(method)
            if topic is not None:  # else its last subscriber has left meanwhile
                if queue == BEYOND:
                    topic._take_beyond(body)
                else:
                    topic._deliver(Message(None, body))
        elif kind == _TAKEN:
            passage = self._passage_over(link)
            taken = outlet if method != PASSED_ON else passage
            if taken is None or not taken.taken(number):
                raise PoisonedRing(f"{number} messages of topics are taken in that were not sent")
        elif kind == _PASS_ON:
            if len(body) < queue:
                raise PoisonedRing("a message of a topic whose name is cut off")
            name = body[:queue].decode(errors="replace")
            if self.learning:
                self._held.append((outlet, name, body[queue:]))
            else:
                self._pass_on(outlet, name, body[queue:])
        elif kind == _INTEREST:
            self._take_word(outlet, number, body)
        elif kind == _HEARD:
            self._confirmations.heard(number, outlet, body.decode(errors="replace")[:_MOST_SHOWN])
        elif kind == _TOPICS:
            if number == ANSWERED:
                self._answered(outlet)
            elif number == LEAVES:
                self._left(link)
            else:
                self._answer(outlet)
        else:
            raise PoisonedRing(f"a frame of unknown kind {kind}")

    def _answer(self, outlet: Outlet) -> None:
        outlet.live = True
        for topic in list(self._heard.values()):
            self._word += 1
            self._say(outlet, topic)
        outlet.connection.send(_TOPICS, 0, 0, ANSWERED, b"")

    def _take_word(self, outlet: Outlet, number: int, body: bytes) -> None:
        word = read_word(body)
        interest = None
        mismatch = ""
        if word.topic and word.schema is not None:
            known = self._schemas[outlet]
            # Said with the first topic of this type; and mostly it is the type of all others, too.
            schema = known.get(word.schema.digest) if not word.schema.description else None
            schema = known.setdefault(word.schema.digest, word.schema) if schema is None else schema
            interest = Interest(word.topic, word.ordered, schema)
            topic = self._topics.get(word.name)
            if topic is not None:
                mismatch = self._why_not(topic._codec, topic.ordered, outlet, word.name, interest)
        if len(outlet.interests.wanted) >= _MOST_WORDS:
            raise PoisonedRing(f"subscribers of more than {_MOST_WORDS:,} topics")
        if outlet.interests.take(number, word.name, None if mismatch else interest):
            if mismatch:
                logger.error("shard %d: %s", self.home.shard_id, mismatch)
            if interest is None or mismatch:
                self._forget(outlet, word.name)
            else:
                self._wanted.setdefault(word.name, {})[outlet] = interest.topic
                self._aim(word.name)
        if interest is None or mismatch or not self._is_listener(word.name):
            outlet.connection.send(_HEARD, 0, 0, number, mismatch.encode())
            return
        epoch = outlet.connection.epoch

        def listening() -> None:
            if outlet.connection.epoch == epoch:
                outlet.connection.send(_HEARD, 0, 0, number, b"")

        self._listen(word.name, listening)

    def _take_in_order(self, link: Link) -> None:
        """A topic's owner may have been replaced: what its earlier incarnation has sent was before this. That one's own
        messages wait for nobody's, so this does not go round in circles."""
        other, epoch = self._others[link].connection, link.connection.epoch
        while other.connected and other.epoch < epoch and self._drain(self._others[link]):
            pass

    def _left(self, link: Link) -> None:
        """A peer passes on no more. What it had not taken in is not lost."""
        passage = self._passage_over(link)
        if passage is None:
            return
        messages = passage.take_back()
        if passage is not self.following:
            passage.go_on()  # to the successor, if there is one
            passage.send_anew(messages)
            return
        self.following = None
        for order, number, body, _ in messages:
            delivery = self._post(body[:order].decode(errors="replace"), body[order:])
            if delivery is None:
                passage.passed(number)
            else:
                delivery.then(functools.partial(passage.passed, number))

    def _pass_on(self, outlet: Outlet, name: str, message: bytes) -> None:
        """To all that listen; and then the publisher may send another one in its place."""
        epoch = outlet.connection.epoch

        def taken() -> None:
            if outlet.connection.epoch == epoch:
                outlet.connection.send(_TAKEN, 0, PASSED_ON, 1, b"")

        if self.following is not None:
            self.following.pass_on(name.encode(), message, self._counts.of(name), taken)
            return
        delivery = self._post(name, message)
        if delivery is None:
            taken()
        else:
            delivery.then(taken)

    def _post(self, name: str, body: bytes) -> Delivery | None:
        topic = self._topics.get(name)
        targets = tuple(self._wanted.get(name, {}).items())
        delivery = send_many(targets, body, self._counts.of(name), IN_ORDER) if targets else None
        if self.beyond is not None:
            self._publish_beyond(name, body)
        if topic is not None and topic._number:
            topic._deliver(Message(None, body))
        return delivery

    def _publish_beyond(self, name: str, body: bytes) -> None:
        """Of an ordered topic, which is put in order here: its publisher is this shard, for other nodes."""
        assert self.beyond is not None
        message = self.origins.next(name) + body
        if len(message) > self.beyond.most() or not self.beyond.publish(name, message):
            self._counts.of(name).dropped += 1

    # Tables

    def _forget(self, outlet: Outlet, name: str) -> None:
        wanted = self._wanted.get(name)
        if wanted is not None:
            wanted.pop(outlet, None)
            if not wanted:
                del self._wanted[name]
                self._cease(name)
            self._aim(name)

    def _aim(self, name: str) -> None:
        topic = self._topics.get(name)
        if topic is not None:
            found: tuple[Target, ...] = tuple(self._wanted.get(name, {}).items())
            topic._targets = found

    def _why_not(self, codec: Codec, ordered: bool, outlet: Outlet, name: str, interest: Interest) -> str:
        """Why what is published here is not what the peer's subscribers read; empty if it is."""
        peer = outlet.link.peer
        why = codec.why_not(interest.schema, peer)
        if not why and interest.ordered == ordered:
            return ""
        there = _described(interest.schema.signature[:_MOST_SHOWN], interest.ordered)
        return (
            f"topic {name!r} is of {_described(codec.shown, ordered)} on shard {self.home.shard_id} and of {there} on shard "
            f"{peer}{f': {why}' if why else ''}"
        )

    def _codec(self, annotation: Any) -> Codec:
        try:
            found = self._codecs.get(annotation)
        except TypeError:  # an annotation with something unhashable in it
            return Codec(annotation)
        if found is None:
            found = self._codecs[annotation] = Codec(annotation)
        return found


def _described(type_shown: str, ordered: bool) -> str:
    return f"{type_shown}, ordered," if ordered else type_shown
