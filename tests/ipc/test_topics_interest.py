"""What peers want to hear: the policy, the words on the wire, and what breaks their rules."""

from __future__ import annotations

import asyncio
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_traffic import Peer, peer

import clockworker as cw
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._schema import MethodSchema
from clockworker.ipc.rings._ring_cy import PoisonedRing, RingConsumer, RingProducer
from clockworker.ipc.topics._codec import Codec
from clockworker.ipc.topics._interest import Interest, Interests
from clockworker.ipc.topics._words import Word, read_word
from tests.conftest import Run

BYTES = Codec(bytes).schema
names = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(st.tuples(names, st.booleans()), max_size=20).flatmap(
        lambda said: st.tuples(st.just(said), st.permutations(range(len(said))))
    )
)
def test_an_older_word_never_undoes_a_newer(told: tuple[list[tuple[str, bool]], list[int]]) -> None:
    """Words come in any order. Of what was heard, the newest before any gap in time counts: each is applied or refused."""
    said, order = told
    interests, last = Interests(), 0
    model: dict[str, int] = {}
    for place in order:
        name, wants = said[place]
        number = place + 1
        taken = interests.take(number, name, Interest(number, False, BYTES) if wants else None)
        assert taken == (number > last)
        if taken:
            last = number
            if wants:
                model[name] = number
            else:
                model.pop(name, None)
    assert {name: each.topic for name, each in interests.wanted.items()} == model


@pytest.mark.parametrize(
    "word",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(["x" * 256, 1, False, BYTES]),
        msgspec.msgpack.encode(["x", 1 << 32, False, BYTES]),
        msgspec.msgpack.encode(["x", -1]),
        msgspec.msgpack.encode(["x", 1]),
        msgspec.msgpack.encode([1, 1, False, BYTES]),
    ],
)
def test_words_that_no_shard_says(word: bytes) -> None:
    with pytest.raises(PoisonedRing, match=r"a word of (a )?topic"):
        read_word(word)


def word(name: str, topic: int, schema: MethodSchema | None = BYTES, ordered: bool = False) -> bytes:
    return msgspec.msgpack.encode(Word(name, topic, ordered, schema if topic else None))


def answers(one: Peer) -> list[tuple[int, int, int, bytes]]:
    """What came back: kind, method, number and body, but for schemas."""
    found = []
    while (body := one.hears.pop()) is not None:
        if one.hears.kind != Kind.SCHEMA:
            found.append((one.hears.kind, one.hears.method, one.hears.call, bytes(body)))
    return found


def test_who_asks_is_told_and_from_then_on_of_each_change(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            topics = one.mesh.topics
            room, other = topics.topic("room", bytes), topics.topic("other", bytes)
            assert [each[:3] for each in answers(one)] == [(Kind.TOPICS, 0, 0)], "it asks the peer at once"
            async with room.subscribe():
                assert answers(one) == [], "who has not asked is starting, and neither told nor waited for"
                one.sends.push(Kind.TOPICS, 0, 0, 0, b"")
                one.turn()
                (kind, _, first, said), end = answers(one)
                assert (kind, read_word(said).name, end[:3]) == (Kind.INTEREST, "room", (Kind.TOPICS, 0, 1))
                entering = asyncio.create_task(other.subscribe().__aenter__())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                ((kind, _, number, said),) = answers(one)
                again = read_word(said)
                assert (kind, again.name, number > first) == (Kind.INTEREST, "other", True)
                assert again.schema is not None
                assert again.schema.description == b"", "what the type is made of is told once"
                assert not entering.done()
                one.sends.push(Kind.HEARD, 0, 0, number, b"")
                one.turn()
                await (await entering).__aexit__(None, None, None)
                ((kind, _, last, said),) = answers(one)
                assert (read_word(said), last > number) == (Word("other", 0), True)

    run(body)


def test_messages_go_by_the_peers_number_and_come_by_ours(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            room = one.mesh.topics.topic("room", bytes)
            one.sends.push(Kind.TOPICS, 0, 0, 0, b"")
            one.sends.push(Kind.INTEREST, 0, 0, 5, word("room", 77))
            one.sends.push(Kind.INTEREST, 0, 0, 4, word("room", 0))  # older
            one.turn()
            answers(one)
            await room.publish(b"out")
            assert answers(one) == [(Kind.TOPIC, 77, 1, msgspec.msgpack.encode(b"out"))]
            entering = asyncio.create_task(room.subscribe(limit=2_000).__aenter__())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            ((_, _, number, said),) = answers(one)
            one.sends.push(Kind.HEARD, 0, 0, number, b"")
            one.turn()
            lines = await entering
            for value in range(256):
                one.sends.push(Kind.TOPIC, 0, read_word(said).topic, value, msgspec.msgpack.encode(b"in"))
            one.sends.push(Kind.TOPIC, 0, 999, 1, b"of a topic that nobody here hears")
            while one.turn()[0]:
                pass
            assert await anext(lines) == b"in"
            assert answers(one) == [(Kind.TAKEN, 0, 256, b"")], "credit goes back a quarter at a time"
            one.sends.push(Kind.INTEREST, 0, 0, 6, word("room", 0))
            one.turn()
            answers(one)
            await room.publish(b"nobody")
            assert answers(one) == []
            await lines.__aexit__(None, None, None)

    run(body)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ((Kind.TAKEN, 0, 0, 1, b""), "1 messages of topics are taken in that were not sent"),
        ((Kind.TAKEN, 0, 1, 1, b""), "1 messages of topics are taken in that were not sent"),
        ((Kind.PASS_ON, 9, 0, 0, b"short"), "whose name is cut off"),
        ((Kind.INTEREST, 0, 0, 1, b"?"), "a word of a topic that cannot be read"),
        ((100, 0, 0, 1, b""), "a frame of unknown kind 100"),
    ],
)
def test_a_peer_that_breaks_the_rules_is_dropped(
    run: Run, caplog: pytest.LogCaptureFixture, frame: tuple[int, int, int, int, bytes], why: str
) -> None:
    async def body() -> None:
        async with peer() as one:
            one.sends.push(*frame)
            one.turn()
            assert not one.link.connection.connected
            assert why in caplog.text

    run(body)


def test_a_shard_is_not_ready_before_it_knows_what_those_who_were_there_want(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            topics = one.mesh.topics
            there, back = cw.create_ring(1 << 16), cw.create_ring(1 << 16)
            one.mesh.connect(1, 2, incoming=there, outgoing=back, doorbell=cw.create_doorbell(2), ready=True)
            learned = asyncio.Event()
            topics.when_learned(learned.set)
            publishing = asyncio.create_task(topics.topic("room", bytes).publish(b"x"))
            await asyncio.sleep(0.01)
            assert (learned.is_set(), publishing.done()) == (False, False)
            one.mesh.disconnect(1)  # it dies: nobody is there to be heard
            assert learned.is_set()
            await publishing

    run(body)


def test_a_peer_that_says_nothing_is_waited_for_so_long(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clockworker.ipc.topics._topics.LEARN_S", 0.05)

    async def body() -> None:
        async with peer() as one:
            topics = one.mesh.topics
            there, back = cw.create_ring(1 << 16), cw.create_ring(1 << 16)
            one.mesh.connect(1, 2, incoming=there, outgoing=back, doorbell=cw.create_doorbell(2), ready=True)
            await topics.learned()
            assert "has not heard within 0.05 s which topics shard 1 has subscribers of" in caplog.text

    run(body)


class Owner:
    """Shard 1 while it is replaced: its old incarnation is that of `Peer`, and this is the rings' end of its successor."""

    def __init__(self, one: Peer) -> None:
        there, back = cw.create_ring(1 << 16), cw.create_ring(1 << 16)
        self.sends, self.hears = RingProducer(there), RingConsumer(back)
        one.mesh.connect(1, 2, incoming=there, outgoing=back, doorbell=cw.create_doorbell(2), place=3, beside=True)
        self.link = one.mesh.links[1].other
        self._mesh = one.mesh

    def turn(self) -> None:
        assert self.link is not None
        self._mesh.drain(self.link)

    def passed(self) -> list[bytes]:
        return _passed(self.hears)

    def close(self) -> None:
        self.sends.close()
        self.hears.close()


def _passed(hears: RingConsumer) -> list[bytes]:
    """The messages that an owner was sent, without their topic's name."""
    found = []
    while (body := hears.pop()) is not None:
        if hears.kind == Kind.PASS_ON:
            found.append(bytes(msgspec.msgpack.decode(bytes(body)[hears.queue :])))
    return found


NAME = next(name for name in map(str, range(99)) if zlib.crc32(name.encode()) * 2 >> 32 == 1)


def test_what_an_owner_had_not_passed_on_when_it_left_goes_to_its_successor_first(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            topic = one.mesh.topics.topic(NAME, bytes, ordered=True)
            new = Owner(one)
            for number in range(3):
                await topic.publish(b"%d" % number)
            assert _passed(one.hears) == [b"0", b"1", b"2"]
            one.mesh.change(1, lambda: None)
            later = asyncio.create_task(topic.publish(b"3"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert (later.done(), new.passed()) == (False, []), "the old one has not passed on all that it was sent"
            one.sends.push(Kind.TAKEN, 0, 1, 1, b"")
            one.turn()
            assert (later.done(), new.passed()) == (False, [])
            one.sends.push(Kind.TOPICS, 0, 0, 2, b"")  # it leaves
            one.turn()
            await later
            await topic.publish(b"4")
            one.mesh.disconnect(1, beside=True)
            await topic.publish(b"5")
            assert new.passed() == [b"1", b"2", b"3", b"4", b"5"]
            new.sends.push(Kind.TAKEN, 0, 1, 5, b"")
            new.turn()
            assert topic.stats() == cw.TopicStats(6, 0, 0, 0)
            new.close()

    run(body)


def test_what_an_owner_that_dies_had_not_passed_on_is_dropped(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            topic = one.mesh.topics.topic(NAME, bytes, ordered=True)
            new = Owner(one)
            for number in range(3):
                await topic.publish(b"%d" % number)
            one.mesh.change(1, lambda: None)
            later = asyncio.create_task(topic.publish(b"3"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            one.mesh.disconnect(1, beside=True)
            await later
            assert new.passed() == [b"3"]
            assert topic.stats() == cw.TopicStats(4, 0, 3, 0), "some may have been sent to some"
            one.mesh.disconnect(1)
            await topic.publish(b"4")
            assert topic.stats() == cw.TopicStats(5, 0, 5, 0), "3 was under way, and for 4 there is no owner"
            new.close()

    run(body)


def test_what_the_earlier_incarnation_of_an_owner_sent_is_before_what_its_successor_did(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            topic = one.mesh.topics.topic(NAME, bytes, ordered=True)
            new = Owner(one)
            async with topic.subscribe() as lines:
                number = topic._number
                for sends, first in ((new.sends, 2), (one.sends, 0)):
                    for value in range(first, first + 2):
                        sends.push(Kind.TOPIC, 1, number, 1, msgspec.msgpack.encode(b"%d" % value))
                new.turn()
                assert [await anext(lines) for _ in range(4)] == [b"0", b"1", b"2", b"3"]
                for sends, value in ((new.sends, b"later"), (one.sends, b"first")):
                    sends.push(Kind.TOPIC, 1, number, 1, msgspec.msgpack.encode(value))
                one.turn()
                assert len(lines._messages) == 1, "the earlier one waits for nobody"
                assert await anext(lines) == b"first"
            new.close()

    run(body)


def test_the_successor_of_an_owner_has_its_predecessor_put_messages_in_order_until_that_leaves(run: Run) -> None:
    async def body() -> None:
        async with peer() as one:
            topics = one.mesh.topics
            name = next(name for name in map(str, range(99)) if zlib.crc32(name.encode()) * 2 >> 32 == 0)
            topic = topics.topic(name, bytes, ordered=True)
            there, back = cw.create_ring(1 << 16), cw.create_ring(1 << 16)
            sends, hears = RingProducer(there), RingConsumer(back)
            # The other incarnation of this very shard, 0.
            one.mesh.connect(0, 2, incoming=there, outgoing=back, doorbell=cw.create_doorbell(2), place=2, ready=True)
            own = one.mesh.links[0]
            sends.push(Kind.TOPICS, 0, 0, 1, b"")
            one.mesh.drain(own)
            await topic.publish(b"mine")
            one.sends.push(Kind.PASS_ON, len(name), 0, 0, name.encode() + msgspec.msgpack.encode(b"a peer's"))
            one.turn()
            answers(one)
            assert _passed(hears) == [b"mine", b"a peer's"]
            one.sends.push(Kind.INTEREST, 0, 0, 1, word(name, 9, ordered=True))
            one.turn()
            sends.push(Kind.TAKEN, 0, 1, 1, b"")
            sends.push(Kind.TOPICS, 0, 0, 2, b"")
            one.mesh.drain(own)
            kinds = [(kind, body) for kind, _, _, body in answers(one) if kind != Kind.HEARD]
            assert kinds == [(Kind.TOPIC, msgspec.msgpack.encode(b"a peer's")), (Kind.TAKEN, b"")], (
                "what was left is sent"
            )
            await topic.publish(b"next")
            assert [body for kind, _, _, body in answers(one) if kind == Kind.TOPIC] == [
                msgspec.msgpack.encode(b"next")
            ]
            assert _passed(hears) == []
            sends.close()
            hears.close()

    run(body)
