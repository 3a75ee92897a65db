"""Histograms: where a duration is counted, and that they add up."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from clockworker import DurationStats
from clockworker.executor._histogram_cy import BUCKETS, Histogram, bucket_bound_ns

durations = st.one_of(st.integers(0, 300), st.integers(0, 2**37 - 1))


def stats_of(values: list[int]) -> DurationStats:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return DurationStats.of(histogram)


@given(durations)
def test_a_duration_is_in_the_bucket_whose_bounds_enclose_it(duration: int) -> None:
    stats = stats_of([duration])
    bucket = len(stats.buckets) - 1
    assert stats.buckets[bucket] == 1
    assert (bucket_bound_ns(bucket - 1) if bucket else -1) < duration <= bucket_bound_ns(bucket)
    # At most an eighth wide.
    assert bucket_bound_ns(bucket) <= duration * 9 / 8


def test_the_bounds_of_all_buckets_ascend() -> None:
    bounds = [bucket_bound_ns(bucket) for bucket in range(BUCKETS)]
    assert bounds == sorted(set(bounds))
    assert bounds[-1] == 2**37 - 1


def test_what_is_too_long_is_in_the_last_bucket_and_what_is_negative_in_the_first() -> None:
    stats = stats_of([2**37 - 1, 2**37, 2**62, -5])
    assert len(stats.buckets) == BUCKETS
    assert (stats.buckets[0], stats.buckets[-1]) == (1, 3)
    assert stats.max_ns == stats.quantile_ns(0.9) == 2**62
    assert stats_of([2**62, 2**62]).since(stats_of([2**62])).max_ns == 2**62


@given(st.lists(durations, max_size=30), st.lists(durations, max_size=30))
def test_parts_add_up_to_the_whole(first: list[int], second: list[int]) -> None:
    assert DurationStats.sum([stats_of(first), stats_of(second)]) == stats_of(first + second)
    assert DurationStats.sum([]) == DurationStats()


@given(st.lists(durations, max_size=30), st.lists(durations, max_size=30))
def test_the_difference_to_an_earlier_reading_is_what_came_since(first: list[int], second: list[int]) -> None:
    since = stats_of(first + second).since(stats_of(first))
    expected = stats_of(second)
    assert (since.buckets, since.total_ns, since.count) == (expected.buckets, expected.total_ns, len(second))
    assert expected.max_ns <= since.max_ns <= expected.max_ns * 9 / 8


def test_quantiles_are_at_most_an_eighth_too_high() -> None:
    values = sorted(random.Random(1).choices(range(10**9), k=1000))
    stats = stats_of(values)
    for fraction in (0.5, 0.9, 0.99, 0.999):
        exact = values[round(fraction * 1000) - 1]
        assert exact <= stats.quantile_ns(fraction) <= exact * 9 / 8
    assert stats.quantile_ns(1) == values[-1] == stats.max_ns
    assert DurationStats().quantile_ns(0.99) == 0
