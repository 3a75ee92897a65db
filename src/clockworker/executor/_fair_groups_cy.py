# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""FairGroups: the groups of a queue divide its time in proportion to shares.

What EEVDF (`_eevdf_cy`) is between the queues of an executor, it is here between the groups of one queue: tenants, clients,
kinds of work. Whoever has something to run has its part, whatever the others do, within one slice and one step; what a group
does not use is for the others; and one that comes, or comes back, has its part from then on, without a debt or a credit from
before. That is the difference to LAS, under which a group that has had much waits until all others have had as much.

Within a group tasks go in the order in which they became runnable.

*When a group is charged.* Between its `pop` and its `observe` a step may make the group runnable again, or leave it with
nothing. So a group stays active from its pop until it was charged, and only then leaves if it has nothing. A pop that is never
observed (the task has moved to another queue) leaves an active group without tasks, which the next pop puts to rest.

*Shares* come from the application, as a mapping or a function, and may be other at any time. They are asked for when the group
becomes runnable and when it has used up a slice: a group that is always runnable is asked about once a millisecond of its own
running at most, and not at each step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import ConfigurationError
from clockworker.executor._eevdf_cy import MAX_SHARE, Eevdf, Entity
from clockworker.executor._schedulers_cy import ScheduledTask, Scheduler, owner_of

_SLICE_NS = 1_000_000  # of a group: what it may have before another with an equal claim
# Of one step, as an account takes it: 20 hours. What is longer was never measured, and would leave 64 bits.
_LONGEST_NS = 1 << 46


@cython.cclass
class FairGroup:
    """The tasks that share one claim."""

    key: Hashable
    entity: Entity
    runnable: deque[ScheduledTask]
    complained: bool  # of its share, once

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.runnable = deque()
        self.complained = False


class FairGroups(Scheduler):
    """Each group has its part of the queue's time, in proportion to its share.

    shares: by the group's key, in a mapping or by a function; whole numbers from 1 to 10,000, 1 for a group that is not there
        or for which the function returns None. They may change at any time: what the mapping or the function says holds from
        the next millisecond of the group's running on, or its next wake-up; a new one that is assigned to `shares` holds at
        once. A wrong share counts as 1, and is reported once a group to the loop's exception handler.

    A task without a group is a group of its own, with a share of 1.

    Raises ConfigurationError for shares that are neither a mapping nor a function.
    """

    _eevdf: Eevdf
    _groups: dict[Hashable, FairGroup]
    _count: int
    _shares: Mapping[Any, int] | Callable[[Any], int | None] | None

    def __init__(self, shares: Mapping[Any, int] | Callable[[Any], int | None] | None = None) -> None:
        self._eevdf = Eevdf()
        self._groups = {}
        self._count = 0
        self._shares = checked_shares(shares)

    @property
    def shares(self) -> Any:
        """The mapping or the function; None: all groups have a share of 1."""
        return self._shares

    @shares.setter
    def shares(self, shares: Any) -> None:
        self._shares = checked_shares(shares)
        self._renew_all()

    def push(self, task: ScheduledTask) -> None:
        group = self._group_of(task)
        group.runnable.append(task)
        self._count += 1
        if not group.entity.active:
            self._wake(group)

    def pop(self) -> ScheduledTask:
        if self._count == 0:
            raise IndexError("pop from an empty scheduler")
        while True:
            entity = self._eevdf.pick()
            if entity is None:
                if self._holds:  # as FairFifo does
                    return None  # type: ignore[return-value]
                raise IndexError("what was pushed is held by another scheduler")
            group: FairGroup = entity.item  # type: ignore[assignment]
            if self._has(group):
                self._count -= 1
                return self._next(group)
            self._eevdf.deactivate(entity)

    def observe(self, task: ScheduledTask, elapsed_ns: int) -> None:
        self._account(self._group_of(task), elapsed_ns)

    def forget_task(self, task: ScheduledTask) -> None:
        if task.slot is not None:
            group = self._group_of(task)
            task.slot = None
            self._rest(group)

    def forget_group(self, group: Hashable) -> None:
        forgotten = self._groups.pop(group, None)
        if forgotten is not None:
            self._rest(forgotten)

    def __len__(self) -> int:
        return self._count

    def _group_of(self, task: ScheduledTask) -> FairGroup:
        # Looked up once a task: from then on the task's slot knows.
        if task.slot is None:
            task.slot = self._new_group(None) if task.group is None else self._group(task.group)
        return task.slot  # type: ignore[return-value]

    def _group(self, key: Hashable) -> FairGroup:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = self._new_group(key)
        return group

    def _new_group(self, key: Hashable) -> FairGroup:
        group = FairGroup(key)
        group.entity = self._eevdf.add(group, 1, _SLICE_NS)
        return group

    def _wake(self, group: FairGroup) -> None:
        self._renew(group)
        self._eevdf.activate(group.entity)

    def _rest(self, group: FairGroup) -> None:
        """If it has nothing to run."""
        if group.entity.active and not self._has(group):
            self._eevdf.deactivate(group.entity)

    def _account(self, group: FairGroup, elapsed_ns: int) -> None:
        entity = group.entity
        if not entity.active:  # put to rest by a pop that came before
            self._eevdf.activate(entity)
        deadline = entity.deadline
        self._eevdf.charge(entity, max(0, min(elapsed_ns, _LONGEST_NS)))
        if entity.deadline != deadline and self._shares is not None:
            self._renew(group)
        self._rest(group)

    def _has(self, group: FairGroup) -> bool:
        """Whether it has a task that may run."""
        return len(group.runnable) != 0

    def _next(self, group: FairGroup) -> ScheduledTask:
        """Its next task."""
        return group.runnable.popleft()

    def _renew_all(self) -> None:
        for group in list(self._groups.values()):
            group.complained = False
            self._renew(group)

    def _renew(self, group: FairGroup) -> None:
        """Its share, as it is now."""
        share = 1
        if self._shares is not None and group.key is not None:
            try:
                share = share_in(self._shares, group.key)
            except BaseException as error:
                owner = owner_of(self)
                if owner is None:
                    raise
                if not group.complained:
                    group.complained = True
                    owner.report("the share of a group could not be found, and counts as 1", error)
        if share != group.entity.share:
            self._eevdf.set_share(group.entity, share)


def share_in(shares: Any, key: Hashable) -> int:
    """What a mapping or a function says of a group. Raises what that raises, and ConfigurationError for what is no share."""
    share = shares(key) if callable(shares) else shares.get(key)
    if share is None:
        return 1
    return check_group_share(key, share)


def check_group_share(key: Hashable, share: object) -> int:
    """Raises `ConfigurationError` for what is none."""
    if type(share) is not int or not 1 <= share <= MAX_SHARE:
        raise ConfigurationError(
            f"share of group {key!r} is {share!r}; it must be a whole number from 1 to {MAX_SHARE:,}"
        )
    return share


def checked_shares(shares: Any) -> Any:
    """Raises ConfigurationError for what is neither a mapping of shares nor callable."""
    if shares is not None and not callable(shares):
        if not isinstance(shares, Mapping):
            raise ConfigurationError(
                f"shares is {shares!r}; give a mapping such as {{'gold': 8}}, or a function from a group's key to its share"
            )
        for key, share in shares.items():
            check_group_share(key, share)
    return shares
