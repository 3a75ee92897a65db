from __future__ import annotations

import pytest

from clockworker import UsageError
from clockworker.shards._counter import CounterBook
from clockworker.shards._reading import MAX_COUNTERS, Counters


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
    with pytest.raises(UsageError, match="'orders' cannot go back by 2"):
        counter.add(-2)
    assert counter.value == 0


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
