"""Sessions by properties: whatever the way does to messages, nothing is taken twice or out of order, nothing is missing in
between, and two ends come to rest."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clockworker.cluster._session_cy import (
    BYE,
    CLOSE,
    DATA,
    HEAD,
    HELLO,
    IDLE,
    OPEN,
    OPENING,
    VERSION,
    Ended,
    Session,
    bye,
)

S = 1_000_000_000
SILENCE = 3 * S
WINDOW = 1_000


class End:
    """One end as a connection has it: what it has sent and taken in, session by session."""

    def __init__(self, draw: Callable[[], int]) -> None:
        self.session = Session(WINDOW, SILENCE, draw)
        self.sent: dict[int, list[bytes]] = {}  # by the peer's session and ours, as one number
        self.taken: dict[int, list[bytes]] = {}
        self.ends: list[str] = []
        self.out: list[bytes] = []
        self.pending = 0

    @property
    def pair(self) -> tuple[int, int]:
        return self.session.ours, self.session.theirs

    def say(self, piece: bytes, now: int) -> bool:
        """A piece, if there is a session for it and room."""
        if self.session.state == IDLE:
            self.session.begin(now)
        if self.session.room() < len(piece):
            return False
        self.out.append(self.session.head(len(piece), now) + piece)
        self.sent.setdefault(self.session.ours, []).append(piece)
        return True

    def hear(self, message: bytes, now: int) -> None:
        try:
            has_piece = self.session.hear(message, now, agrees=not self.pending)
        except Ended as ended:
            self.ends.append(ended.kind)
            if ended.again:
                self.hear(message, now)
        else:
            if has_piece:
                piece = message[HEAD.size :]
                self.taken.setdefault(self.session.theirs, []).append(piece)
                self.session.took(len(piece))
        self.flush(now)

    def look(self, now: int) -> None:
        try:
            self.session.look(now)
        except Ended as ended:
            self.ends.append(ended.kind)
        self.flush(now)

    def flush(self, now: int) -> None:
        self.out += self.session.answers
        self.session.answers.clear()
        if self.session.owes and self.session.state != IDLE:
            self.out.append(self.session.hello(now))


def two(seed: int = 0) -> tuple[End, End]:
    draw = random.Random(seed).randrange
    return End(lambda: draw(1, 1 << 32)), End(lambda: draw(1, 1 << 32))


def settle(a: End, b: End, now: int) -> int:
    """Let all messages arrive, in order. Returns how many there were."""
    count = 0
    while a.out or b.out:
        for end, peer in ((a, b), (b, a)):
            messages, end.out = end.out, []
            for message in messages:
                peer.hear(message, now)
                count += 1
        assert count < 1_000, "they never come to rest"
    return count


def opened() -> tuple[End, End]:
    a, b = two()
    a.session.begin(0)
    a.flush(0)
    settle(a, b, 0)
    assert a.session.state == b.session.state == OPEN
    return a, b


def test_a_session_is_open_after_three_messages() -> None:
    a, b = two()
    assert not a.say(b"too soon", 0)
    a.flush(0)
    assert settle(a, b, 0) == 3
    assert a.session.state == b.session.state == OPEN
    assert a.pair == b.pair[::-1]
    assert a.say(b"piece", 1)
    settle(a, b, 1)
    assert b.taken[a.session.ours] == [b"piece"]


def test_two_that_begin_at_once_have_one_session() -> None:
    a, b = two()
    for end in (a, b):
        end.session.begin(0)
        end.flush(0)
    settle(a, b, 0)
    assert a.session.state == b.session.state == OPEN
    assert a.pair == b.pair[::-1]
    assert not a.ends
    assert not b.ends


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_hello_is_said_again(lost: int) -> None:
    a, b = two()
    a.session.begin(0)
    a.flush(0)
    number = 0
    for now in range(0, 3 * S, S // 4):
        while a.out or b.out:
            for end, peer in ((a, b), (b, a)):
                messages, end.out = end.out, []
                for message in messages:
                    if number != lost:
                        peer.hear(message, now)
                    number += 1
        a.look(now)
        b.look(now)
        if a.session.state == b.session.state == OPEN:
            break
    assert a.session.state == b.session.state == OPEN
    assert a.say(b"piece", now)
    settle(a, b, now)
    assert [*b.taken.values()] == [[b"piece"]]


def test_a_successor_knows_nothing_and_says_so_at_once() -> None:
    a, b = opened()
    _, b = two(1)
    a.say(b"for who was there before", 1)
    settle(a, b, 1)
    assert a.ends == ["bye"]
    assert a.session.state == IDLE
    assert not b.taken


def test_a_successor_that_begins_ends_the_session_of_the_one_before() -> None:
    a, _ = opened()
    _, c = two(1)
    c.session.begin(5)
    c.flush(5)
    settle(a, c, 5)
    assert a.ends == ["anew"]
    assert a.session.state == c.session.state == OPEN
    assert a.pair == c.pair[::-1]


def test_a_message_that_is_lost_is_missed_by_the_next() -> None:
    a, b = opened()
    a.say(b"one", 1)
    a.out.clear()
    a.say(b"two", 1)
    settle(a, b, 1)
    assert b.ends == ["gap"]
    assert a.ends == ["bye"]
    assert not b.taken


def test_a_message_that_comes_twice_is_passed_over() -> None:
    a, b = opened()
    a.say(b"one", 1)
    a.out *= 2
    a.say(b"two", 1)
    settle(a, b, 1)
    assert b.taken == {a.session.ours: [b"one", b"two"]}
    assert not a.ends
    assert not b.ends


def test_a_last_message_that_is_lost_is_missed_by_a_hello() -> None:
    a, b = opened()
    a.say(b"one", 0)
    a.out.clear()
    a.look(SILENCE // 3 - 1)
    assert not a.out
    a.look(SILENCE // 3)
    settle(a, b, S)
    assert b.ends == ["gap"]
    assert a.ends == ["bye"]


def test_who_is_not_heard_is_gone() -> None:
    a, b = opened()
    due = a.session.due_ns()
    assert due == SILENCE // 3
    for now in range(0, SILENCE, S // 10):
        a.look(now)
    assert not a.ends
    assert len(a.out) == 2  # after a third and two thirds
    a.look(SILENCE)
    assert a.ends == ["silence"]
    assert a.session.state == IDLE
    assert a.session.due_ns() is None
    settle(a, b, SILENCE)
    assert b.session.state == IDLE


def test_our_own_sleep_is_no_silence_of_the_peers() -> None:
    a, _ = opened()
    a.session.slept(10 * S)
    a.look(12 * S)
    assert not a.ends
    a.look(13 * S)
    assert a.ends == ["silence"]


def test_no_more_is_under_way_than_the_window_has() -> None:
    a, b = opened()
    for _ in range(10):
        assert a.say(bytes(100), 1)
    assert a.session.room() == 0
    assert not a.say(b"x", 1)
    settle(a, b, 1)  # the peer has taken them in, and tells that
    assert a.session.room() >= WINDOW * 3 // 4
    a.flush(1)


def test_a_session_without_calls_ends_when_both_want_it_to() -> None:
    a, b = opened()
    b.pending = 1
    a.session.close()
    a.flush(1)
    settle(a, b, 1)
    assert a.session.state == OPEN
    b.pending = 0
    a.session.close()
    a.flush(2)
    settle(a, b, 2)
    assert a.session.state == b.session.state == IDLE
    assert a.ends == b.ends == ["idle"]


def test_two_that_close_at_once_agree() -> None:
    a, b = opened()
    for end in (a, b):
        end.session.close()
        end.flush(1)
    settle(a, b, 1)
    assert a.session.state == b.session.state == IDLE
    assert {*a.ends, *b.ends} == {"idle"}


def test_a_piece_keeps_a_session_from_closing() -> None:
    a, b = opened()
    a.session.close()
    b.say(b"after all", 1)
    settle(a, b, 1)
    assert a.session.state == OPEN
    assert a.taken[b.session.ours] == [b"after all"]


def message(flags: int, ours: int, theirs: int, number: int = 0, taken: int = 0, version: int = VERSION) -> bytes:
    return HEAD.pack(version, flags, ours, theirs, number, taken)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda a, b: b"short", "rules"),
        (lambda a, b: message(DATA, b, a, 1, version=2), "version"),
        (lambda a, b: message(16, b, a), "rules"),
        (lambda a, b: message(DATA, 0, a, 1), "rules"),
        (lambda a, b: message(HELLO, b, a, taken=1), "rules"),
        (lambda a, b: message(HELLO, b, a, number=1), "gap"),
        (lambda a, b: message(DATA, b, a, number=2), "gap"),
        (lambda a, b: message(DATA, b + 1, a, number=1), "anew"),
        (lambda a, b: message(DATA, b, a, number=1) + bytes(WINDOW + 1), None),
        (lambda a, b: message(BYE, b, a), "bye"),
    ],
)
def test_what_is_against_the_rules_ends_the_session(made: Callable[[int, int], bytes], kind: str | None) -> None:
    a, _ = opened()
    a.hear(made(*a.pair), 1)
    assert a.ends == ([] if kind is None else [kind])


def test_more_than_a_window_of_what_is_not_taken_in_is_against_the_rules() -> None:
    a, _ = opened()
    ours, theirs = a.pair
    with pytest.raises(Ended, match="more than its window"):
        for number in itertools.count(1):
            a.session.hear(message(DATA, theirs, ours, number) + bytes(WINDOW), 1)
    assert number == 5


@pytest.mark.parametrize("flags", [DATA, HELLO, CLOSE, BYE, 99])
def test_what_is_for_another_session_ends_nothing_of_ours(flags: int) -> None:
    a, _ = opened()
    ours, theirs = a.pair
    for of_peer, of_us in ((theirs, ours + 1), (theirs + 1, ours + 1)):
        a.hear(message(flags, of_peer, of_us, 1), 1)
    if flags != 99:
        assert not a.ends
        assert a.session.state == OPEN
        assert a.out == ([] if flags == BYE else [bye(theirs), bye(theirs + 1)])


def test_the_number_of_a_session_is_adopted_from_a_hello_only() -> None:
    a, _ = two()
    a.session.begin(0)
    a.hear(message(DATA, 77, a.session.ours, 1), 0)
    assert a.ends == ["gap"]


def test_transitions_are_those_of_the_table() -> None:
    a, _ = two()
    with pytest.raises(AssertionError, match="a session that is idle does not become closing"):
        a.session.close()
    a.session.begin(0)
    assert a.session.state == OPENING
    with pytest.raises(AssertionError, match="a session that is opening does not become opening"):
        a.session.begin(0)


# Whatever the way does

steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from("ab"), st.integers(1, 400)),
        st.tuples(st.just("deliver"), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("drop"), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("double"), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("swap"), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("late"), st.sampled_from("ab"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from("ab"), st.integers(1, SILENCE)),
        st.tuples(st.just("close"), st.sampled_from("ab"), st.just(0)),
        st.tuples(st.just("restart"), st.sampled_from("ab"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=400)
@given(steps, st.integers(0, 1 << 30))
def test_nothing_is_taken_twice_or_out_of_order_and_all_come_to_rest(
    script: list[tuple[str, str, int]], seed: int
) -> None:
    draw = random.Random(seed).randrange
    ends = {"a": End(lambda: draw(1, 1 << 32)), "b": End(lambda: draw(1, 1 << 32))}
    gone: list[End] = []
    ways: dict[str, list[bytes]] = {"a": [], "b": []}  # from there
    late: list[tuple[str, bytes]] = []
    now = number = 0
    for what, who, amount in script:
        end, peer = ends[who], ends["b" if who == "a" else "a"]
        way = ways[who]
        if what == "say":
            number += 1
            end.say(b"%d:" % number + bytes(amount), now)
            end.flush(now)
        elif what == "deliver" and way:
            peer.hear(way.pop(0), now)
        elif what == "drop" and amount < len(way):
            del way[amount]
        elif what == "double" and amount < len(way):
            way.insert(amount, way[amount])
        elif what == "swap" and amount + 1 < len(way):
            way[amount], way[amount + 1] = way[amount + 1], way[amount]
        elif what == "late" and amount < len(way):
            late.append((who, way.pop(amount)))
        elif what == "wait":
            now += amount
            for each in ends.values():
                each.look(now)
        elif what == "close" and end.session.state == OPEN:
            end.session.close()
            end.flush(now)
        elif what == "restart":
            gone.append(end)
            ends[who] = End(lambda: draw(1, 1 << 32))
        for name, each in ends.items():
            ways[name] += each.out
            each.out = []
            assert each.session.sent_bytes - each.session.given_bytes <= WINDOW
    for who, message_ in late:  # what was late comes at the very end
        ends["b" if who == "a" else "a"].hear(message_, now)
    for name in ways:
        ends[name].out = ways[name] + ends[name].out
    settle(ends["a"], ends["b"], now)
    for _ in range(8):  # and after some time they agree, and talk
        now += SILENCE // 2
        for each in ends.values():
            each.look(now)
        settle(ends["a"], ends["b"], now)
    a, b = ends["a"], ends["b"]
    if a.session.state == IDLE:
        a.session.begin(now)
        a.flush(now)
        settle(a, b, now)
    assert a.session.state != OPENING
    assert b.session.state != OPENING
    assert a.pair == b.pair[::-1]
    everybody = [*ends.values(), *gone]
    sent = {session: pieces for each in everybody for session, pieces in each.sent.items()}
    taken = [(session, pieces) for each in everybody for session, pieces in each.taken.items()]
    for session, pieces in taken:
        assert pieces == sent[session][: len(pieces)], "something is missing, twice, or out of order"
    assert len({session for session, _ in taken}) == len(taken), "two have taken pieces of one session"


def test_numbers_begin_again_after_the_last() -> None:
    """A session may last for weeks."""
    a, b = opened()
    a.session.sent = b.session.received = 2**32 - 3
    first = []
    for number in range(6):
        assert a.say(bytes([number]), 1)
        first.append(a.out[-1])
        settle(a, b, 1)
    assert b.taken[a.session.ours] == [bytes([number]) for number in range(6)]
    assert a.session.sent == b.session.received == 3
    b.hear(first[1], 1)  # twice, from before the last number
    assert b.session.state == OPEN
    assert len(b.taken[a.session.ours]) == 6
    assert a.say(b"lost", 1)
    a.out.clear()
    assert a.say(b"next", 1)
    settle(a, b, 1)
    assert b.ends == ["gap"]
