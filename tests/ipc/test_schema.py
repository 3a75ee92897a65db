from __future__ import annotations

from typing import Any

import msgspec

from clockworker.ipc._schema import MethodSchema, ServiceSchema, differences, digest


class Point(msgspec.Struct):
    """A point."""

    x: int
    description: str = ""


def of(*parameters: Any, result: Any = int, names: str = "abcdef", streams: bool = False) -> str:
    return digest(list(names[: len(parameters)]), list(parameters), result, streams=streams)


def variant(**options: Any) -> Any:
    fields: list[Any] = options.pop("fields", [("x", int), ("description", str, "")])
    return msgspec.defstruct("Point", fields, **options)


def test_the_same_signature_has_the_same_digest() -> None:
    assert of(Point, int) == of(Point, int)
    assert of(variant()) == of(Point), "the class is another, but what is sent is the same"
    assert of(variant(fields=[("x", int), ("description", str, "other")])) == of(Point), "a default is not sent"


def test_whatever_is_sent_otherwise_has_another_digest() -> None:
    different = [
        of(Point),
        of(Point, int),
        of(int, Point),
        of(Point, names="b"),
        of(Point, result=str),
        of(Point, streams=True),
        of(list[Point]),
        of(variant(fields=[("x", float), ("description", str, "")])),
        of(variant(fields=[("x", int)])),
        of(variant(fields=[("x", int), ("title", str, "")])),
        of(variant(array_like=True)),
        of(variant(tag=True)),
        of(dict[int, Point]),
        of(Any),
    ]
    assert len(set(different)) == len(different)


def service(**methods: str) -> ServiceSchema:
    return ServiceSchema(
        "app.Store",
        {name: MethodSchema(number, text, f"({text})") for number, (name, text) in enumerate(methods.items())},
    )


def test_differences_name_the_method_and_both_versions() -> None:
    assert differences(service(get="a", put="b"), service(get="a", put="b"), 3) == {}
    assert differences(service(get="a", put="b"), service(get="a", put="c"), 3) == {
        1: "app.Store: put differs: put(b) here and put(c) on shard 3"
    }
    assert differences(service(get="a"), service(get="a", put="b"), 3) == {
        1: "app.Store: put is not there here, and on shard 3 it is put(b)"
    }
    assert differences(service(get="a", put="b"), service(get="a"), 3) == {
        1: "app.Store: put is not there on shard 3, and here it is put(b)"
    }
    other = ServiceSchema("app.Store", {"get": MethodSchema(0, "of other fields", "(a)")})
    assert differences(service(get="a"), other, 3) == {
        0: "app.Store: get differs: get(a) here and get(a) on shard 3, of types that differ"
    }
