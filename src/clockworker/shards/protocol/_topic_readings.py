"""What is known of a shard's topics, as a part of its reading. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from clockworker.shards.protocol._figures import Family, Section, counter, gauge

MAX_TOPICS = 64
TOPIC_BYTES = 128  # of a topic's name; a longer one is cut
OTHER_TOPICS = "(others)"  # the name of topics beyond the first 64

_MESSAGES = Family(
    "topic_messages",
    "Messages of topics: published here; delivered to subscribers here; dropped: not got by a subscriber here whose queue was "
    "full, or by a shard that was too slow or died.",
    "what",
)


class TopicReading(Section, frozen=True):
    """The messages of one topic. subscribers: now."""

    published: Annotated[int, counter(_MESSAGES, "published")] = 0
    delivered: Annotated[int, counter(_MESSAGES, "delivered")] = 0
    dropped: Annotated[int, counter(_MESSAGES, "dropped")] = 0
    subscribers: Annotated[int, gauge("topic_subscribers", "Subscribers of topics.")] = 0


class TopicReadings(msgspec.Struct, frozen=True):
    """By topic. At most `MAX_TOPICS` have names; those beyond are `OTHER_TOPICS`."""

    values: dict[str, TopicReading] = {}

    @classmethod
    def of(cls, rows: Iterable[tuple[str, TopicReading]]) -> TopicReadings:
        """Those of one name are added up."""
        found: dict[str, list[TopicReading]] = {}
        for name, reading in rows:
            if name not in found and name != OTHER_TOPICS and len(found) - (OTHER_TOPICS in found) >= MAX_TOPICS:
                name = OTHER_TOPICS
            found.setdefault(name, []).append(reading)
        return cls({name: TopicReading.total(each) if len(each) > 1 else each[0] for name, each in found.items()})

    def then(self, later: TopicReadings) -> TopicReadings:
        """A topic that the later incarnation has not used keeps what it has counted."""
        if not self.values:
            return later
        names = dict.fromkeys((*later.values, *self.values))
        return TopicReadings.of(
            (name, self.values.get(name, _NO_TOPIC).then(later.values.get(name, _NO_TOPIC))) for name in names
        )

    def since(self, earlier: TopicReadings) -> TopicReadings:
        """A topic that was not named before has done it all since."""
        return TopicReadings(
            {name: now.since(earlier.values.get(name, _NO_TOPIC)) for name, now in self.values.items()}
        )

    @classmethod
    def total(cls, parts: Iterable[TopicReadings]) -> TopicReadings:
        return cls.of(row for part in parts for row in part.values.items())


_NO_TOPIC = TopicReading()
