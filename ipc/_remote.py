"""What can be called: methods marked `@remote`, their signatures, and the identifiers by which shards agree on them."""

from __future__ import annotations

import inspect
import typing
import zlib
from collections.abc import Callable, Hashable
from types import GenericAlias
from typing import Any, TypeVar, overload

import msgspec

from clockworker._errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__clockworker_remote__"


class RemoteOptions(msgspec.Struct, frozen=True):
    """What `@remote(...)` was given."""

    queue: Hashable | None = None
    raises: tuple[type[Exception], ...] = ()


@overload
def remote(function: F, /) -> F: ...
@overload
def remote(*, queue: Hashable | None = None, raises: tuple[type[Exception], ...] = ()) -> Callable[[F], F]: ...
def remote(
    function: Callable[..., Any] | None = None,
    /,
    *,
    queue: Hashable | None = None,
    raises: tuple[type[Exception], ...] = (),
) -> Any:
    """Let a method of a service be called from other shards.

    The method must be `async def`, every parameter and the result annotated with types that msgspec encodes. It runs in the
    queue named here, else in the caller's, if the shard that runs it has one of that key, else in its first.

    raises: exception types that reach the caller as themselves, made anew from their `args`. Builtin exceptions always do;
        all others become `RemoteError`.
    """

    def mark(function: F) -> F:
        name = getattr(function, "__qualname__", repr(function))
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"@remote takes an `async def` method, and {name} is not one")
        parameters = list(inspect.signature(function).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ConfigurationError(f"{name}: parameter {parameter} cannot be sent; take a list or a dict instead")
            if parameter.annotation is parameter.empty:
                raise ConfigurationError(f"{name}: parameter {parameter.name} needs a type annotation to be sent")
        if inspect.signature(function).return_annotation is inspect.Signature.empty:
            raise ConfigurationError(
                f"{name} needs a return annotation for its result to be sent (None, if it has none)"
            )
        setattr(function, _MARK, RemoteOptions(queue, raises))
        return function

    return mark if function is None else mark(function)


class RemoteMethod:
    """One remote method of a service type: identifier, codecs, where it runs."""

    def __init__(self, service: type, name: str, function: Callable[..., Any]) -> None:
        self.name = f"{service.__name__}.{name}"
        self.attribute = name
        self.options: RemoteOptions = getattr(function, _MARK)
        # Shards run the same code, so the name says it all; a checksum of it fits the frame.
        self.identifier = zlib.crc32(f"{service.__module__}.{service.__qualname__}.{name}".encode())
        self.raises = {_type_name(exception): exception for exception in self.options.raises}
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1:]
        self._signature = signature.replace(parameters=parameters)
        # So many arguments by position are all there are; with keyword-only parameters there is no such number.
        self._count = -1 if any(each.kind is each.KEYWORD_ONLY for each in parameters) else len(parameters)
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError as error:
            raise ConfigurationError(f"{self.name}: an annotation cannot be resolved: {error}") from None
        types: list[Any] = []
        for parameter in parameters:
            types.append(hints[parameter.name])
            _check_type(hints[parameter.name], f"{self.name}: parameter {parameter.name}")
        result = hints["return"]
        _check_type(result, f"{self.name}: the result")
        self.arguments_decoder = msgspec.msgpack.Decoder(GenericAlias(tuple, tuple(types)))
        self.result_decoder = msgspec.msgpack.Decoder(result)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in the order of the parameters, defaults filled in. TypeError as from a plain call."""
        if not kwargs and len(args) == self._count:
            return args
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}() {error}") from None
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    def call(self, instance: Any, arguments: tuple[Any, ...]) -> Any:
        """The coroutine of the instance's method, given all arguments in order."""
        keyword_only = {
            parameter.name: value
            for parameter, value in zip(self._signature.parameters.values(), arguments, strict=True)
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        positional = arguments[: len(arguments) - len(keyword_only)]
        return getattr(instance, self.attribute)(*positional, **keyword_only)


def remote_methods(service: type) -> dict[str, RemoteMethod]:
    """The remote methods of a service type, by attribute. ConfigurationError if there are none."""
    methods = {
        name: RemoteMethod(service, name, function)
        for name, function in inspect.getmembers(service, inspect.isfunction)
        if hasattr(function, _MARK)
    }
    if not methods:
        raise ConfigurationError(f"{service.__qualname__} has no method marked @remote, so no shard could call it")
    return methods


def _check_type(annotation: Any, where: str) -> None:
    try:
        msgspec.msgpack.Decoder(annotation)
    except TypeError as error:
        raise ConfigurationError(f"{where} has a type that cannot be sent: {error}") from None


def _type_name(exception: type[BaseException]) -> str:
    return f"{exception.__module__}.{exception.__qualname__}"
