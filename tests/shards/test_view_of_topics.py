"""Topics in the books, and as they are shown."""

from __future__ import annotations

import msgspec

from clockworker.shards.observe._ledger import Ledger
from clockworker.shards.observe._view import TopicView, view_topics
from clockworker.shards.protocol._reading import LoopReading, Reading
from clockworker.shards.protocol._topic_readings import MAX_TOPICS, OTHER_TOPICS, TopicReading, TopicReadings
from clockworker.shards.tools._screen import _topics


def reading(**topics: TopicReading) -> Reading:
    return msgspec.structs.replace(Reading.nothing(["q"]), loop=LoopReading(turns=1), topics=TopicReadings(topics))


def test_topics_over_shards_incarnations_and_time() -> None:
    ledger = Ledger(2)
    ledger.remember(0.0, ledger.totals([reading(a=TopicReading(10, 5, 1, 2)), reading()]))
    ledger.died(0, reading(a=TopicReading(20, 5, 1, 2), gone=TopicReading(1, 1, 1, 1)))
    totals = ledger.totals([reading(a=TopicReading(2, 1, 0, 1)), reading(a=TopicReading(8, 0, 7, 3))])
    window_s, lately = ledger.recently(2.0, totals)
    total = Reading.total(each.reading for each in totals)
    assert view_topics(total, lately, window_s) == [
        TopicView("a", 4, 10.0, 0.5, 3.5, 30, 6, 8),
        TopicView("gone", 0, 0.5, 0.5, 0.5, 1, 1, 1),
    ]
    assert view_topics(total, lately, 0.0)[0].published_per_s == 0.0


def test_names_of_many_incarnations_do_not_pile_up() -> None:
    base = TopicReadings()
    for incarnation in range(10):
        base = base.then(
            TopicReadings.of((f"{incarnation}:{number}", TopicReading(published=1)) for number in range(MAX_TOPICS))
        )
    assert len(base.values) == MAX_TOPICS + 1
    assert base.values[OTHER_TOPICS].published == 9 * MAX_TOPICS


def test_the_busiest_are_on_the_screen_whatever_their_names() -> None:
    views = [TopicView(f"room:{number}", 1, float(number), 0.0, 0.0, 1, 1, 0) for number in range(20)]
    views.append(TopicView("\x1b[2Jevil\n" + "x" * 100, 3, 1e6, 2e6, 0.5, 1, 1, 1_500))
    lines = _topics(views)
    assert len(lines) == 8
    assert lines[0].split() == ["?[2Jevil?" + "x" * 26, "3", "1.0M", "2.0M", "0.5", "1.5k"]
    assert lines[1].split()[0] == "room:19"
    assert all(line.isprintable() and len(line) <= 80 for line in lines)
