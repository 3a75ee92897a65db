"""Versions of methods: what is understood, by pairs that are known and by random ones."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clockworker as cw
from clockworker.ipc.calls._definitions import remote_methods, service_schema
from clockworker.ipc.calls._schema import (
    MAX_DESCRIPTION,
    MethodDescription,
    MethodSchema,
    ParameterSchema,
    ServiceSchema,
    TypeSchema,
    describe,
)
from clockworker.ipc.calls._understanding import differences, understood

NO_DEFAULT = inspect.Parameter.empty


def method(*parameters: Any, result: Any = None, streams: bool = False) -> MethodDescription:
    """parameters: types, or (name, type) or (name, type, default)."""
    full = []
    for place, each in enumerate(parameters):
        named = each if isinstance(each, tuple) else ("abcdef"[place], each)
        full.append((*named, NO_DEFAULT) if len(named) == 2 else named)
    return describe(full, result, streams=streams, no_default=NO_DEFAULT)  # type: ignore[arg-type]


def why(sent: Any, read: Any) -> str:
    """Why arguments of one type are not understood as the other."""
    return understood(method(sent), method(read), "here", "on shard 1")


def struct(*fields: Any, name: str = "Point", **options: Any) -> Any:
    return msgspec.defstruct(name, list(fields), **options)


X, Y, Z = ("x", int), ("y", int), ("z", int, 3)


# Parameters


def test_a_parameter_with_a_default_may_come_and_go() -> None:
    old, new = method(("key", int)), method(("key", int), ("default", int, 0))
    assert not understood(old, new, "here", "there")
    assert not understood(new, old, "here", "there")


def test_one_without_a_default_may_not() -> None:
    old, new = method(("key", int)), method(("key", int), ("default", int))
    assert understood(old, new, "here", "there") == "parameter default has no default there, and there is none here"
    assert understood(new, old, "here", "there") == "parameter default has no default here, and there is none there"


def test_parameters_are_known_by_their_names() -> None:
    assert not understood(method(("a", int), ("b", int)), method(("b", int), ("a", int)), "here", "there")
    assert "parameter b" in understood(method(("a", int)), method(("b", int)), "here", "there")
    assert "parameter b: it is str here and int there" in understood(
        method(("a", int), ("b", str)), method(("b", int), ("a", str)), "here", "there"
    )


def test_arguments_go_one_way_and_results_the_other() -> None:
    narrow, wide = method(int, result=int), method(int | None, result=int)
    assert not understood(narrow, wide, "here", "there")
    assert "parameter a: it may be None here, and int there" in understood(wide, narrow, "here", "there")
    narrow, wide = method(result=int), method(result=int | None)
    assert not understood(wide, narrow, "here", "there")
    assert "the result: it may be None there, and int here" in understood(narrow, wide, "here", "there")


def test_a_stream_is_no_call() -> None:
    assert understood(method(streams=True), method(), "here", "there") == "it is a stream here only"
    assert understood(method(), method(streams=True), "here", "there") == "it is a stream there only"
    assert "the result" in understood(method(result=str, streams=True), method(result=int, streams=True), "a", "b")


# Types that look alike on the wire, or to JSON Schema


class Size(NamedTuple):
    width: int
    height: int


def named(name: str, *fields: tuple[str, Any], **defaults: Any) -> Any:
    made: Any = NamedTuple(name, list(fields))  # type: ignore[misc]
    made._field_defaults = defaults
    made.__new__.__defaults__ = tuple(defaults.values())
    return made


def enumeration(**members: Any) -> Any:
    return enum.Enum("Color", members)


def flags(**members: Any) -> Any:
    return enum.Flag("Color", members)


class Required(TypedDict):
    x: int


class Sometimes(TypedDict):
    x: NotRequired[int]


Sometimes.__name__ = "Required"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Longer:
    x: int
    y: int = 0
    z: int = 0


Longer.__name__ = "Point"

UNDERSTOOD = {
    "the same": (struct(X, Y), struct(X, Y)),
    "a field with a default more": (struct(X), struct(X, Z)),
    "a field with a default less": (struct(X, Z), struct(X)),
    "fields in another order": (struct(X, Y), struct(Y, X)),
    "another default": (struct(X, Z), struct(X, ("z", int, 4))),
    "a wider field": (struct(X), struct(("x", int | None))),
    "a field required that is always sent": (struct(X, Z), struct(X, ("z", int))),
    "array_like, one more at the end": (struct(X, array_like=True), struct(X, Z, array_like=True)),
    "array_like, one less at the end": (struct(X, Z, array_like=True), struct(X, array_like=True)),
    "a NamedTuple with one more": (named("Size", X), named("Size", X, ("z", int), z=3)),
    "a dataclass with one more": (Point, Longer),
    "a dataclass with one less": (Longer, Point),
    "a key that may be missing": (Required, Sometimes),
    "a member more": (enumeration(RED=1), enumeration(RED=1, BLUE=2)),
    "a flag more": (flags(RED=1), flags(RED=1, BLUE=2)),
    "a literal more": (Literal["a"], Literal["a", "b"]),
    "a literal for its type": (Literal["a"], str),
    "a weaker bound": (Annotated[int, msgspec.Meta(ge=3)], Annotated[int, msgspec.Meta(gt=2)]),
    "no bound any more": (Annotated[str, msgspec.Meta(max_length=3)], str),
    "tuple for tuple[...]": (tuple[int, int], tuple[int, ...]),
    "a union with more": (int | None, int | str | None),
    "in a list": (list[struct(X)], list[struct(X, Z)]),
    "in a dict": (dict[str, struct(X)], dict[str, struct(X, Z)]),
    "tagged, in a union": (
        struct(X, tag="a") | struct(Y, name="B", tag="b"),
        struct(X, Z, tag="a") | struct(Y, name="B", tag="b"),
    ),
    "object is Any": (object, Any),
}
NOT_UNDERSTOOD = {
    "array_like, swapped": (
        struct(X, Y, array_like=True),
        struct(Y, X, array_like=True),
        "field 0 of Point is x here and y",
    ),
    "NamedTuple, swapped": (named("Size", X, Y), named("Size", Y, X), "field 0 of Size is x here and y on shard 1"),
    "array_like, one more in front": (
        struct(("x", int, 0), array_like=True),
        struct(("z", int, 0), ("x", int, 0), array_like=True),
        "stay where they are",
    ),
    "a NamedTuple with one less": (named("Size", X, ("z", int), z=3), named("Size", X), "takes no more fields"),
    "NamedTuple and array_like": (named("Point", X), struct(X, array_like=True), "it is Point here and Point"),
    "by name and by position": (struct(X), struct(X, array_like=True), "array_like of Point is False here and True"),
    "a field without a default more": (
        struct(X),
        struct(X, Y),
        "Point.y has no default on shard 1, and is not there here",
    ),
    "a field without a default less": (
        struct(X, Y),
        struct(X),
        "Point.y has no default here, and is not there on shard 1",
    ),
    "a field renamed": (
        struct(X, ("old", int, 0)),
        struct(X, ("new", int, 0)),
        "old here only, and new on shard 1 only",
    ),
    "unknown fields forbidden": (struct(X, Z), struct(X, forbid_unknown_fields=True), "unknown fields are forbidden"),
    "another type": (struct(X), struct(("x", str)), "Point.x: it is int here and str on shard 1"),
    "a narrower field": (struct(("x", int | None)), struct(X), "Point.x: it may be None here, and int"),
    "names on the wire swapped": (
        struct(X, Y, rename={"x": "a", "y": "b"}),
        struct(X, Y, rename={"x": "b", "y": "a"}),
        "Point.x has another name on the wire",
    ),
    "another name on the wire": (struct(X), struct(X, rename="upper"), "another name on the wire"),
    "another field under the name": (
        struct(X, rename={"x": "a"}),
        struct(Y, rename={"y": "a"}),
        "another name on the wire",
    ),
    "another class": (struct(X, name="Celsius"), struct(X, name="Fahrenheit"), "it is Celsius here and Fahrenheit"),
    "a tag": (struct(X), struct(X, tag="p"), "tag of Point is None here and 'p'"),
    "another tag": (struct(X, tag="p"), struct(X, tag="q"), "tag of Point is 'p' here and 'q'"),
    "another tag_field": (
        struct(X, tag=True),
        struct(X, tag=True, tag_field="t"),
        "tag_field of Point is 'type' here and 't'",
    ),
    "a default that is left out": (
        struct(Z, omit_defaults=True),
        struct(("z", int, 4)),
        "may be left out here, and has another",
    ),
    "one left out and required": (
        struct(Z, omit_defaults=True),
        struct(("z", int)),
        "may be left out here, and is required",
    ),
    "UNSET and None": (
        struct(("z", int | msgspec.UnsetType, msgspec.UNSET)),
        struct(("z", int | None, None)),
        "may be left out here, and has another",
    ),
    "a key that may be missing": (Sometimes, Required, "may be left out here, and is required"),
    "members swapped": (enumeration(RED=1, BLUE=2), enumeration(RED=2, BLUE=1), "Color.RED is 1 here and 2 on shard 1"),
    "a member less": (enumeration(RED=1, BLUE=2), enumeration(RED=1), "Color.BLUE is not there on shard 1"),
    "a flag and an enum": (flags(RED=1), enumeration(RED=1), "can be combined here only"),
    "a literal less": (Literal["a", "b"], Literal["a"], "'b' may be sent here"),
    "1 and True": (Literal[1], Literal[True], "1 may be sent here"),
    "an enum for its values": (enumeration(RED="r"), str, "it is Color here and str"),
    "a bound": (int, Annotated[int, msgspec.Meta(ge=0)], "ge=0 is asked on shard 1"),
    "a tighter bound": (
        Annotated[int, msgspec.Meta(ge=0)],
        Annotated[int, msgspec.Meta(gt=0)],
        "gt=0 is asked on shard 1",
    ),
    "a pattern": (str, Annotated[str, msgspec.Meta(pattern="^a")], "pattern='^a' is asked"),
    "a list for a set": (list[int], set[int], r"it is list[int] here and set[int]"),
    "a set for a frozenset": (set[int], frozenset[int], "it is set[int] here and frozenset[int]"),
    "a list for a tuple": (list[int], tuple[int, ...], "it is list[int] here and tuple[int, ...]"),
    "a longer tuple": (tuple[int, int], tuple[int, int, int], "it has 2 items here and 3"),
    "int for float": (int, float, "it is int here and float"),
    "str for bytes": (str, bytes, "it is str here and bytes"),
    "anything": (Any, int, "it is Any here and int"),
    "something for anything": (struct(X), Any, "it is Point here and Any"),
    "in a list": (list[struct(X)], list[struct(X, Y)], "Point.y has no default"),
    "in a key": (dict[int, str], dict[str, str], "it is int here and str"),
    "in a union": (struct(X) | None, struct(X, Y) | None, "Point.y has no default on shard 1"),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_what_is_understood(name: str) -> None:
    sent, read = UNDERSTOOD[name]
    assert why(sent, read) == ""


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_what_is_not(name: str) -> None:
    sent, read, message = NOT_UNDERSTOOD[name]
    said = why(sent, read)
    assert said.startswith("parameter a: ")
    assert message in said


@pytest.mark.parametrize(
    "pair",
    [
        "date datetime",
        "time timedelta",
        "Decimal UUID",
        "Decimal float",
        "UUID str",
        "bytes bytearray",
        "bytes memoryview",
        "datetime str",
        "Raw Ext",
    ],
)
def test_what_is_written_alike_and_is_not_the_same(pair: str) -> None:
    import datetime
    import decimal
    import uuid

    known = {
        **vars(datetime),
        "Decimal": decimal.Decimal,
        "UUID": uuid.UUID,
        "Raw": msgspec.Raw,
        "Ext": msgspec.msgpack.Ext,
        **{each.__name__: each for each in (str, float, bytes, bytearray, memoryview)},
    }
    one, other = (known[name] for name in pair.split())
    assert why(one, other)
    assert why(other, one)
    assert not why(one, one)


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


class Deeper(msgspec.Struct):
    value: int
    children: list[Deeper] = []
    color: str = ""


class Other(msgspec.Struct):
    value: str
    children: list[Other] = []


Deeper.__name__ = Other.__name__ = "Tree"


def test_types_that_refer_to_themselves() -> None:
    assert not why(Tree, Tree)
    assert not why(Tree, Deeper)
    assert not why(Deeper, Tree)
    assert "Tree.value: it is int here and str" in why(Tree, Other)


# Random pairs: whatever is said to be understood is read as the same.


@dataclasses.dataclass(frozen=True)
class Field:
    name: str
    kind: Kind
    default: Any = NO_DEFAULT  # what `Kind.read` makes of it


@dataclasses.dataclass(frozen=True)
class Kind:
    """A type that can be built. form: of a scalar, or how its parts are put together."""

    form: str
    parts: tuple[Kind, ...] = ()
    fields: tuple[Field, ...] = ()
    members: tuple[tuple[str, int], ...] = ()
    options: frozenset[str] = frozenset()

    def build(self) -> Any:
        match self.form:
            case "list":
                return list[self.parts[0].build()]  # type: ignore[misc]
            case "optional":
                return self.parts[0].build() | None
            case "enum":
                return enum.IntEnum("Color", dict(self.members)) if self.members else int
            case "namedtuple":
                made = NamedTuple("Named", [(each.name, each.kind.build()) for each in self.fields])  # type: ignore[misc]
                defaults = [each for each in self.fields if each.default is not NO_DEFAULT]
                made.__new__.__defaults__ = tuple(each.default for each in defaults)
                made._field_defaults = {each.name: each.default for each in defaults}  # type: ignore[attr-defined]
                return made
            case "struct":
                return msgspec.defstruct(
                    "Made",
                    [
                        (each.name, each.kind.build(), *(() if each.default is NO_DEFAULT else (each.default,)))
                        for each in self.fields
                    ],
                    kw_only=True,
                    **dict.fromkeys(self.options, True),
                )
        return SCALARS[self.form]

    def values(self) -> st.SearchStrategy[Any]:
        """What a value means: names of fields and members with what they hold."""
        match self.form:
            case "list":
                return st.lists(self.parts[0].values(), max_size=2)
            case "optional":
                return st.none() | self.parts[0].values()
            case "enum":
                return st.sampled_from([name for name, _ in self.members])
            case "struct" | "namedtuple":
                return st.fixed_dictionaries(
                    {
                        each.name: each.kind.values()
                        if each.default is NO_DEFAULT
                        else st.just(each.default) | each.kind.values()
                        for each in self.fields
                    }
                )
        return {"int": st.integers(-5, 5), "str": st.sampled_from(["", "a", "1"]), "bool": st.booleans()}[self.form]

    def make(self, built: Any, meaning: Any) -> Any:
        """The value of that type which means it."""
        if meaning is None:
            return None
        match self.form:
            case "list":
                return [self.parts[0].make(_inner(built), each) for each in meaning]
            case "optional":
                return self.parts[0].make(_first(built), meaning)
            case "enum":
                return built[meaning]
            case "struct" | "namedtuple":
                kinds = inspect.get_annotations(built)
                return built(
                    **{each.name: each.kind.make(kinds[each.name], meaning[each.name]) for each in self.fields}
                )
        return meaning

    def read(self, value: Any) -> Any:
        """What it means."""
        if value is None:
            return None
        match self.form:
            case "list":
                return [self.parts[0].read(each) for each in value]
            case "optional":
                return self.parts[0].read(value)
            case "enum":
                return value.name
            case "struct" | "namedtuple":
                return {each.name: each.kind.read(getattr(value, each.name)) for each in self.fields}
        return value

    def means_the_same(self, sent: Any, reader: Kind, read: Any) -> bool:
        """Whether what was sent as this kind is what the reader has read."""
        if self.form == "optional" or reader.form == "optional":
            if sent is None or read is None:
                return sent is read
            one = self.parts[0] if self.form == "optional" else self
            return one.means_the_same(sent, reader.parts[0] if reader.form == "optional" else reader, read)
        if self.form == "list":
            return len(sent) == len(read) and all(
                self.parts[0].means_the_same(a, reader.parts[0], b) for a, b in zip(sent, read, strict=True)
            )
        if self.form in ("struct", "namedtuple"):
            own = {each.name: each for each in self.fields}
            return all(
                own[each.name].kind.means_the_same(sent[each.name], each.kind, read[each.name])
                if each.name in own
                else read[each.name] == each.default
                for each in reader.fields
            )
        return type(sent) is type(read) and bool(sent == read)


SCALARS = {"int": int, "str": str, "bool": bool}


def _inner(built: Any) -> Any:
    return built.__args__[0]


def _first(built: Any) -> Any:
    return next(each for each in built.__args__ if each is not type(None))


def default_of(kind: Kind) -> Any:
    return {"int": 1, "str": "", "bool": False, "optional": None}.get(kind.form, NO_DEFAULT)


def field_of(name: str, kind: Kind, wanted: bool) -> Field:
    return Field(name, kind, default_of(kind) if wanted else NO_DEFAULT)


def in_order(fields: list[Field]) -> tuple[Field, ...]:
    """Positions: those with defaults come last."""
    return tuple(sorted(fields, key=lambda each: each.default is not NO_DEFAULT))


@st.composite
def kinds(draw: Callable[..., Any], depth: int = 2) -> Kind:
    forms = ["int", "str", "bool", "enum"]
    if depth:
        forms += ["struct", "struct", "namedtuple", "list", "optional"]
    form = draw(st.sampled_from(forms))
    match form:
        case "list" | "optional":
            inner = draw(kinds(depth - 1).filter(lambda kind: kind.form != "optional"))
            return Kind(form, (inner,))
        case "enum":
            names = draw(st.permutations(["RED", "BLUE", "GREEN"]))[: draw(st.integers(1, 3))]
            return Kind(form, members=tuple((name, value + 1) for value, name in enumerate(names)))
        case "struct" | "namedtuple":
            names = draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=3, unique=True))
            fields = [field_of(name, draw(kinds(depth - 1)), draw(st.booleans())) for name in names]
            options = draw(st.frozensets(st.sampled_from(OPTIONS), max_size=2)) if form == "struct" else frozenset()
            return Kind(form, fields=in_order(fields), options=options)
    return Kind(form)


OPTIONS = ("array_like", "omit_defaults", "forbid_unknown_fields")


@st.composite
def changed(draw: Callable[..., Any], kind: Kind) -> Kind:
    """A next version of it."""
    if draw(st.integers(0, 5)) == 0:
        return draw(kinds(1))  # type: ignore[no-any-return]
    match kind.form:
        case "list" | "optional":
            part = draw(changed(kind.parts[0]).filter(lambda kind: kind.form != "optional"))
            return draw(st.sampled_from([Kind(kind.form, (part,)), part]))  # type: ignore[no-any-return]
        case "enum":
            members = draw(st.permutations(kind.members))
            more = draw(st.sampled_from([(), (("BLACK", 9),)]))
            values = draw(st.permutations([value for _, value in members]))
            if draw(st.booleans()):
                values = [value for _, value in members]
            return Kind(
                "enum", members=tuple((name, value) for (name, _), value in zip(members, values, strict=True)) + more
            )
        case "struct" | "namedtuple":
            fields = [dataclasses.replace(each, kind=draw(changed(each.kind))) for each in kind.fields]
            fields = [field_of(each.name, each.kind, each.default is not NO_DEFAULT) for each in fields]
            match draw(st.sampled_from(["same", "more", "less", "moved", "renamed", "default"])):
                case "more":
                    fields.insert(
                        draw(st.integers(0, len(fields))),
                        Field("w", Kind("int"), draw(st.sampled_from([0, NO_DEFAULT]))),
                    )
                case "less" if len(fields) > 1:
                    fields.pop(draw(st.integers(0, len(fields) - 1)))
                case "moved":
                    fields = draw(st.permutations(fields))
                case "renamed":
                    fields[0] = dataclasses.replace(fields[0], name="v")
                case "default" if fields[-1].kind.form == "int":
                    fields[-1] = dataclasses.replace(fields[-1], default=draw(st.sampled_from([1, 2, NO_DEFAULT])))
            options = kind.options
            if kind.form == "struct" and draw(st.integers(0, 3)) == 0:
                options ^= draw(st.frozensets(st.sampled_from(OPTIONS), max_size=1))
            return Kind(kind.form, fields=in_order(fields), options=options)
    return draw(st.sampled_from([kind, Kind("optional", (kind,))]))  # type: ignore[no-any-return]


@given(st.data())
def test_whatever_is_said_to_be_understood_is_read_as_it_was_meant(data: st.DataObject) -> None:
    sender = data.draw(kinds())
    reader = data.draw(changed(sender) | st.just(sender))
    sent, read = sender.build(), reader.build()
    if sender == reader:
        assert not why(sent, read)
    if why(sent, read):
        return
    meaning = data.draw(sender.values())
    body = msgspec.msgpack.encode(sender.make(sent, meaning))
    arrived = msgspec.msgpack.decode(body, type=read)
    assert sender.means_the_same(meaning, reader, reader.read(arrived))


# Services


def schema_of(source: str) -> ServiceSchema:
    """Of a service with these methods."""
    namespace: dict[str, Any] = {"cw": cw, "msgspec": msgspec}
    lines = "".join(f"    @cw.remote\n    async def {line}: ...\n" for line in source.split("; "))
    exec(compile(f"class Store:\n{lines}", "app", "exec", dont_inherit=True), namespace)
    store = namespace["Store"]
    store.__module__ = "app"
    return service_schema(store, remote_methods(store))


def test_differences_name_the_method_and_both_versions() -> None:
    old = schema_of("get(self, key: int) -> str; put(self, key: int) -> None")
    assert (
        differences(old, schema_of("put(self, key: int) -> None; get(self, key: int) -> str"), "shard 3").outgoing == {}
    )
    new = schema_of("get(self, key: int) -> str; put(self, key: str) -> None")
    found = differences(old, new, "shard 3")
    put = old.methods["put"].identifier
    assert found.outgoing == {
        put: "app.Store: put differs: put(key: int) -> None here and put(key: str) -> None on shard 3: "
        "parameter key: it is int here and str on shard 3"
    }
    assert found.incoming == {
        put: "app.Store: put differs: put(key: int) -> None here and put(key: str) -> None on shard 3: "
        "parameter key: it is str on shard 3 and int here"
    }
    assert found.fitted == {}


def test_a_method_that_one_side_lacks() -> None:
    one, both = schema_of("get(self) -> None"), schema_of("get(self) -> None; put(self) -> None")
    put = both.methods["put"].identifier
    found = differences(one, both, "shard 3")
    assert (found.outgoing, found.incoming) == (
        {},
        {put: "app.Store: put is not there here, and on shard 3 it is put() -> None"},
    )
    found = differences(both, one, "shard 3")
    assert (found.outgoing, found.incoming) == (
        {put: "app.Store: put is not there on shard 3, and here it is put() -> None"},
        {},
    )


def test_a_method_with_other_parameters_is_fitted() -> None:
    old, new = schema_of("get(self, key: int) -> str"), schema_of("get(self, key: int, default: int = 0) -> str")
    for ours, theirs, names in ((old, new, ["key", "default"]), (new, old, ["key"])):
        found = differences(ours, theirs, "shard 3")
        assert (found.outgoing, found.incoming) == ({}, {})
        assert [each.name for each in found.fitted["get"].parameters] == names


# What a peer tells


def told(description: bytes, signature: str = "() -> None") -> ServiceSchema:
    return ServiceSchema("app.Store", {"get": MethodSchema(1, "other", signature, description)})


def packed(*types: TypeSchema, parameters: tuple[ParameterSchema, ...] = (), result: int = 0) -> bytes:
    return msgspec.msgpack.encode(MethodDescription(False, parameters, result, types))


NOTHING = TypeSchema("none", "", (), (), {})
UNREADABLE = {
    "nothing": b"",
    "garbage": b"\xc1\xff",
    "a result that is not there": packed(NOTHING, result=7),
    "a negative place": packed(NOTHING, result=-1),
    "a union of itself": packed(TypeSchema("union", "", (0, 0, 0), (), {})),
    "a list of itself": packed(TypeSchema("list", "", (0,), (), {})),
    "an enum without members": packed(TypeSchema("enum", "Color", (), (), {})),
    "a struct without rules": packed(TypeSchema("struct", "Point", (), (), {})),
    "very deep": packed(*(TypeSchema("list", "", (place + 1,), (), {}) for place in range(5_000)), NOTHING),
    "very wide": packed(TypeSchema("union", "", tuple(range(1, 8_000)), (), {}), *[NOTHING] * 8_000),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_not_understood(name: str) -> None:
    for source in (
        "get(self) -> None",
        "get(self, a: int | str | list[int | None]) -> list[list[int]]",
        "get(self) -> int | str | None",
    ):
        ours = schema_of(source)
        theirs = told(UNREADABLE[name], "x" * 100_000)
        found = differences(ours, theirs, "shard 3")
        if name not in ("very wide", "a union of itself"):
            assert found.outgoing
        for text in (*found.outgoing.values(), *found.incoming.values()):
            assert len(text) < 4_000


@given(st.binary(max_size=300))
def test_garbage_is_not_understood(description: bytes) -> None:
    found = differences(schema_of("get(self, a: int | None = 1) -> list[int]"), told(description), "shard 3")
    assert found.outgoing
    assert found.incoming


@given(st.data())
def test_a_description_that_was_tampered_with_raises_nothing(data: st.DataObject) -> None:
    ours = schema_of("get(self, a: int | None = 1) -> list[tuple[int, str]]")
    body = bytearray(ours.methods["get"].description)
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    found = differences(ours, told(bytes(body)), "shard 3")
    assert all("get" in said for said in (*found.incoming.values(), *found.outgoing.values()))


def test_what_is_too_large_is_told_by_its_digest_alone() -> None:
    fields = [(f"field_{number}", int) for number in range(MAX_DESCRIPTION // 20)]
    large = msgspec.defstruct("Large", fields)
    made = msgspec.defstruct("Large", [*fields, ("more", int, 0)])

    def schema(kind: Any) -> ServiceSchema:
        class Store:
            @cw.remote
            async def get(self, key: kind) -> None: ...

        return service_schema(Store, remote_methods(Store))

    assert schema(large).methods["get"].description == b""
    assert differences(schema(large), schema(large), "shard 1").outgoing == {}
    said = differences(schema(large), schema(made), "shard 1").outgoing
    assert "they are too large, or too different, to be compared" in "".join(said.values())
