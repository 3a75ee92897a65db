"""What a shard tells its peers of its methods, so that two that do not run the same code know what they understand.

While shards are replaced one by one, old and new code call each other. Whoever starts a service tells every peer what its
methods are, and whoever first calls a function of a module what that is: a description of its parameters and its result, down
to the fields of structs. It goes through the ring in front of the first call, so that a shard knows the caller's version before
it sees a call of it. Arguments travel as the caller's version has them, and it is the callee that fits them to its own: what
waits to be sent while a peer is replaced need not be encoded anew.

What a peer tells is bounded in size. Whether it is understood is `_understanding`'s to say.
"""

from __future__ import annotations

import enum
import hashlib
import typing
from typing import Any

import msgspec
import msgspec.inspect as inspected

MAX_DESCRIPTION = 64 * 1024  # bytes, of one method

_encoder = msgspec.msgpack.Encoder()
_in_order = msgspec.msgpack.Encoder(order="deterministic")

NONE = ""  # a default that there is not
UNSET = "unset"
UNKNOWN = "?"  # a default that cannot be compared


class FieldSchema(msgspec.Struct, array_like=True, frozen=True):
    """A field of a class. type: its place in `MethodDescription.types`. default: a digest, or one of those above."""

    name: str
    wire: str
    type: int
    required: bool
    default: str


class TypeSchema(msgspec.Struct, array_like=True, frozen=True):
    """A type. parts: the places of its items' types. rules: what else there is to compare, by the kind."""

    kind: str
    name: str
    parts: tuple[int, ...]
    fields: tuple[FieldSchema, ...]
    rules: dict[str, Any]


class ParameterSchema(msgspec.Struct, array_like=True, frozen=True):
    """A parameter, in the order in which they are sent. default: a digest of what is sent for it."""

    name: str
    type: int
    default: str


class MethodDescription(msgspec.Struct, array_like=True, frozen=True):
    """What is sent, both ways."""

    streams: bool
    parameters: tuple[ParameterSchema, ...]
    result: int
    types: tuple[TypeSchema, ...]


class MethodSchema(msgspec.Struct, array_like=True, frozen=True):
    """One method as its shard has it. description: an encoded `MethodDescription`, empty if it is too large to be told.
    signature: for people."""

    identifier: int
    digest: str
    signature: str
    description: bytes = b""


class ServiceSchema(msgspec.Struct, array_like=True, frozen=True):
    """The body of a schema frame: a service, or a function, which has one method, itself."""

    service: str
    methods: dict[str, MethodSchema]

    def without_descriptions(self) -> ServiceSchema:
        """The same in fewer bytes."""
        return ServiceSchema(
            self.service,
            {name: msgspec.structs.replace(each, description=b"") for name, each in self.methods.items()},
        )


# Describing


def describe(
    parameters: list[tuple[str, Any, Any]], result: Any, *, streams: bool, no_default: object
) -> MethodDescription:
    """parameters: of each the name, the type and the default, which is `no_default` if there is none."""
    *taken, given = inspected.multi_type_info([*(kind for _, kind, _ in parameters), result])
    book = _Book()
    described = tuple(
        ParameterSchema(name, book.place(info), NONE if default is no_default else digest_of(_encoder.encode(default)))
        for (name, _, default), info in zip(parameters, taken, strict=True)
    )
    return MethodDescription(streams, described, book.place(given), tuple(book.types))


def method_schema(identifier: int, signature: str, description: MethodDescription) -> MethodSchema:
    """What is told of the method."""
    body = _in_order.encode(description)
    return MethodSchema(identifier, digest_of(body), signature, body if len(body) <= MAX_DESCRIPTION else b"")


def digest_of(encoded: bytes | memoryview | msgspec.Raw) -> str:
    """The same in every process that runs the same code."""
    return hashlib.blake2b(encoded, digest_size=12).hexdigest()


class _Book:
    """Types as they are found, each once."""

    def __init__(self) -> None:
        self.types: list[TypeSchema] = []
        self._places: dict[Any, int] = {}

    def place(self, info: Any) -> int:
        if isinstance(info, inspected.Metadata):
            return self.place(info.type)
        fields = getattr(info, "fields", ())
        # A class that refers to itself comes again as the same object.
        key = id(info) if fields else None
        if key in self._places:
            return self._places[key]
        place = len(self.types)
        self.types.append(_ANY)
        if key is not None:
            self._places[key] = place
        made = self._type(info, fields)
        if key is None:
            same = msgspec.json.encode(made)
            if same in self._places and place == len(self.types) - 1:
                self.types.pop()
                return self._places[same]
            self._places[same] = place
        self.types[place] = made
        return place

    def _type(self, info: Any, fields: tuple[Any, ...]) -> TypeSchema:
        kind = type(info).__name__.removesuffix("Type").lower()
        if isinstance(info, inspected.CustomType):  # `object`: there is no other
            kind = "any"
        rules = {
            name: value
            for name in _ASKED
            if (value := getattr(info, name, None)) is not None and not (isinstance(info, inspected.StructType))
        }
        name = ""
        parts: tuple[Any, ...] = ()
        cls: Any = getattr(info, "cls", None)
        cls = typing.get_origin(cls) or cls  # of a generic class that is filled in
        if isinstance(info, inspected.LiteralType):
            rules = {"values": [[type(value).__name__, value] for value in info.values]}
        elif isinstance(info, inspected.EnumType):
            name = cls.__name__
            members = {each: member.value for each, member in cls.__members__.items()}
            rules = {"members": members, "flags": issubclass(cls, enum.Flag)}
        elif isinstance(info, inspected.UnionType):
            parts = info.types
        elif isinstance(info, inspected.DictType):
            parts = (info.key_type, info.value_type)
        elif isinstance(info, inspected.TupleType):
            parts = info.item_types
        elif hasattr(info, "item_type"):
            parts = (info.item_type,)
        elif isinstance(cls, type) and kind != "any":
            name = cls.__name__
        if isinstance(info, inspected.StructType):
            config = cls.__struct_config__
            rules = {
                "tag": info.tag,
                "tag_field": info.tag_field,
                "by position": info.array_like,
                "strict": info.forbid_unknown_fields,
                "omits": config.omit_defaults and not info.array_like,
            }
        return TypeSchema(
            kind,
            name,
            tuple(self.place(each) for each in parts),
            tuple(
                FieldSchema(each.name, each.encode_name, self.place(each.type), each.required, _default_of(each))
                for each in fields
            ),
            rules,
        )


_ASKED = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "tz")
_ANY = TypeSchema("any", "", (), (), {})


def _default_of(field: inspected.Field) -> str:
    if field.required:
        return NONE
    try:
        if field.default is msgspec.UNSET:
            return UNSET
        if field.default is not msgspec.NODEFAULT:
            return digest_of(_in_order.encode(field.default))
        if field.default_factory is msgspec.NODEFAULT:  # msgspec's description has no word for it
            return UNSET
        if field.default_factory in (list, dict, set, bytearray):  # others are never left out
            return digest_of(_in_order.encode(field.default_factory()))
    except Exception:  # what is not to be encoded, or raises
        return UNKNOWN
    return UNKNOWN
