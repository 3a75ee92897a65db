"""What a server says, however its bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.cluster import _nats_protocol as protocol
from clockworker.cluster._nats_protocol import BrokenProtocol, Event, Info, Message, Parser, Pinged, Ponged, Refused

words = st.text("abcXYZ019_-", min_size=1, max_size=8)
subjects = st.lists(words, min_size=1, max_size=4).map(".".join)
messages = st.builds(
    Message,
    subjects,
    st.integers(1, 2**40),
    st.none() | subjects,
    st.just(b"") | st.binary(max_size=20).map(lambda rest: b"NATS/1.0\r\n" + rest),
    st.binary(max_size=200),
)
said = st.one_of(
    messages,
    st.sampled_from(["PING", "PONG", "+OK", "-ERR 'Stale Connection'", 'INFO {"version":"2.11.0","nonce":"x"}']),
)


def written(event: Message | str) -> bytes:
    if isinstance(event, str):
        return event.encode() + b"\r\n"
    reply = f"{event.reply} " if event.reply is not None else ""
    size = len(event.head) + len(event.body)
    sizes = f"{len(event.head)} {size}" if event.head else f"{size}"
    line = f"{'HMSG' if event.head else 'MSG'} {event.subject} {event.sid} {reply}{sizes}\r\n"
    return line.encode() + event.head + event.body + b"\r\n"


def shown(event: Event) -> object:
    return type(event) if isinstance(event, Pinged | Ponged) else event


EXPECTED: dict[str, object] = {
    "PING": Pinged,
    "PONG": Ponged,
    "-ERR 'Stale Connection'": Refused("Stale Connection"),
    'INFO {"version":"2.11.0","nonce":"x"}': Info(version="2.11.0", nonce="x"),
}


@given(st.lists(said, max_size=12), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_any_cut_gives_the_same(events: list[Message | str], sizes: list[int]) -> None:
    data = b"".join(map(written, events))
    parser = Parser()
    found: list[object] = []
    at = number = 0
    while at < len(data):
        size = sizes[number % len(sizes)]
        found += map(shown, parser.feed(data[at : at + size]))
        at, number = at + size, number + 1
    assert found == [EXPECTED[each] if isinstance(each, str) else each for each in events if each != "+OK"]
    assert not parser.is_within()
    assert [*map(shown, Parser().feed(data))] == found


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400 Bad Request"),
        (b"MSG a 1\r\n", "MSG a 1"),
        (b"MSG a x 3\r\n", "MSG a x 3"),
        (b"MSG a 1 -3\r\n", "MSG a 1 -3"),
        (b"HMSG a 1 9 3\r\n", "HMSG a 1 9 3"),
        (b"MSG a 1 99999999\r\n", "a message of 99,999,999 bytes"),
        (b"MSG a 1 3\r\nabcdef\r\n", "a message to a that is not of 3 bytes"),
        (b"INFO {]\r\n", "INFO"),
        (b"MSG \xff 1 3\r\n", "MSG"),
        (bytes(protocol.LONGEST_LINE + 1), "a line of more than 1,048,576 bytes"),
    ],
)
def test_what_no_server_says(data: bytes, why: str) -> None:
    with pytest.raises(BrokenProtocol) as error:
        Parser().feed(data)
    assert why in str(error.value)


def test_a_large_body_is_put_together_once() -> None:
    parser = Parser()
    assert parser.feed(b"MSG a 1 1000000\r\n") == []
    for _ in range(1_000):
        assert parser.feed(bytes(1_000)) == []
    assert parser.feed(b"\r\nPING\r")[0] == Message("a", 1, None, b"", bytes(1_000_000))
    assert [*map(shown, parser.feed(b"\n"))] == [Pinged]


def test_heads() -> None:
    made = protocol.publish_with_head("s", "inbox", {"Expected": "7"}, 3) + b"abc\r\n"
    assert made == b"HPUB s inbox 25 28\r\nNATS/1.0\r\nExpected: 7\r\n\r\nabc\r\n"
    head = b"NATS/1.0\r\nExpected: 7\r\nKV-Operation:DEL\r\n\r\n"
    assert protocol.lines_of(head) == {"Expected": "7", "KV-Operation": "DEL"}
    assert protocol.status_of(head) == 0
    assert protocol.status_of(b"NATS/1.0 503\r\n\r\n") == 503
    assert protocol.status_of(b"") == 0
