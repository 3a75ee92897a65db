"""What travels: whatever is accepted arrives equal and of the same type, and what would not is refused by name."""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import uuid
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.ipc.calls._types import DoesNotTravel, check_default, check_type

T = TypeVar("T")


class Color(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.Flag):
    A = 1
    B = 2


class Point(msgspec.Struct, frozen=True):
    x: int
    note: str | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, array_like=True, tag=True):
    a: int
    b: Point | None = None


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Box(msgspec.Struct, Generic[T]):
    inside: T


class IntBox(Box[int]):
    pass


@dataclasses.dataclass
class Data:
    a: int
    _b: bytes = b""
    c: ClassVar[pathlib.Path] = pathlib.Path()


class Pair(NamedTuple):
    a: int
    b: str = ""


class Keys(TypedDict):
    a: int
    b: NotRequired[str]


@attrs.define
class Attrs:
    a: int


Id = NewType("Id", int)
UTC = datetime.UTC

TRAVELS: list[tuple[Any, list[Any]]] = [
    (None, [None]),
    (bool, [True]),
    (int, [0, -(2**63), 2**64 - 1]),
    (float, [1.5, float("inf"), -0.0]),
    (str, ["", "ü\0"]),
    (bytes, [b"\xff"]),
    (bytearray, [bytearray(b"x")]),
    (memoryview, [memoryview(b"x")]),
    (decimal.Decimal, [decimal.Decimal("1.10"), decimal.Decimal("1e400")]),
    (uuid.UUID, [uuid.UUID(int=5)]),
    (datetime.datetime, [datetime.datetime(2020, 1, 1, 2, 3, 4, 5), datetime.datetime.max.replace(tzinfo=UTC)]),
    (datetime.date, [datetime.date.min]),
    (datetime.time, [datetime.time(1, 2, 3, 4), datetime.time(5, tzinfo=UTC)]),
    (datetime.timedelta, [datetime.timedelta.max, datetime.timedelta(microseconds=-1)]),
    (list[int], [[1, 2]]),
    (tuple[int, ...], [(), (1, 2)]),
    (tuple[int, str], [(1, "a")]),
    (tuple[()], [()]),
    (set[tuple[int, int]], [{(1, 2)}]),
    (frozenset[str], [frozenset("ab")]),
    (dict[tuple[int, str], list[bytes]], [{(1, "a"): [b""]}]),
    (dict[frozenset[int], Point], [{frozenset({1}): Point(1)}]),
    (dict[Point, None], [{Point(1): None}]),
    (Color, [Color.RED]),
    (Level, [Level.LOW]),
    (Mode, [Mode.A, Mode.A | Mode.B]),
    (Literal["a", 1, None], ["a", 1, None]),
    (Point, [Point(1), Point(1, "n")]),
    (Row, [Row(1), Row(1, Point(2))]),
    (Tree, [Tree([Tree()])]),
    (Box[Point], [Box(Point(1))]),
    (list[Box[IntBox]], [[Box(IntBox(1))]]),
    (Data, [Data(1, b"x")]),
    (Pair, [Pair(1)]),
    (Keys, [{"a": 1}, {"a": 1, "b": ""}]),
    (Attrs, [Attrs(1)]),
    (Id, [1]),
    (Annotated[int, msgspec.Meta(ge=0)], [0]),
    (int | str | None, [1, "a", None]),
    (int | float, [1, 1.0]),
    (msgspec.msgpack.Ext, [msgspec.msgpack.Ext(5, b"x")]),
    (msgspec.Raw, [msgspec.Raw(b"\x01")]),
    (Any, [1, "a", [1], {"a": b""}, None]),
    (object, [1, [1]]),
    (list, [[1, "a"]]),
    (dict[str, Any], [{"a": [1]}]),
]


@pytest.mark.parametrize(("kind", "values"), TRAVELS, ids=[str(kind) for kind, _ in TRAVELS])
def test_what_travels_arrives_as_it_was(kind: Any, values: list[Any]) -> None:
    check_type(kind)
    for value in values:
        arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)
        assert arrived == value
        assert type(arrived) is type(value)
        check_default(value, kind)


class Order:
    pass


class Sub(list[int]):
    pass


class Holder(msgspec.Struct):
    path: pathlib.Path | None = None


class Deep(msgspec.Struct):
    holders: dict[str, list[Holder]]


class Ordered(msgspec.Struct):
    items: abc.Sequence[int]


class Positional(msgspec.Struct, array_like=True):
    a: int | msgspec.UnsetType = msgspec.UNSET


class NoDefault(msgspec.Struct):
    a: int | msgspec.UnsetType


class OtherDefault(msgspec.Struct):
    a: int | msgspec.UnsetType = 0


@dataclasses.dataclass
class Nested:
    inner: list[int | msgspec.UnsetType]


@attrs.define
class Private:
    _a: int


class Mixed(enum.Enum):
    A = 1
    B = "b"


STAYS: dict[Any, str] = {
    Order: "Order is no type of msgspec's; make it a msgspec.Struct or a dataclass",
    Sub: "Sub is no type of msgspec's; send list",
    Exception: "Exception is no type of msgspec's",
    pathlib.Path: "pathlib.Path is no type of msgspec's; send str",
    list[pathlib.PurePosixPath | None]: "pathlib.PurePosixPath is no type of msgspec's; send str",
    ipaddress.IPv4Address: "ipaddress.IPv4Address is no type of msgspec's; send str",
    complex: "complex is no type of msgspec's; send tuple",
    fractions.Fraction: "send tuple",
    range: "send its start, stop and step",
    type[int]: "type is no type",
    abc.Callable[[], int]: "functions do not travel",
    abc.Iterable[int]: "send list",
    abc.AsyncIterator[int]: "only an async generator is a stream",
    collections.deque[int]: "send list",
    collections.OrderedDict[str, int]: "send dict",
    collections.defaultdict[str, int]: "send dict",
    collections.Counter[str]: "send dict",
    abc.Sequence[int]: "would arrive as one type whatever is sent; say which: list",
    abc.Mapping[str, int] | None: "say which: dict",
    abc.Set[int]: "say which: set",
    abc.Collection: "say which: list",
    dict[str, abc.MutableSequence[int]]: "say which: list",
    NewType("Ids", abc.Sequence[int]): "say which: list",
    Holder: "send str",
    Deep: "pathlib.Path is no type",
    Ordered: r"say which: list\[...\] or tuple\[..., ...\] \(in Ordered.items\)",
    Box: "Box leaves T open; say what it is: Box",
    Box[pathlib.Path]: "pathlib.Path is no type",
    list[T]: "T is a type variable that nothing fills in",  # type: ignore[valid-type]
    msgspec.UnsetType: "UNSET exists in fields of structs only; use None",
    int | msgspec.UnsetType: "UNSET exists in fields",
    Positional: r"array_like; use None \(in Positional.a\)",
    NoDefault: "needs UNSET for its default",
    OtherDefault: "needs UNSET for its default",
    Nested: "UNSET exists in fields",
    Private: "Private._a would be left out",
    Mixed: "Mixed",
    list[int] | set[int]: "may not contain more than one array-like",
}


@pytest.mark.parametrize("kind", STAYS, ids=str)
def test_what_does_not_is_refused_by_name(kind: Any) -> None:
    with pytest.raises(DoesNotTravel, match=STAYS[kind]):
        check_type(kind)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (msgspec.UNSET, Any, "UNSET exists in fields of structs only"),
        (None, int, "its default None is not of its type: Expected `int`"),
        (False, int, "its default False is not of its type"),
        ("a", bytes, "is not of its type"),
        (object(), Any, "cannot be sent: Encoding objects of type object"),
        (2**70, int, "cannot be sent"),
        ((1,), Any, r"its default \(1,\) would arrive as \[1\]; make it that"),
        ([1], tuple[int, ...], r"would arrive as \(1,\)"),
        (Level.LOW, int, "would arrive as 1"),
        ([Level.LOW], list[int], r"would arrive as \[1\]"),
        ({"a": (1,)}, dict[str, Any], r"would arrive as"),
        (-1, Annotated[int, msgspec.Meta(ge=0)], "is not of its type"),
        ("x" * 500, int, r"xxx\.\.\. is not of its type"),
    ],
)
def test_defaults_that_would_not_arrive(value: object, kind: Any, message: str) -> None:
    with pytest.raises(DoesNotTravel, match=message):
        check_default(value, kind)


def test_an_int_is_good_enough_for_a_float() -> None:
    for value, kind in ((0, float), (None, float | None), (float("nan"), float)):
        check_default(value, kind)
        with pytest.raises(DoesNotTravel):
            check_default(value, bytes)


SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    str: st.text(),
    bytes: st.binary(),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    datetime.timedelta: st.timedeltas(),
    datetime.datetime: st.datetimes(),
    datetime.date: st.dates(),
    decimal.Decimal: st.decimals(allow_nan=False),
    uuid.UUID: st.uuids(),
    Point: st.builds(Point, st.integers(0, 9), st.text() | st.just(msgspec.UNSET)),
}


@st.composite
def typed_values(draw: Any, depth: int = 2) -> tuple[Any, Any]:
    """A type, and a value of it."""
    form = draw(st.sampled_from(["scalar", "list", "set", "tuple", "dict", "optional"] if depth else ["scalar"]))
    if form == "scalar":
        kind = draw(st.sampled_from(list(SCALARS)))
        return kind, draw(SCALARS[kind])
    kind, value = draw(typed_values(0 if form in ("set", "dict") else depth - 1))
    match form:
        case "list":
            return list[kind], [value]
        case "set":
            return frozenset[kind], frozenset([value])
        case "tuple":
            return tuple[kind, ...], (value, value)
        case "dict":
            other, second = draw(typed_values(depth - 1))
            return dict[kind, other], {value: second}
    return kind | None, draw(st.sampled_from([None, value]))


@given(typed_values())
def test_any_combination_arrives_as_it_was(pair: tuple[Any, Any]) -> None:
    kind, value = pair
    check_type(kind)
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)
    assert arrived == value
    assert type(arrived) is type(value)
    check_default(value, kind)
