"""Groups of queues, as `_queues` has queues: the application declares some, operators write --queue-group [OUTER/]NAME:SHARE,
or `[[group]]` tables in the file, with queues and groups inside:

    [[group]]
    name = "tenants"
    share = 2

    [[group.queue]]
    name = "gold"
    share = 8

A queue says itself in which group it is (`QueueConfig.group`); one that nobody says more of has a share of 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clockworker._errors import ConfigurationError
from clockworker.executor import Queue, QueueGroup
from clockworker.shards.config._config import MAX_SHARE, QueueConfig, QueueGroupConfig
from clockworker.shards.config._declaration import check_group_name
from clockworker.shards.config._parse import parse_int
from clockworker.shards.config._queues import MAX_SLICE, MIN_SLICE, tables_of_queues
from clockworker.shards.config._spelling import did_you_mean

_FORM = "[OUTER/]NAME:SHARE, for example tenants:2"
_KEYS = ("name", "share", "slice", "outer", "queue", "group")


def parse_groups(texts: Sequence[str]) -> tuple[QueueGroupConfig, ...]:
    """Each [OUTER/]NAME:SHARE, for example `tenants:2`."""
    groups = []
    for text in texts:
        path, colon, share = text.partition(":")
        outer, slash, name = path.rpartition("/")
        if not name or not colon or (slash and not outer):
            raise ConfigurationError(f"{text!r} is not {_FORM}")
        check_group_name(name)
        number = parse_int(share, 1, MAX_SHARE, f"{text!r}: the share")
        groups.append(QueueGroupConfig(name, number, None, check_group_name(outer) if slash else None))
    return _each_once(groups)


def groups_of_file(value: object) -> tuple[tuple[QueueGroupConfig, ...], tuple[QueueConfig, ...]]:
    """The file's `[[group]]` tables, and the queues in them; or a list of texts as on the command line."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return parse_groups(value), ()
    groups: list[QueueGroupConfig] = []
    queues: list[QueueConfig] = []
    _read(value, "group", None, groups, queues)
    return _each_once(groups), tuple(queues)


def _read(
    value: object, where: str, outer: str | None, groups: list[QueueGroupConfig], queues: list[QueueConfig]
) -> None:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigurationError(f"{where} is {value!r}; give tables [[{where}]], each with a name")
    for table in value:
        groups.append(_table(table, where, outer))
        name = groups[-1].name
        for queue in tables_of_queues(table.get("queue", []), f"{where}.queue"):
            if queue.group not in (None, name):
                raise ConfigurationError(f"queue {queue.name!r} in group {name!r} says that it is in {queue.group!r}")
            queues.append(queue.over(QueueConfig(queue.name, group=name)))
        _read(table.get("group", []), f"{where}.group", name, groups, queues)


def _table(table: Mapping[str, Any], where: str, outer: str | None) -> QueueGroupConfig:
    name = table.get("name")
    for key in table:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            raise ConfigurationError(f"[[{where}]] {name!r}: unknown key {key!r}; {hint}a group has {', '.join(_KEYS)}")
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f'[[{where}]]: name is {name!r}; give one, for example name = "tenants"')
    check_group_name(name)
    share, slice = table.get("share"), table.get("slice")
    if share is not None and (type(share) is not int or not 1 <= share <= MAX_SHARE):
        raise ConfigurationError(f"[[{where}]] {name!r}: share is {share!r}; give a whole number from 1 to {MAX_SHARE}")
    if slice is not None and (type(slice) not in (int, float) or not MIN_SLICE <= slice <= MAX_SLICE):
        raise ConfigurationError(
            f"[[{where}]] {name!r}: slice is {slice!r}; give seconds, {MIN_SLICE:f} to {MAX_SLICE:g}"
        )
    said = table.get("outer")
    if said is not None and (not isinstance(said, str) or outer not in (None, said)):
        raise ConfigurationError(
            f"[[{where}]] {name!r}: outer is {said!r}; give the name of the group around it, or none"
        )
    return QueueGroupConfig(name, share, slice, outer if said is None else check_group_name(said))


def merge_groups(
    declared: Sequence[QueueGroupConfig], given: Sequence[QueueGroupConfig], queues: Sequence[QueueConfig]
) -> tuple[QueueGroupConfig, ...]:
    """The groups of a shard: declared ones, under what the operator says of them; and those of which nobody says more than that
    a queue is in them."""
    merged: dict[str, QueueGroupConfig] = {}
    for group in (*declared, *given):
        merged[group.name] = group.over(merged.get(group.name, group))
    for name in [*(group.outer for group in merged.values()), *(queue.group for queue in queues)]:
        if name is not None:
            merged.setdefault(name, QueueGroupConfig(name))
    return tuple(merged.values())


def put_into_groups(
    queues: Iterable[tuple[Queue, str | None]], groups: Sequence[QueueGroupConfig]
) -> list[Queue | QueueGroup]:
    """Declarations for the executor, of queues and the names of their groups. In the order of the queues, where a group has the
    place of its first. Raises `ConfigurationError` for groups that are in themselves or have no queue."""
    known = {group.name: group for group in groups}
    inside: dict[str | None, dict[str, Queue | None]] = {
        None: {}
    }  # of each group: its queues, and None for groups, by name
    for queue, name in queues:
        inside.setdefault(name, {})[f"/{queue.key}"] = queue
        around = 0
        while name is not None:
            outer = known[name].outer
            inside.setdefault(outer, {}).setdefault(name, None)
            name = outer
            around += 1
            if around > len(known):
                raise ConfigurationError(f"group {name!r} is in itself; leave out that one of the groups is in another")
    for empty in known.keys() - inside.keys():
        raise ConfigurationError(f"group {empty!r} has no queue; put one in, such as --queue {empty}/NAME:SHARE")

    def build(name: str | None) -> list[Queue | QueueGroup]:
        return [_group(known[key], build(key)) if queue is None else queue for key, queue in inside[name].items()]

    return build(None)


def _group(config: QueueGroupConfig, queues: list[Queue | QueueGroup]) -> QueueGroup:
    return QueueGroup(config.name, share=config.share or 1, queues=queues, slice=config.slice)


def _each_once(groups: list[QueueGroupConfig]) -> tuple[QueueGroupConfig, ...]:
    names = [group.name for group in groups]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"group {name!r} is given {names.count(name)} times; give each name once")
    return tuple(groups)
