from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kv_server import request

from examples.kv._request import MAX_BULK, MAX_LINE, RequestError, RequestReader, parse_integer, split_inline

requests_strategy = st.lists(
    st.lists(st.binary(max_size=40) | st.just(b"\r\n$3\r\n"), min_size=1, max_size=5), max_size=6
)


@given(requests_strategy, st.lists(st.integers(1, 30), max_size=30))
def test_requests_come_out_as_they_went_in_however_they_are_cut(requests: list[list[bytes]], cuts: list[int]) -> None:
    data = b"".join([request(*arguments) for arguments in requests])
    reader = RequestReader()
    received = []
    for cut in cuts:
        received += reader.feed(data[:cut])
        data = data[cut:]
    received += reader.feed(data)
    assert received == requests
    assert reader.error is None


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"*1\r\n", b"$4\r\n", b"PING\r\n", b"*", b"$", b"\r\n"])))
def test_noise_means_the_same_in_one_piece_and_byte_by_byte(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    whole, bytewise = RequestReader(), RequestReader()
    received = []
    for byte in data:
        received += bytewise.feed(bytes([byte]))
        if bytewise.error:
            break
    assert whole.feed(data) == received
    assert whole.error == bytewise.error


def test_a_value_in_many_pieces_is_copied_once_not_at_each() -> None:
    reader = RequestReader()
    data = request(b"SET", b"key", bytes(MAX_BULK))
    received = []
    for start in range(0, len(data), 1_000):
        received += reader.feed(data[start : start + 1_000])
    assert received == [[b"SET", b"key", bytes(MAX_BULK)]]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$%d\r\n" % (MAX_BULK + 1), "invalid bulk length"),
        (b"*2\r\n" + 2 * (b"$%d\r\n" % MAX_BULK + bytes(MAX_BULK) + b"\r\n"), "too big request"),
        (b"x" * (MAX_LINE + 1), "too big inline request"),
        (b"*" * (MAX_LINE + 1), "too big mbulk count string"),
        (b"*1\r\n" + b"$" * (MAX_LINE + 1), "too big bulk count string"),
    ],
)
def test_limits(data: bytes, error: str) -> None:
    reader = RequestReader()
    assert reader.feed(request(b"PING") + data) == [[b"PING"]]
    assert reader.error == error


def test_an_announced_length_reserves_nothing() -> None:
    reader = RequestReader()
    for _ in range(100):
        assert reader.feed(b"*1048576\r\n$8388608\r\n" if not reader._missing else b"x") == []
    assert len(reader._pending) < 200


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (b"", []),
        (b"  ", []),
        (b"PING", [b"PING"]),
        (b" SET  a\tb ", [b"SET", b"a", b"b"]),
        (b'"a b" c', [b"a b", b"c"]),
        (b"\"\\x41\\n\\q\\\"\" '\\n\\''", [b'A\nq"', b"\\n'"]),
        (b'a"b c"', [b"ab c"]),
        (b'""', [b""]),
    ],
)
def test_split_inline(line: bytes, arguments: list[bytes]) -> None:
    assert split_inline(line) == arguments


@pytest.mark.parametrize("line", [b'"', b"'a", b'"a"b', b"'a'b", b'a"', b'"\\"', b"'\\'", b"'a\\\\'"])
def test_unbalanced_quotes(line: bytes) -> None:
    with pytest.raises(RequestError, match="unbalanced quotes in request"):
        split_inline(line)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"0", 0),
        (b"-1", -1),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        *[
            (text, None)
            for text in (b"", b"-", b"+1", b"01", b"-0", b" 1", b"1 ", b"1_0", b"1.0", b"9223372036854775808")
        ],
        ("\u0661".encode(), None),
    ],
)
def test_parse_integer(text: bytes, number: int | None) -> None:
    assert parse_integer(text) == number
