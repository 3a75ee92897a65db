"""HPACK beside `hpack`'s own decoder, and what a block may not take."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hpack import Decoder, Encoder, HPACKDecodingError, HPACKError, InvalidTableSizeError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman

from clockworker.http._http2_fields_cy import FieldDecoder, unpacked

NAMES = [b":path", b":method", b"cookie", b"x-a", b"accept-encoding", b"x-" + b"long" * 40]


def verdict(decoder: Any, block: bytes) -> Any:
    """Fields, or that there are none."""
    try:
        return [tuple(field) for field in decoder.decode(block, raw=True)]
    except (HPACKError, IndexError):
        return None


def header_list(chance: random.Random) -> list[tuple[bytes, bytes]]:
    fields = []
    for _ in range(chance.randrange(12)):
        value = bytes(chance.randrange(32, 127) for _ in range(chance.choice([0, 1, 5, 30, 200])))
        fields.append((chance.choice(NAMES), chance.choice([value, b"GET", b"/", b"gzip, deflate"])))
    return fields


def test_blocks_are_read_as_hpack_reads_them() -> None:
    """Connections of many blocks: with and without Huffman's code, with tables that change their size."""
    chance = random.Random(1)
    for _ in range(60):
        encoder, theirs, ours = Encoder(), Decoder(), FieldDecoder(1_000)
        for _ in range(20):
            if chance.random() < 0.2:
                encoder.header_table_size = chance.choice([0, 64, 200, 4_096])
            fields = header_list(chance)
            block = encoder.encode(fields, huffman=chance.random() < 0.7)
            assert verdict(ours, block) == verdict(theirs, block) == fields
            assert ours.header_table.dynamic_entries == theirs.header_table.dynamic_entries


def test_what_is_no_block_is_none() -> None:
    """As `hpack` judges, for bytes that somebody has changed."""
    chance = random.Random(2)
    refused = 0
    for _ in range(3_000):
        block = bytearray(Encoder().encode(header_list(chance), huffman=chance.random() < 0.5))
        for _ in range(chance.randrange(1, 4)):
            if block:
                block[chance.randrange(len(block))] = chance.randrange(256)
        block = block[: chance.randrange(len(block) + 1)]
        if any(byte & 0xE0 == 0x20 for byte in block):
            continue  # may be a change of the table's size, of which we take no more than two
        ours, theirs = verdict(FieldDecoder(1_000), bytes(block)), verdict(Decoder(), bytes(block))
        assert ours == theirs, bytes(block)
        refused += ours is None
    assert 300 < refused < 2_700


def test_huffmans_code_is_read_as_hpack_reads_it() -> None:
    chance = random.Random(3)
    valid = 0
    for _ in range(5_000):
        text = chance.randbytes(chance.randrange(8))
        try:
            expected = decode_huffman(text) if text else b""
        except HPACKError:
            with pytest.raises(HPACKDecodingError):
                unpacked(text, 0, len(text), 1_000)
        else:
            valid += 1
            assert unpacked(text, 0, len(text), 1_000) == expected
    assert valid > 500


def test_of_a_string_no_more_is_read_than_a_block_may_have() -> None:
    zeros = bytes(1_000)  # 1,600 times the symbol of five bits, then what is no end
    assert unpacked(zeros[:10], 0, 10, 16) == b"0" * 16
    with pytest.raises(OversizedHeaderListError):
        unpacked(zeros[:10], 0, 10, 15)
    with pytest.raises(OversizedHeaderListError):
        unpacked(b"\0" * 100 + b"\xff" * 4, 0, 104, 100)  # the symbol of the end comes too late to be seen
    for begin, end, most in ((-1, 4, 9), (4, 3, 9), (0, 11, 9), (0, 4, -1)):
        with pytest.raises(ValueError, match="no part of 10 bytes"):
            unpacked(zeros[:10], begin, end, most)
    decoder = FieldDecoder(10)
    decoder.max_header_list_size = 40
    assert decoder.decode(b"\x00\x01a\x07" + b"b" * 7) == [(b"a", b"b" * 7)]
    for text in (b"\x07" + b"b" * 7, b"\x29" + b"b" * 41, b"\x9e" + bytes(30)):
        with pytest.raises(OversizedHeaderListError):
            decoder.decode(b"\x00\x02aa" + text)


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (b"\x20" * 3 + b"\x82", HPACKDecodingError),
        (b"\x82\x20", HPACKDecodingError),
        (b"\x3f\xe2\x1f", InvalidTableSizeError),
        (b"\x82" * 11, OversizedHeaderListError),
        (b"\x00\x01a\x01b" * 11, OversizedHeaderListError),
        (b"\xbe", HPACKError),
        (b"\x80", HPACKError),
        (b"\xff" * 20, HPACKDecodingError),
        (b"\x00\x05a", HPACKDecodingError),
        (b"\x00\x01a", HPACKDecodingError),
        (b"\x00\x01a\x84\xff\xff\xff\xff", HPACKDecodingError),
        (b"\x00\x01a\x81\x00", HPACKDecodingError),
    ],
    ids=[
        "many changes of the table's size",
        "such a change behind a field",
        "a larger table than ours",
        "many indexed fields",
        "many literals",
        "an index behind the table",
        "no index",
        "an endless integer",
        "a string that is cut",
        "a field that is cut",
        "the symbol of the end",
        "a symbol that is cut",
    ],
)
def test_what_a_block_may_not_have(block: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        FieldDecoder(10).decode(block)


def test_two_changes_of_the_tables_size_are_none_too_many() -> None:
    decoder = FieldDecoder(10)
    assert decoder.decode(b"\x20\x3f\xe1\x1f\x82") == [(b":method", b"GET")]
    assert decoder.header_table_size == 4_096


def test_fields_count_as_http2_counts_them() -> None:
    decoder = FieldDecoder(10)
    decoder.max_header_list_size = 2 * 34
    assert decoder.decode(b"\x00\x01a\x01b" * 2) == [(b"a", b"b")] * 2
    with pytest.raises(OversizedHeaderListError):
        decoder.decode(b"\x00\x01a\x01b" * 3)
