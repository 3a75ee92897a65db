from __future__ import annotations

import random

import pytest

from examples.kv._scan_index import BUCKETS, ScanIndex


def scan_all(index: ScanIndex, count: int) -> list[bytes]:
    bucket, found = index.scan(0, count)
    while bucket:
        bucket, keys = index.scan(bucket, count)
        found += keys
    return found


@pytest.mark.parametrize("count", [1, 10, 10**9])
def test_a_scan_returns_each_key_once(count: int) -> None:
    index = ScanIndex()
    keys = [b"key:%d" % number for number in range(5_000)]
    for key in keys:
        index.add(key)
    assert sorted(scan_all(index, count)) == sorted(keys)


def test_keys_that_stay_are_returned_once_whatever_comes_and_goes() -> None:
    rng = random.Random(1)
    index = ScanIndex()
    staying = {b"stay:%d" % number for number in range(1_000)}
    passing = {b"pass:%d" % number for number in range(1_000)}
    for key in staying | passing:
        index.add(key)
    bucket, found = index.scan(0, 10)
    while bucket:
        for _ in range(50):
            key = b"pass:%d" % rng.randrange(5_000)
            if key in passing:
                passing.remove(key)
                index.remove(key)
            else:
                passing.add(key)
                index.add(key)
        bucket, keys = index.scan(bucket, 10)
        found += keys
    assert sorted(key for key in found if key in staying) == sorted(staying)
    assert len(found) == len(set(found))


def test_a_step_ends_early_when_the_keys_are_long() -> None:
    index = ScanIndex()
    for number in range(100):
        index.add(b"%d" % number + bytes(200_000))
    bucket, keys = index.scan(0, 10**9)
    assert 0 < bucket < BUCKETS
    assert len(keys) < 20


def test_keys_of_one_shard_spread_over_the_buckets() -> None:
    """A shard owns keys by their hash too; the buckets must not depend on the same bits of it."""
    from zlib import crc32

    index = ScanIndex()
    for number in range(20_000):
        key = b"key:%d" % number
        if crc32(key) * 8 >> 32 == 3:
            index.add(key)
    assert max(len(index.scan(bucket, 1)[1]) for bucket in range(BUCKETS)) < 12
