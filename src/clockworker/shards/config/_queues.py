"""The queues of all shards. The application declares those that it names; operators write
[GROUP/]NAME:SHARE[:SCHEDULER][:preemptive] on the command line, or tables in the file. By its name a queue is one and the same
to both: what the operator says of it goes before what the application does, what he does not say stays as declared, and a name
that is not declared is one queue more. So `--queue background:1` alone takes no queue away that the application needs.

Every shard has the same ones but for changes: a queue that one shard has beside the others, or has with another share or
scheduler. A change says only what differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.executor._queue import LONGEST_SLICE, SHORTEST_SLICE
from clockworker.shards.config._config import MAX_SHARDS, MAX_SHARE, PREEMPTIVE, OnPanic, QueueConfig
from clockworker.shards.config._declaration import check_group_name, check_name
from clockworker.shards.config._parse import parse_int
from clockworker.shards.config._schedulers import check_scheduler
from clockworker.shards.config._spelling import did_you_mean

MIN_SLICE, MAX_SLICE = 1e-6, 10.0  # seconds; the executor's limits

# Of the shards of an application that declares none, where the operator says nothing either.
DEFAULT = QueueConfig("default")

_KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "name": ((str,), "a string"),
    "share": ((int,), f"a whole number from 1 to {MAX_SHARE}"),
    "scheduler": ((str,), 'a string such as "las"'),
    "slice": ((float, int), f"seconds, {MIN_SLICE:f} to {MAX_SLICE:g}"),
    "on_panic": ((str,), '"catch" or "propagate"'),
    "slow_poll": ((float, int), "seconds from 0"),
    "preemptive": ((bool,), "true or false"),
    "group": ((str,), "the name of a group of queues"),
}

_FORM = "[GROUP/]NAME:SHARE[:SCHEDULER][:preemptive]"


class QueueChange(msgspec.Struct, frozen=True):
    """What is to be other of a shard's queue than of that of all shards."""

    shard: int
    queue: QueueConfig


def parse_queue(text: str) -> QueueConfig:
    """[GROUP/]NAME:SHARE[:SCHEDULER][:preemptive], for example `foreground:8:las`."""
    name, given = _split(text, text, f"{_FORM}, for example foreground:8:las")
    return QueueConfig(name, **given)


def parse_queues(texts: Sequence[str]) -> tuple[QueueConfig, ...]:
    return each_once([parse_queue(text) for text in texts])


def parse_shard_queues(texts: Sequence[str]) -> tuple[QueueChange, ...]:
    """Each SHARD:NAME:SHARE[:SCHEDULER][:preemptive], for example `0:compaction:2:las`."""
    changes = []
    for text in texts:
        shard, _, queue = text.partition(":")
        name, given = _split(queue, text, f"SHARD:{_FORM}, for example 0:compaction:2:las")
        number = parse_int(shard, 0, MAX_SHARDS - 1, f"{text!r}: the shard")
        changes.append(QueueChange(number, QueueConfig(name, **given)))
    return _each_change_once(changes)


def queues_of_file(value: object) -> tuple[QueueConfig, ...]:
    """The file's `[[queue]]` tables, or a list of texts as on the command line, or of both."""
    if not isinstance(value, list):
        raise ConfigurationError(f"queue is {value!r}; give tables [[queue]], each with a name")
    return each_once([parse_queue(item) if isinstance(item, str) else _queue_of_table(item) for item in value])


def _queue_of_table(item: object) -> QueueConfig:
    ((name, given),) = _tables([item], "queue")
    return QueueConfig(name, **given)


def tables_of_queues(value: object, where: str) -> list[QueueConfig]:
    """Those of `[[group.queue]]`."""
    return [QueueConfig(name, **given) for name, given in _tables(value, where)]


def changes_of_file(value: object) -> tuple[QueueChange, ...]:
    """The file's `[shard.N]` tables."""
    changes: list[QueueChange] = []
    if not isinstance(value, dict):
        raise ConfigurationError(f"shard is {value!r}; give tables [shard.0], [shard.1] and so on")
    for number, table in value.items():
        shard = parse_int(number, 0, MAX_SHARDS - 1, f"[shard.{number}]: the shard")
        where = f"shard.{number}"
        if not isinstance(table, dict):
            raise ConfigurationError(f"{where} is {table!r}; give a table [{where}]")
        for key in table.keys() - {"queue"}:
            raise ConfigurationError(f"[{where}]: unknown key {key!r}; a shard's own can only be `queue`")
        tables = _tables(table.get("queue", []), f"{where}.queue")
        changes += [QueueChange(shard, QueueConfig(name, **given)) for name, given in tables]
    return _each_change_once(changes)


def by_shard(changes: Sequence[QueueChange]) -> dict[int, tuple[QueueConfig, ...]]:
    """The changes of each shard that has some."""
    of: dict[int, tuple[QueueConfig, ...]] = {}
    for change in changes:
        of[change.shard] = (*of.get(change.shard, ()), change.queue)
    return of


def merge(
    declared: Sequence[QueueConfig], given: Sequence[QueueConfig], changes: Sequence[QueueConfig] = ()
) -> tuple[QueueConfig, ...]:
    """The queues of a shard: those that the application declares, what the operator says of the queues of all shards over them,
    and what he says of this shard's over that. In the order of their first mention, so that a declared one comes first."""
    merged: dict[str, QueueConfig] = {}
    for queue in [*([*declared, *given] or [DEFAULT]), *changes]:
        merged[queue.name] = queue.over(merged.get(queue.name, queue))
    return tuple(merged.values())


def _split(text: str, whole: str, form: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    before, _, last = rest.rpartition(":")
    is_preemptive = bool(before) and last == PREEMPTIVE  # also after MODULE:CLASS
    share, colon, scheduler = (before if is_preemptive else rest).partition(":")  # MODULE:CLASS has one, too
    if not name or not rest or (colon and not scheduler) or scheduler.startswith(f"{PREEMPTIVE}:"):
        raise ConfigurationError(f"{whole!r} is not {form}")
    given: dict[str, Any] = {}
    if "/" in name:
        given["group"], _, name = name.rpartition("/")
        check_group_name(given["group"])
    check_name(name)
    given |= {"share": parse_int(share, 1, MAX_SHARE, f"{whole!r}: the share")}
    if is_preemptive:
        given["preemptive"] = True
    if colon:
        try:
            given["scheduler"] = check_scheduler(scheduler)
        except ConfigurationError as error:
            raise ConfigurationError(f"{whole!r}: {error}") from None
    return name, given


def _tables(value: object, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and given fields of each [[queue]]."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConfigurationError(f"{where} is {value!r}; give tables [[{where}]], each with a name")
    return [_table(item, where) for item in value]


def _table(table: Mapping[str, object], where: str) -> tuple[str, dict[str, Any]]:
    name = table.get("name")
    where = f"[[{where}]] {name!r}" if isinstance(name, str) else f"[[{where}]]"
    for key, value in table.items():
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            raise ConfigurationError(f"{where}: unknown key {key!r}; {hint}a queue has {', '.join(_KEYS)}")
        types, right = _KEYS[key]
        if type(value) not in types or not _in_range(key, value):
            raise ConfigurationError(f"{where}: {key} is {value!r}; give {right}")
    if not name:
        raise ConfigurationError(f'{where}: there is no name; give one, for example name = "foreground"')
    check_name(str(name))
    given = {key: value for key, value in table.items() if key != "name"}
    if "group" in given:
        check_group_name(str(given["group"]))
    if given.get("preemptive") and not SHORTEST_SLICE <= given.get("slice", SHORTEST_SLICE) <= LONGEST_SLICE:  # type: ignore[operator]
        right = f"of a preemptive queue {SHORTEST_SLICE:g} to {LONGEST_SLICE:g} seconds"
        raise ConfigurationError(f"{where}: slice is {given['slice']!r}; give {right}")
    if "scheduler" in given:
        try:
            check_scheduler(str(given["scheduler"]))
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    return str(name), given


def _in_range(key: str, value: object) -> bool:
    match key, value:
        case "share", int():
            return 1 <= value <= MAX_SHARE
        case "slice", int() | float():
            return MIN_SLICE <= value <= MAX_SLICE
        case "slow_poll", int() | float():
            return 0 <= value < math.inf
        case "on_panic", _:
            return value in get_args(OnPanic)
    return True


def each_once(queues: list[QueueConfig]) -> tuple[QueueConfig, ...]:
    names = [queue.name for queue in queues]
    if not names:
        raise ConfigurationError(
            "there is no queue; give at least one, or leave it out for those of the application, or else default:1"
        )
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"queue {name!r} is given {names.count(name)} times; give each name once")
    return tuple(queues)


def _each_change_once(changes: list[QueueChange]) -> tuple[QueueChange, ...]:
    seen: set[tuple[int, str]] = set()
    for change in changes:
        name = change.queue.name
        if (change.shard, name) in seen:
            raise ConfigurationError(f"queue {name!r} of shard {change.shard} is given twice; give it once")
        seen.add((change.shard, name))
    return tuple(changes)
