"""Which types travel: what is sent of them arrives, equal, and of the same type. Whatever else an annotation may say is refused
by name, with what to write instead (see `_remote`).

msgspec alone does not refuse enough. Its decoder takes any class for one that somebody else will make; it reads the abstract
collections as one of those that they may be; and `UNSET` is nothing outside a field.

`Any` and `object` stay: they mean the plain data that msgspec makes of what it is not told the type of. So does a bare `list`
of them. An int for a `float` arrives as a float, which is equal. A subclass (of a struct, of `int`) arrives as what the
annotation says; that values are what the annotations say is not looked at before they are sent.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import types
import typing
from typing import Any

import msgspec
import msgspec.inspect as described

_encoder = msgspec.msgpack.Encoder()

_LIST = "list[...] or tuple[..., ...]"
_SET = "set[...] or frozenset[...]"
_DICT = "dict[..., ...]"
# Of these msgspec makes one type, whatever was sent.
_ABSTRACT: dict[Any, str] = {
    collections.abc.Sequence: _LIST,
    collections.abc.MutableSequence: "list[...]",
    collections.abc.Collection: _LIST,
    collections.abc.Set: _SET,
    collections.abc.MutableSet: "set[...]",
    collections.abc.Mapping: _DICT,
    collections.abc.MutableMapping: _DICT,
}
_INSTEAD: dict[str, str] = {
    "pathlib": "send str(path)",
    "ipaddress": "send str(address)",
    "builtins.complex": "send tuple[float, float]",
    "builtins.range": "send its start, stop and step",
    "fractions": "send tuple[int, int]",
    "collections.deque": "send list[...]",
    "collections.Counter": f"send {_DICT}",
    "collections.defaultdict": f"send {_DICT}",
    "collections.OrderedDict": f"send {_DICT}, which keeps its order",
    "collections.abc.Iterable": f"send {_LIST}",
    "collections.abc.Iterator": f"send {_LIST}",
    "collections.abc.AsyncIterator": "only an async generator is a stream",
    "collections.abc.Callable": "functions do not travel",
}


class DoesNotTravel(TypeError):
    """The message says which type, and what to do."""


class IsNoType(DoesNotTravel):
    """Not for msgspec, whatever it is sent for."""


def check_type(annotation: Any) -> None:
    """Raises `DoesNotTravel` for a type of which not all that is sent arrives. The annotation is resolved."""
    try:
        msgspec.msgpack.Decoder(annotation)
        info = described.type_info(annotation)
    except NameError:
        raise
    except Exception as error:
        try:
            _look_at(annotation, set())
        except DoesNotTravel as better:
            raise IsNoType(str(better)) from None
        raise IsNoType(str(error)) from None
    _look_at(annotation, set())
    _look_for_custom(info, set())


def check_default(value: object, annotation: Any) -> None:
    """The default of a parameter, which is sent as any other value where the argument is left out."""
    if value is msgspec.UNSET:
        raise DoesNotTravel("its default UNSET exists in fields of structs only; use None, or a value of your own")
    try:
        body = _encoder.encode(value)
    except Exception as error:
        raise DoesNotTravel(f"its default {_shown(value)} cannot be sent: {error}") from None
    try:
        arrived = msgspec.msgpack.decode(body, type=annotation)
    except Exception as error:
        raise DoesNotTravel(f"its default {_shown(value)} is not of its type: {error}") from None
    if not _is_same(value, arrived):
        raise DoesNotTravel(f"its default {_shown(value)} would arrive as {_shown(arrived)}; make it that")


def _look_at(annotation: Any, seen: set[Any]) -> None:
    """What msgspec's own description no longer shows."""
    try:
        if annotation in seen:
            return
        seen.add(annotation)
    except TypeError:  # an annotation with something unhashable in it
        pass
    origin = typing.get_origin(annotation)
    if isinstance(annotation, typing.TypeVar):
        raise DoesNotTravel(
            f"{annotation.__name__} is a type variable that nothing fills in; name a type, or derive the service as "
            f"class Name(Base[Type])"
        )
    if annotation is msgspec.UnsetType:
        raise DoesNotTravel("UNSET exists in fields of structs only; use None")
    abstract = _ABSTRACT.get(origin if origin is not None else annotation)
    if abstract is not None:
        raise DoesNotTravel(f"{_name(annotation)} would arrive as one type whatever is sent; say which: {abstract}")
    if origin is typing.Literal:
        return
    if origin is typing.Annotated:
        _look_at(typing.get_args(annotation)[0], seen)
        return
    if hasattr(annotation, "__supertype__"):  # of a NewType
        _look_at(annotation.__supertype__, seen)
        return
    if hasattr(annotation, "__value__"):  # of `type Name = ...`
        _look_at(annotation.__value__, seen)
    for argument in typing.get_args(annotation):
        if argument is not Ellipsis and not isinstance(argument, list):
            _look_at(argument, seen)
    cls = origin if origin is not None else annotation
    if isinstance(cls, type) and _has_fields(cls):
        left_open = getattr(cls, "__parameters__", ()) if origin is None else ()
        if left_open:
            names = ", ".join(each.__name__ for each in left_open)
            raise DoesNotTravel(f"{cls.__name__} leaves {names} open; say what it is: {cls.__name__}[...]")
        _look_at_fields(cls, seen)


def _look_at_fields(cls: type, seen: set[Any]) -> None:
    unset = set(_unset_defaults(cls))
    hints: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # what msgspec could resolve, and typing cannot
        hints = typing.get_type_hints(cls, include_extras=True)
    for name, hint in hints.items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        where = f"{cls.__name__}.{name}"
        if hasattr(cls, "__attrs_attrs__") and name.startswith("_"):
            raise DoesNotTravel(
                f"{where} would be left out, as it begins with an underscore; rename it, or use a struct"
            )
        try:
            for part in _parts(hint):
                if part is not msgspec.UnsetType:
                    if not isinstance(part, typing.TypeVar):  # filled in where the class is named
                        _look_at(part, seen)
                elif getattr(getattr(cls, "__struct_config__", None), "array_like", False):
                    raise DoesNotTravel("UNSET cannot be sent in a struct that is array_like; use None")
                elif name not in unset:
                    raise DoesNotTravel("a field that may be UNSET needs UNSET for its default")
        except DoesNotTravel as error:
            raise DoesNotTravel(f"{error} (in {where})") from None


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _unset_defaults(cls: type) -> list[str]:
    if issubclass(cls, msgspec.Struct):
        return [each.name for each in msgspec.structs.fields(cls) if each.default is msgspec.UNSET]
    if dataclasses.is_dataclass(cls):
        return [each.name for each in dataclasses.fields(cls) if each.default is msgspec.UNSET]
    return []


def _has_fields(cls: type) -> bool:
    return (
        issubclass(cls, msgspec.Struct)
        or dataclasses.is_dataclass(cls)
        or hasattr(cls, "__attrs_attrs__")
        or typing.is_typeddict(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )


def _look_for_custom(info: Any, seen: set[int]) -> None:
    """Through msgspec's description."""
    if isinstance(info, described.CustomType):
        if info.cls is object:
            return
        raise DoesNotTravel(f"{_name(info.cls)} is no type of msgspec's; {_instead_of(info.cls)}")
    if isinstance(info, msgspec.Struct):
        if id(info) in seen:
            return
        seen.add(id(info))
        for name in info.__struct_fields__:
            value = getattr(info, name)
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(info, described.Field) and name != "type":
                    continue
                if isinstance(each, described.Type | described.Field):
                    _look_for_custom(each, seen)


def _instead_of(cls: Any) -> str:
    module, name = _module(cls), getattr(cls, "__qualname__", "")
    for key in (f"{module}.{name}", module):
        if key in _INSTEAD:
            return _INSTEAD[key]
    for base, advice in (
        (dict, _DICT),
        (list, "list[...]"),
        (set, "set[...]"),
        (int, "int"),
        (str, "str"),
        (bytes, "bytes"),
    ):
        if isinstance(cls, type) and issubclass(cls, base):
            return f"send {advice}"
    return "make it a msgspec.Struct or a dataclass, or send what it is made of"


def _is_same(sent: Any, arrived: Any) -> bool:
    """Equal and of the same type, all the way down; but an int may arrive as a float."""
    if type(sent) is not type(arrived):
        return type(sent) is int and type(arrived) is float and sent == arrived
    if isinstance(sent, list | tuple):
        return len(sent) == len(arrived) and all(map(_is_same, sent, arrived))
    if isinstance(sent, dict):
        return len(sent) == len(arrived) and all(map(_is_same, sent.items(), arrived.items()))
    if isinstance(sent, set | frozenset):
        return sent == arrived and {type(each) for each in sent} == {type(each) for each in arrived}
    return _encoder.encode(sent) == _encoder.encode(arrived)


def _module(cls: Any) -> str:
    """Under which a user knows it: from CPython 3.13 on `pathlib.Path` says that it is of `pathlib._local`."""
    return str(getattr(cls, "__module__", "")).partition("._")[0]


def _name(annotation: Any) -> str:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        module = _module(annotation)
        return annotation.__qualname__ if module == "builtins" else f"{module}.{annotation.__qualname__}"
    return str(annotation)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."
