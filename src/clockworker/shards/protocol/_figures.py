"""What a figure of the statistics is, said once, where the Struct has its field. Pure.

A figure is counted in one place, goes through a shard's slots to the supervisor, is summed over incarnations and shards, and is
shown on the page of metrics and in JSON. All of that follows from its field:

    timed_out: Annotated[int, counter("calls_timed_out", "Calls that their caller's deadline ...", of="calls_timed_out")] = 0

The name is the key in JSON and says the unit, which bounds what is believed and is what the page converts from: `_ns` is
nanoseconds, `bytes` bytes, all others are numbers. The default is what a shard has that has not come to it yet. The kind says
how it sums: see `Kind`. The family is what the page shows it as, and `of` what it is called where it is counted (`Section.of`),
if that is not its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Self, TypeAlias, get_args, get_origin

import msgspec

from clockworker.executor import DurationStats


class Kind(Enum):
    """How a figure is summed: of a shard's dead incarnations and its present one, and of several shards or queues."""

    COUNTER = "counter"  # it only grows while the shard lives: added up, both times
    GAUGE = "gauge"  # of the moment: the present one's; added up over shards
    PEAK = "peak"  # of the moment: the present one's; over shards the largest


class Family(msgspec.Struct, frozen=True):
    """A metric of the page: its name there, which begins with `clockworker_` and, of a counter, ends in `_total` without being
    said; its help; and the label that tells several figures of one family apart."""

    name: str
    help: str
    label: str = ""


class Figure(msgspec.Struct, frozen=True):
    """What an annotation says. value: of the family's label. Without a family it is not on the page."""

    kind: Kind
    family: Family | None
    value: str
    of: str


def counter(family: Family | str = "", text: str = "", *, of: str = "") -> Figure:
    """Of an int, or of durations, which are counters of many buckets.

    family: alone in a family of this name, whose help is `text`; or with others in this one, whose label is `text`. Not given:
    it is in JSON only.
    """
    return _figure(Kind.COUNTER, family, text, of)


def gauge(family: Family | str = "", text: str = "", *, of: str = "") -> Figure:
    """As `counter`."""
    return _figure(Kind.GAUGE, family, text, of)


def peak(family: Family | str = "", text: str = "", *, of: str = "") -> Figure:
    """As `counter`; on the page it is a gauge."""
    return _figure(Kind.PEAK, family, text, of)


def _figure(kind: Kind, family: Family | str, text: str, of: str) -> Figure:
    if isinstance(family, Family):
        return Figure(kind, family, text, of)
    return Figure(kind, Family(family, text) if family else None, "", of)


class Field(msgspec.Struct, frozen=True):
    """A figure, and the field that it is of."""

    name: str
    type: Any
    figure: Figure

    @property
    def in_ns(self) -> bool:
        return self.name.endswith("_ns") or self.type is DurationStats

    @property
    def in_bytes(self) -> bool:
        return "bytes" in self.name


@cache
def fields(section: type[Section]) -> tuple[Field, ...]:
    """In the order of their definition. Raises `TypeError` for one that does not say what it is."""
    found = []
    for field in msgspec.structs.fields(section):
        said = get_args(field.type) if get_origin(field.type) is Annotated else ()
        figures = [each for each in said if isinstance(each, Figure)]
        if len(figures) != 1:
            raise TypeError(f"{section.__name__}.{field.name} must be Annotated with one of counter, gauge and peak")
        found.append(Field(field.name, said[0], figures[0]))
    return tuple(found)


@cache
def _kinds(section: type[Section]) -> tuple[Kind, ...]:
    return tuple(field.figure.kind for field in fields(section))


_Put: TypeAlias = Callable[[tuple[object, ...], Mapping[str, Any]], Any]


class _Plan(msgspec.Struct, frozen=True):
    """How a section is filled: most figures from the first source, at once, and the rest is put between them."""

    get: Callable[[Any], tuple[Any, ...]]
    rest: tuple[tuple[int, _Put], ...]  # by position, from the sources and what is known


_plans: dict[tuple[object, ...], _Plan] = {}


def _plan(section: type[Section], sources: tuple[object, ...], known: Iterable[str]) -> _Plan:
    """Raises `AttributeError` for a figure that is nowhere."""
    first: list[str] = []
    rest: list[tuple[int, _Put]] = []
    for position, field in enumerate(fields(section)):
        if field.name in known:
            rest.append((position, lambda _, known, name=field.name: known[name]))  # type: ignore[misc]
            continue
        where = field.figure.of or field.name
        get = attrgetter(where)
        index = _index(sources, get)
        if index == 0:
            first.append(where)
        else:
            rest.append((position, lambda sources, _, get=get, index=index: get(sources[index])))  # type: ignore[misc]
    return _Plan(_getter(first), tuple(rest))


def _index(sources: tuple[object, ...], get: Callable[[Any], Any]) -> int:
    """Of the first source that has it."""
    for index, source in enumerate(sources[:-1]):
        try:
            get(source)
        except AttributeError:
            continue
        return index
    get(sources[-1])
    return len(sources) - 1


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda source: tuple(attrgetter(name)(source) for name in names)


class Section(msgspec.Struct, frozen=True):
    """Figures that belong together. One rule does for all the sums there are:

    a.then(b)        a shard's dead incarnations, and its present one: counters a + b, the rest is b's
    b.since(a)       what has come since an earlier reading: counters b - a, the rest is b's
    total([a, b])    several shards or queues together
    """

    @classmethod
    def of(cls, *sources: object, **known: Any) -> Self:
        """Each figure from where it is counted: the first of the sources that has it. known: those that none of them has.

        Which one that is, is found out once for each combination of types."""
        key = (cls, *known, *map(type, sources))
        plan = _plans.get(key)
        if plan is None:
            plan = _plans[key] = _plan(cls, sources, known)
        made = [*plan.get(sources[0])]
        for position, put in plan.rest:
            made.insert(position, put(sources, known))
        return cls(*made)

    def then(self, later: Self) -> Self:
        return type(self)(
            *[
                _plus(old, new) if kind is Kind.COUNTER else new
                for kind, old, new in zip(_kinds(type(self)), _values(self), _values(later), strict=True)
            ]
        )

    def since(self, earlier: Self) -> Self:
        return type(self)(
            *[
                _minus(new, old) if kind is Kind.COUNTER else new
                for kind, old, new in zip(_kinds(type(self)), _values(earlier), _values(self), strict=True)
            ]
        )

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        rows = [_values(part) for part in parts]
        if not rows:
            return cls()
        return cls(
            *[
                max(column) if kind is Kind.PEAK else _sum(column)
                for kind, column in zip(_kinds(cls), zip(*rows, strict=True), strict=True)
            ]
        )


def _values(section: Section) -> tuple[Any, ...]:
    return msgspec.structs.astuple(section)


def _plus(old: Any, new: Any) -> Any:
    return DurationStats.sum((old, new)) if type(old) is DurationStats else old + new


def _minus(new: Any, old: Any) -> Any:
    return new.since(old) if type(old) is DurationStats else new - old


def _sum(column: tuple[Any, ...]) -> Any:
    kind = type(column[0])
    return sum(column) if kind is int else kind.sum(column)
