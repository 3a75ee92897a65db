"""Services that hand over their state: `hand_over`, `take_over`, and what is wrong with them.

    async def hand_over(self) -> State                        async def take_over(self, state: State) -> None
    async def hand_over(self) -> AsyncIterator[Part]          async def take_over(self, parts: AsyncIterator[Part]) -> None

The first of a pair runs in the shard that is replaced and the second in its successor, which may be another version of the
application. So each has a type of its own: `take_over` may read more than this version's `hand_over` gives, a union with the
type that the version before gave. What this version gives it must read.

The methods are known by their names alone. They are looked at when the service is started, and before that when the application
has been imported, of each class that has a method marked `@remote` there (`mistakes`).
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.ipc.calls._annotations import (
    bindings,
    is_asynchronous,
    is_stream,
    names_in,
    resolve,
    signature_of,
    substitute,
)
from clockworker.ipc.calls._definitions import service_name
from clockworker.ipc.calls._remote import is_remote, item_of, marked_methods
from clockworker.ipc.calls._schema import describe
from clockworker.ipc.calls._types import DoesNotTravel, check_type
from clockworker.ipc.calls._understanding import understood

HAND_OVER = "hand_over"
TAKE_OVER = "take_over"


class StateMethods:
    """What moves of a service. service: its name among shards. label: for messages. streams: it comes in parts. decode: what
    `take_over` takes, or a part of it."""

    def __init__(self, service: type) -> None:
        self.service = service_name(service)
        self.label = service.__name__
        give, take = _method(service, HAND_OVER), _method(service, TAKE_OVER)
        self.streams = is_stream(give)
        given, taken = _given(service, give), _taken(service, take)
        if self.streams:
            given = item_of(given, f"{self.label}.{HAND_OVER}: the result")
            taken = item_of(taken, f"{self.label}.{TAKE_OVER} takes what {HAND_OVER} yields: its parameter")
        _check(given, f"{self.label}.{HAND_OVER}: the result")
        _check(taken, f"{self.label}.{TAKE_OVER}: its parameter")
        _compare(self.label, given, taken)
        self.decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(taken).decode


def state_methods(service: type) -> StateMethods | None:
    """None if it has no state that moves. Raises ConfigurationError if one of the two methods is missing, or is not as it
    should be."""
    found = [name for name in (HAND_OVER, TAKE_OVER) if getattr(service, name, None) is not None]
    if not found:
        return None
    if len(found) == 1:
        if is_remote(getattr(service, found[0])):
            return None  # a method of the application's own, by chance of that name
        other = TAKE_OVER if found[0] == HAND_OVER else HAND_OVER
        raise ConfigurationError(
            f"{service.__name__} has {found[0]}() and no {other}(): a service whose state moves to its successor has both, "
            f"`async def {HAND_OVER}(self) -> State` and `async def {TAKE_OVER}(self, state: State) -> None`"
        )
    return StateMethods(service)


def mistakes() -> list[str]:
    """Of the classes of modules that have a method marked `@remote`."""
    found = []
    for module, name in dict.fromkeys(marked_methods):
        cls: Any = sys.modules.get(module)
        for part in name.split("."):
            cls = getattr(cls, part, None)
        is_open = hasattr(cls, "__parameters__") and cls.__parameters__  # what is, a subclass fills in
        if not isinstance(cls, type) or is_open:
            continue
        try:
            state_methods(cls)
        except ConfigurationError as error:
            found.append(str(error))
    return found


def _method(service: type, name: str) -> Callable[..., Any]:
    method = inspect.getattr_static(service, name)
    label = f"{service.__name__}.{name}"
    if is_remote(method):
        raise ConfigurationError(
            f"{label} is marked @remote, and no shard calls it: it runs when its shard is replaced; take the mark away"
        )
    if not inspect.isfunction(method) or not is_asynchronous(method):
        raise ConfigurationError(f"{label} must be an `async def` method, and is not one")
    return method


def _given(service: type, method: Callable[..., Any]) -> Any:
    label, signature = f"{service.__name__}.{HAND_OVER}", signature_of(method)
    if len(signature.parameters) != 1:
        raise ConfigurationError(f"{label}{signature} takes nothing but self: `async def {HAND_OVER}(self) -> State`")
    if signature.return_annotation is inspect.Signature.empty:
        raise ConfigurationError(f"{label} needs a return annotation: the type of what it hands over")
    return _meaning(service, method, label, signature.return_annotation)


def _taken(service: type, method: Callable[..., Any]) -> Any:
    label, signature = f"{service.__name__}.{TAKE_OVER}", signature_of(method)
    parameters = [*signature.parameters.values()][1:]
    if len(parameters) != 1 or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise ConfigurationError(
            f"{label}{signature} takes one argument: `async def {TAKE_OVER}(self, state: State) -> None`"
        )
    if is_stream(method):
        raise ConfigurationError(f"{label} yields; it takes what {HAND_OVER} hands over, and returns")
    if parameters[0].annotation is inspect.Parameter.empty:
        raise ConfigurationError(f"{label}: parameter {parameters[0].name} needs a type annotation to be read")
    return _meaning(service, method, label, parameters[0].annotation)


def _meaning(service: type, method: Callable[..., Any], label: str, annotation: Any) -> Any:
    owner = next(cls for cls in service.__mro__ if vars(cls).get(method.__name__) is method)
    names = names_in(service, owner)
    try:
        try:
            meaning = resolve(method, annotation, {})
        except NameError:
            meaning = resolve(method, annotation, names)
    except NameError as error:
        raise ConfigurationError(f"{label}: an annotation cannot be resolved: {error}") from None
    return substitute(meaning, bindings(service), owner)


def _check(annotation: Any, where: str) -> None:
    try:
        check_type(annotation)
    except DoesNotTravel as error:
        raise ConfigurationError(f"{where} has a type that cannot be handed over: {error}") from None


def _compare(label: str, given: Any, taken: Any) -> None:
    if given == taken or taken in (Any, object) or given in typing.get_args(taken):
        return
    nothing = inspect.Parameter.empty
    why = understood(
        describe([("state", given, nothing)], None, streams=False, no_default=nothing),
        describe([("state", taken, nothing)], None, streams=False, no_default=nothing),
        f"in {HAND_OVER}",
        f"in {TAKE_OVER}",
    )
    if why:
        raise ConfigurationError(f"{label}.{TAKE_OVER} cannot read what {HAND_OVER} hands over: {why}")
