"""What is counted of topics: of the first ones that are used by their names, of the others together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clockworker.ipc.topics._outlet import Counts, TopicStats
from clockworker.ipc.topics._topic import Topic

MOST_COUNTED = 64  # topics whose messages are counted each by itself
OTHERS = "(others)"


class AllCounts:
    """Of one shard, by the names of its topics."""

    def __init__(self) -> None:
        self._of: dict[str, Counts] = {}

    def of(self, name: str) -> Counts:
        found = self._of.get(name)
        if found is None:
            if len(self._of) >= MOST_COUNTED:
                name = OTHERS
            found = self._of.setdefault(name, Counts())
        return found

    def stats(self, heard: Iterable[Topic[Any]]) -> dict[str, TopicStats]:
        """heard: the topics that have subscribers here."""
        subscribers: dict[str, int] = {}
        for topic in heard:
            name = topic.name if topic.name in self._of else OTHERS
            subscribers[name] = subscribers.get(name, 0) + topic.subscribers
        return {
            name: TopicStats(each.published, each.delivered, each.dropped, subscribers.get(name, 0))
            for name, each in self._of.items()
        }
