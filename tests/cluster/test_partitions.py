from __future__ import annotations

import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from clockworker.cluster._partitions import Draws, draw, partition_of
from clockworker.ipc.calls._owners import checksum

PARTITIONS = 1024
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
CLUSTERS = st.dictionaries(NAMES, st.integers(1, 8), min_size=1, max_size=6)
draws = Draws(PARTITIONS)


@given(st.binary(), st.integers(16, 65_536))
def test_a_partition_is_one_of_them(key: bytes, partitions: int) -> None:
    assert partition_of(checksum(key), partitions) == zlib.crc32(key) * partitions >> 32
    assert 0 <= partition_of(0xFFFFFFFF, partitions) < partitions


@settings(max_examples=30)
@given(CLUSTERS)
def test_everybody_has_the_same_table(shards: dict[str, int]) -> None:
    backwards = dict(reversed(shards.items()))
    assert draws.owners(shards) == Draws(PARTITIONS).owners(backwards)


@settings(max_examples=50)
@given(CLUSTERS, NAMES, st.integers(1, 8))
def test_who_joins_takes_from_others_and_nothing_else_moves(shards: dict[str, int], name: str, count: int) -> None:
    without = {node: each for node, each in shards.items() if node != name}
    before, after = draws.owners(without), draws.owners({**without, name: count})
    assert [owner for owner, old in zip(after, before or after, strict=True) if owner not in (old, name)] == []


def test_parts_are_as_large_as_the_shards() -> None:
    owners = Draws(4096).owners({"a": 4, "b": 4, "c": 8})
    part = {name: owners.count(name) / 4096 for name in "abc"}
    assert abs(part["c"] - 0.5) < 0.03
    assert abs(part["a"] - 0.25) < 0.03


def test_of_nobody_there_is_no_table() -> None:
    assert Draws(64).owners({}) == []


def test_the_numbers_are_those_of_every_version() -> None:
    """They are part of the protocol: nodes of two versions would disagree on owners."""
    assert list(draw("n1", 2, 16)[:2]) == NUMBERS


NUMBERS = [15529425603072025493, 16722347982216443119]
