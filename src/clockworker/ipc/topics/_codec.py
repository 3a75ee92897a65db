"""A topic's type: how messages become bytes and come back, and what peers are told of it.

It is described as the parameter of a method is (`calls._schema`), and two versions understand each other by the same rules:
the publisher's messages must be what the subscriber reads.
"""

from __future__ import annotations

import inspect
import typing
from typing import Any

import msgspec

from clockworker._errors import ConfigurationError, UsageError
from clockworker.ipc.calls._schema import MAX_DESCRIPTION, MethodDescription, MethodSchema, describe, method_schema
from clockworker.ipc.calls._types import DoesNotTravel, check_type
from clockworker.ipc.calls._understanding import understood

_descriptions = msgspec.msgpack.Decoder(MethodDescription)
_WIDER: dict[Any, tuple[type, ...]] = {float: (float, int)}


class Codec:
    """Of one type. Raises `ConfigurationError` for one that does not travel."""

    def __init__(self, annotation: Any) -> None:
        try:
            check_type(annotation)
        except (DoesNotTravel, NameError) as error:
            raise ConfigurationError(f"a topic's type {shown(annotation)} cannot be sent: {error}") from None
        self.annotation = annotation
        self.shown = shown(annotation)
        self.decode = msgspec.msgpack.Decoder(annotation).decode
        description = describe([("message", annotation, _NONE)], None, streams=False, no_default=_NONE)
        self.schema: MethodSchema = method_schema(0, self.shown, description)
        self._classes = _classes_of(annotation)
        self._reasons: dict[str, str] = {}  # why messages are not understood there, by digest; empty if they are

    def check(self, message: object, name: str) -> None:
        """Raise `UsageError` for a message that is plainly of another type. What it is made of is not looked at."""
        classes = self._classes
        if classes is not None and not isinstance(message, classes):
            raise UsageError(
                f"topic {name!r} carries {self.shown}, and was given {type(message).__name__}; nothing was sent"
            )

    def why_not(self, theirs: MethodSchema, peer: int) -> str:
        """Why our messages are not what the peer's subscribers read; empty if they are."""
        if theirs.digest == self.schema.digest:
            return ""
        found = self._reasons.get(theirs.digest)
        if found is None:
            found = self._reasons[theirs.digest] = self._compare(theirs, peer)
        return found

    def _compare(self, theirs: MethodSchema, peer: int) -> str:
        try:
            if len(theirs.description) > MAX_DESCRIPTION:
                raise ValueError("no shard tells so much")
            ours, foreign = (_descriptions.decode(each.description) for each in (self.schema, theirs))
            return understood(ours, foreign, "here", f"on shard {peer}").removeprefix("parameter message: ")
        except Exception:  # not told, or not as it should be
            return "they are too large, or too different, to be compared"


_NONE = inspect.Parameter.empty


def shown(annotation: Any) -> str:
    """A type as its user writes it."""
    text = annotation.__qualname__ if type(annotation) is type or _is_class(annotation) else str(annotation)
    return text if len(text) <= 200 else text[:197] + "..."


def _is_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and typing.get_origin(annotation) is None


def _classes_of(annotation: Any) -> tuple[type, ...] | None:
    """What messages are instances of; None where only their parts would tell."""
    if annotation is None or annotation is type(None):
        return (type(None),)
    if annotation is object or not _is_class(annotation) or typing.is_typeddict(annotation):
        origin = typing.get_origin(annotation)
        return next(((each,) for each in (list, dict, tuple, set, frozenset) if origin is each), None)
    classes: tuple[type, ...] = _WIDER.get(annotation, (annotation,))
    return classes
