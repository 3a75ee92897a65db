"""Groups of queues while they run: `executor.queue_group(key)`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from clockworker.executor._core_cy import Core
from clockworker.executor._nested_cy import Level, Nested
from clockworker.executor._queue import Queue, QueueGroup, check_share, queues_in
from clockworker.executor._stats import QueueGroupStats
from clockworker.executor._tasks_cy import QueueState


class QueueGroupHandle:
    """A group of queues: its share, and what it has had. Made by the executor: `executor.queue_group(key)`."""

    def __init__(
        self, core: Core, nested: Nested, level: Level, declared: QueueGroup, outer: QueueGroupHandle | None
    ) -> None:
        self._core = core
        self._outer = outer
        self._nested = nested
        self._level = level
        self._inside = tuple(queue.key for queue in queues_in([declared]))
        # Groups as handles, queues by their keys: those that stand beside it, itself among them, and those in it.
        self._beside: Sequence[QueueGroupHandle | Hashable] = ()
        self._members: Sequence[QueueGroupHandle | Hashable] = ()

    @property
    def key(self) -> Hashable:
        """The group's key."""
        return self._level.key

    @property
    def share(self) -> int:
        """The group's share beside what stands outside. Set, it takes effect at the next step; what the group is owed stays."""
        return self._entity.share  # type: ignore[no-any-return]

    @share.setter
    def share(self, share: int) -> None:
        check_share(f"group of queues {self.key!r}", share)
        self._core.check_thread("setting the share")
        self._nested.set_group_share(self._level, share)

    @property
    def lag_ns(self) -> int:
        """What the group is owed, in nanoseconds of its own running; negative if it owes."""
        return self._nested.group_lag_ns(self._level)

    @property
    def _entity(self) -> Any:
        return self._level.entity

    def stats(self) -> QueueGroupStats:
        """Counters and gauges of its queues together."""
        queues = self._queues()
        busy_ns = sum(queue.busy_ns for queue in queues)
        busy_beside = 0
        for each in self._beside:
            for queue in each._queues() if isinstance(each, QueueGroupHandle) else [self._core.queues[each]]:
                busy_beside += queue.busy_ns
        return QueueGroupStats(
            key=self.key,
            share=self.share,
            queues=self._inside,
            outer=None if self._outer is None else self._outer.key,
            wanted=self.share / _shares(self._core, self._beside),
            got=busy_ns / busy_beside if busy_beside else 0.0,
            runnable=sum(queue.runnable for queue in queues),
            tasks=sum(queue.live for queue in queues),
            polls=sum(queue.polls for queue in queues),
            busy_ns=busy_ns,
            stolen_ns=sum(queue.stolen_ns for queue in queues),
        )

    def _queues(self) -> list[QueueState]:
        return [self._core.queues[key] for key in self._inside]

    def __repr__(self) -> str:
        return f"<QueueGroup {self.key!r} share={self.share} of {', '.join(map(repr, self._inside))}>"


class Standing:
    """Where each queue and group stands, and beside whom. Empty, and not asked, where there are no groups."""

    def __init__(self) -> None:
        self.groups: dict[Hashable, QueueGroupHandle] = {}
        self._top: Sequence[QueueGroupHandle | Hashable] = ()
        self._beside: dict[Hashable, Sequence[QueueGroupHandle | Hashable]] = {}  # by the key of a queue
        self._outer: dict[Hashable, QueueGroupHandle] = {}

    def add_all(
        self,
        core: Core,
        nested: Nested,
        declared: Iterable[Queue | QueueGroup],
        default_slice: float,
        add: Callable[[Queue], None],
        outer: QueueGroupHandle | None = None,
    ) -> None:
        """Add all that is declared to a core that has no queue yet. add: adds one queue."""
        beside: list[QueueGroupHandle | Hashable] = []
        if outer is None:
            self._top = beside
        else:
            outer._members = beside
        for each in declared:
            if isinstance(each, QueueGroup):
                level = nested.begin_group(each.key, each.share, round(1e9 * _slice_of(each, default_slice)))
                group = self.groups[each.key] = QueueGroupHandle(core, nested, level, each, outer)
                group._beside = beside
                beside.append(group)
                self.add_all(core, nested, each.queues, default_slice, add, group)
                nested.end_group()
            else:
                add(each)
                beside.append(each.key)
                self._beside[each.key] = beside
                if outer is not None:
                    self._outer[each.key] = outer

    def parts(self, core: Core) -> dict[Hashable, float]:
        """What the share of each queue is worth while all are busy, of the core."""
        parts: dict[Hashable, float] = {}

        def divide(part: float, beside: Sequence[QueueGroupHandle | Hashable]) -> None:
            shares = _shares(core, beside)
            for each in beside:
                if isinstance(each, QueueGroupHandle):
                    divide(part * each.share / shares, each._members)
                else:
                    parts[each] = part * core.queues[each].entity.share / shares

        divide(1.0, self._top if self.groups else list(core.queues))
        return parts

    def others(self, core: Core, key: Hashable) -> tuple[int, float]:
        """The shares of those beside a queue, together, and the part of the core that they and the queue have at least."""
        own = core.queues[key].entity.share
        if not self.groups:
            return sum(queue.entity.share for queue in core.queues.values()) - own, 1.0
        part = 1.0
        group = self._outer.get(key)
        while group is not None:
            part *= group.share / _shares(core, group._beside)
            group = group._outer
        return _shares(core, self._beside[key]) - own, part


def _shares(core: Core, beside: Sequence[QueueGroupHandle | Hashable]) -> int:
    return sum(each.share if isinstance(each, QueueGroupHandle) else core.queues[each].entity.share for each in beside)


def _slice_of(group: QueueGroup, default_slice: float) -> float:
    """Seconds: its own, or that of its queue which wants the core soonest."""
    if group.slice is not None:
        return group.slice
    return min(default_slice if queue.slice is None else queue.slice for queue in queues_in([group]))
