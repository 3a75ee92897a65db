from __future__ import annotations

import decimal
import fractions
from typing import Any

import pytest

from clockworker import UsageError
from clockworker.shards.protocol._reading import MAX_COUNTERS, Counters
from clockworker.shards.worker._counter import CounterBook


def test_a_counter_counts() -> None:
    book = CounterBook()
    counter = book.get("orders")
    counter.add()
    counter.add(5)
    assert book.get("orders") is counter
    book.get("refunds")
    assert (counter.name, counter.value) == ("orders", 6)
    assert book.read() == Counters({"orders": 6, "refunds": 0})


def test_a_counter_does_not_go_back() -> None:
    counter = CounterBook().get("orders")
    for count in (1, 2, 2**70):
        with pytest.raises(UsageError, match=f"'orders' cannot go back by {count}"):
            counter.add(-count)
    assert counter.value == 0


class Whole:
    """A whole number of some other library."""

    def __index__(self) -> int:
        return 3


class Raises:
    def __index__(self) -> int:
        raise RuntimeError("no")

    def __lt__(self, other: object) -> bool:
        raise RuntimeError("no")


def test_whatever_is_a_whole_number_is_counted() -> None:
    counter = CounterBook().get("orders")
    for count in (Whole(), True, 2):
        counter.add(count)  # type: ignore[arg-type]
    assert counter.value == 6
    assert type(counter.value) is int


@pytest.mark.parametrize(
    "count",
    [
        0.25,
        1.0,
        float("nan"),
        decimal.Decimal("1.5"),
        decimal.Decimal(1),
        fractions.Fraction(1),
        "1",
        None,
        Raises(),
        1j,
    ],
)
def test_what_is_no_whole_number_is_refused(count: Any) -> None:
    counter = CounterBook().get("orders")
    with pytest.raises(UsageError, match=f"'orders' counts whole numbers, and not {type(count).__name__}"):
        counter.add(count)
    assert counter.value == 0


def test_a_counter_has_an_end() -> None:
    counter = CounterBook().get("orders")
    counter.add(2**63 - 2)
    for count in (2, 2**63, 2**64, 2**200):
        with pytest.raises(UsageError, match=f"'orders' is at {2**63 - 2} and cannot hold {count} more"):
            counter.add(count)
    counter.add()
    assert counter.value == 2**63 - 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no name for a counter"),
        ("9lives", "no name for a counter"),
        ("order-count", "no name for a counter"),
        ("ö", "no name for a counter"),
        ("o" * 57, "up to 56 letters"),
        ("clockworker_calls", "the server's own"),
        ("process_cpu_seconds", "the server's own"),
        ("orders_total", "name the counter 'orders'"),
    ],
)
def test_names_are_those_that_prometheus_takes(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CounterBook().get(name)


def test_there_is_an_end_to_them() -> None:
    book = CounterBook()
    for number in range(MAX_COUNTERS):
        book.get(f"c{number}")
    with pytest.raises(UsageError, match="one counter too many"):
        book.get("more")
