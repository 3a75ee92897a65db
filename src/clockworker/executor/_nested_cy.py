# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False, nonecheck=True
"""Groups of queues: EEVDF at each level.

A group has a share beside queues and other groups, and divides what it gets between its own: a tenant's queues among
themselves, whatever other tenants do. Linux's cgroups do that with tasks (`fair_group_sched`), and Seastar with scheduling
supergroups; hierarchical packet fair queueing is the theory (Bennett and Zhang, Hierarchical Packet Fair Queueing Algorithms,
1996).

Each level is an `Eevdf` of its own, with a virtual time of its own. To the level above a group is one `Entity`, active as long
as any of its queues is, and charged for all of their steps. A choice goes down from the top: the entity that should run, and if
that is a group, the one in it that should. So at each level the bound of EEVDF holds, one slice and one step, of the service
that the level has had.

Who outranks whom is asked where the two meet: on the lowest level that both are in, of the entities there that stand for them.

There is no `Nested` where there are no groups: the core has a plain `Eevdf` then, and what a step does is the same as ever.
Both are a `Choice`. The stints of an `Eevdf` are its own: to the core a nested choice has none, and is asked before each step.

Rejected: one level, with the shares of the queues made of those of their groups. A queue that sleeps would leave its part to
all instead of to its group.
"""

from __future__ import annotations

from collections.abc import Hashable

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._eevdf_cy import Choice, Eevdf, Entity


@cython.final
@cython.cclass
class Level:
    """A group, or all that there is. It is the `item` of its entity on the level above, and the `level` of those in it."""

    key: Hashable
    outer: Level | None
    entity: Entity | None  # None: of all
    eevdf: Eevdf

    def __init__(self, key: Hashable, outer: Level | None, granularity_ns: int) -> None:
        self.key = key
        self.outer = outer
        self.entity = None
        self.eevdf = Eevdf(granularity_ns)


@cython.final
@cython.cclass
class Nested(Choice):
    """The choice between queues that are in groups. `total_share` is the sum over the queues that are active; 0: none is."""

    _root: Level
    _open: Level  # to which queues are added
    _granularity_ns: int

    def __init__(self, granularity_ns: int = 0) -> None:
        self.total_share = 0
        self.asleep = 0
        self.stint_ns = 0
        self.uncharged_ns = 0
        self._granularity_ns = granularity_ns
        self._root = Level(None, None, granularity_ns)
        self._open = self._root

    def begin_group(self, key: Hashable, share: int, slice_ns: int) -> Level:
        """Queues and groups that are added from here on are in this one, until `end_group`."""
        level = Level(key, self._open, self._granularity_ns)
        level.entity = self._open.eevdf.add(level, share, slice_ns)
        level.entity.level = self._open
        self._open = level
        return level

    def end_group(self) -> None:
        """The group is complete."""
        if self._open.outer is not None:
            self._open = self._open.outer

    def set_group_share(self, group: Level, share: int) -> None:
        """As `set_share`, of a group."""
        group.outer.eevdf.set_share(group.entity, share)  # type: ignore[union-attr, arg-type]

    def group_lag_ns(self, group: Level) -> int:
        """As `lag_ns`, of a group."""
        return group.outer.eevdf.lag_ns(group.entity)  # type: ignore[union-attr, arg-type]

    def add(self, item: object, share: int, slice_ns: int) -> Entity:
        entity = self._open.eevdf.add(item, share, slice_ns)
        entity.level = self._open
        self.asleep += 1
        return entity

    def lag_ns(self, entity: Entity) -> int:
        level: Level = entity.level  # type: ignore[assignment]
        return level.eevdf.lag_ns(entity)

    def activate(self, entity: Entity) -> None:
        self.asleep -= 1
        self.total_share += entity.share
        while True:
            level: Level = entity.level  # type: ignore[assignment]
            level.eevdf.activate(entity)
            if level.entity is None or level.entity.active:
                break
            entity = level.entity

    def deactivate(self, entity: Entity) -> None:
        self.asleep += 1
        self.total_share -= entity.share
        while True:
            level: Level = entity.level  # type: ignore[assignment]
            level.eevdf.deactivate(entity)
            if level.entity is None or level.eevdf.total_share:
                break
            entity = level.entity

    def charge(self, entity: Entity, elapsed_ns: int) -> None:
        each: Entity | None = entity
        while each is not None:
            level: Level = each.level  # type: ignore[assignment]
            level.eevdf.charge(each, elapsed_ns)
            each = level.entity

    def pick(self) -> Entity | None:
        level = self._root
        while True:
            entity = level.eevdf.pick()
            if entity is None or not isinstance(entity.item, Level):
                return entity
            level = entity.item

    def set_share(self, entity: Entity, share: int) -> None:
        level: Level = entity.level  # type: ignore[assignment]
        if entity.active:
            self.total_share += share - entity.share
        level.eevdf.set_share(entity, share)

    def outranks(self, woken: Entity, running: Entity) -> bool:
        one: Entity | None = woken
        while one is not None:
            other: Entity | None = running
            while other is not None:
                if one.level is other.level:
                    return one.eligible and one.deadline < other.deadline
                other = entity_around(other)
            one = entity_around(one)
        return False

    def stays(self, entity: Entity, elapsed_ns: int) -> bool:
        each: Entity | None = entity
        while each is not None:
            level: Level = each.level  # type: ignore[assignment]
            if not level.eevdf.stays(each, elapsed_ns):
                return False
            each = level.entity
        return True


def entity_around(entity: Entity) -> Entity | None:
    """That of the group in which it is; None on the first level."""
    level: Level = entity.level  # type: ignore[assignment]
    return level.entity
