"""What can be called: methods and functions marked `@remote`, and what is wrong with them.

A signature is looked at twice. The decorator refuses what is wrong with it by itself: an annotation that is missing, or that
msgspec takes for no type. What does not travel (`_types`) it only notes: an application is refused for it once it has been
imported to be served (`noted`), but a script or a tool that merely imports the module is not. And what an annotation names
may not exist yet (the class itself, for one), and a generic base does not know its type variables; so all of it is looked at
when the service is started, or the function first called.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, overload

import msgspec

from clockworker._errors import ConfigurationError
from clockworker.executor._cpython_cy import may_suspend
from clockworker.ipc.calls._annotations import (
    bindings,
    is_asynchronous,
    is_stream,
    names_around,
    names_in,
    resolve,
    signature_of,
    substitute,
)
from clockworker.ipc.calls._types import DoesNotTravel, IsNoType, check_default, check_type

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=type)

_MARK = "__clockworker_remote__"
_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncGenerator, collections.abc.AsyncIterable)


# Of modules, which nobody has looked at since they were marked.
marked_functions: list[Callable[..., Any]] = []

# Module and qualified name of each class of a module that has a marked method.
marked_methods: list[tuple[str, str]] = []


class RemoteOptions(msgspec.Struct, frozen=True):
    """What `@remote(...)` was given. annotations: by parameter ("return" for the result), those that could be resolved where
    the function is defined."""

    queue: Hashable | None = None
    raises: tuple[type[Exception], ...] = ()
    annotations: dict[str, Any] = {}


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
    """Let a method of a service, or a function of a module, be called from other shards.

    It must be `async def`, every parameter and the result annotated with types that msgspec encodes, and decodes to what was
    sent; others are refused by a ConfigurationError that names them, when the application is imported or the service started.
    `Any` is the plain data that msgspec makes of what comes. Decorators above and below are seen through if they use
    `functools.wraps`. If it yields, it is a stream: annotate it `AsyncIterator[Item]`, and iterate the call. It runs in the
    queue named here, else in the caller's, if the shard that runs it has one of that key, else in its first.

    What has no `await`, `async for` or `async with` cannot suspend, and is run for its caller on another shard without a task
    of its own, at less than half the cost. All else is the same, but for `asyncio.current_task()`: that is one task which all
    such calls of the method share, which never ends, and which is not to be cancelled or waited for.

    raises: exception types that reach the caller as themselves, with their `args` and their attributes if these are plain
        values (text, bytes, numbers, and lists, tuples and dicts of them), else made anew from their `args`. Builtin
        exceptions always do; all others become `RemoteError`.
    """

    def mark(function: F) -> F:
        if isinstance(function, staticmethod | classmethod | property):
            raise ConfigurationError(
                f"@remote takes a method with `self`, and not a {type(function).__name__}: {NEEDS_SELF}"
            )
        name = getattr(function, "__qualname__", repr(function))
        if not is_asynchronous(function):
            raise ConfigurationError(f"@remote takes an `async def` method or function, and {name} is not one")
        signature = signature_of(function)
        if not is_of_a_module(function) and not _takes_self(signature):
            raise ConfigurationError(f"{name} takes no `self`: {NEEDS_SELF}")
        parameters = sent_parameters(function, signature)
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                hint = "; if a decorator takes it, that should use functools.wraps" if "<locals>" in name else ""
                raise ConfigurationError(
                    f"{name}: parameter {parameter} cannot be sent; take a list or a dict instead{hint}"
                )
            if parameter.annotation is parameter.empty:
                raise ConfigurationError(f"{name}: parameter {parameter.name} needs a type annotation to be sent")
        if signature.return_annotation is inspect.Signature.empty:
            raise ConfigurationError(
                f"{name} needs a return annotation for its result to be sent (None, if it has none)"
            )
        setattr(function, _MARK, RemoteOptions(queue, raises, _resolve_now(function, name, parameters, signature)))
        if is_of_a_module(function):
            marked_functions.append(function)
        elif "<locals>" not in function.__qualname__:
            marked_methods.append((function.__module__, function.__qualname__.rpartition(".")[0]))
        return function

    return mark if function is None else mark(function)


_NODE_LOCAL = "__clockworker_node_local__"


def node_local(service: T) -> T:
    """A service's class that keeps to its node: `map`, `map_reduce`, `broadcast` and `others` mean the shards of this machine
    only. Without a cluster there are no others.

        @cw.node_local
        class Cache: ...

    Raises ConfigurationError for what is no class.
    """
    if not isinstance(service, type):
        raise ConfigurationError(f"@node_local takes the class of a service, and {service!r} is none")
    setattr(service, _NODE_LOCAL, True)
    return service


def is_node_local(service: type) -> bool:
    """Whether the class, or one of its bases, is marked."""
    return getattr(service, _NODE_LOCAL, False) is True


def is_remote(function: object) -> bool:
    """Whether it is marked `@remote`."""
    return isinstance(getattr(function, _MARK, None), RemoteOptions)


def options_of(function: Callable[..., Any]) -> RemoteOptions:
    """Of one that is marked."""
    options: RemoteOptions = getattr(function, _MARK)
    return options


def can_suspend(function: Callable[..., Any]) -> bool:
    """Whether calling the function, or bound method, makes something that may wait. False only if its code shows that it
    cannot: a coroutine function without an `await`, `async for` or `async with`. All of these yield."""
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType) or not function.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return may_suspend(function.__code__)


def meanings_of(
    function: Callable[..., Any],
    name: str,
    parameters: list[inspect.Parameter],
    signature: inspect.Signature,
    service: type | None,
    owner: type | None,
) -> list[Any]:
    """The types of the parameters, and of the result."""
    known = options_of(function).annotations
    names = {} if service is None or owner is None else names_in(service, owner)
    bound = {} if service is None else bindings(service)
    found = []
    for place, annotation in [*((each.name, each.annotation) for each in parameters), _result(signature)]:
        try:
            meaning = known[place] if place in known else _resolve(function, annotation, {}, names)
            if owner is not None:
                meaning = substitute(meaning, bound, owner)
        except NameError as error:
            raise ConfigurationError(f"{name}: an annotation cannot be resolved: {error}") from None
        found.append(meaning)
    return found


def _resolve_now(
    function: Callable[..., Any], name: str, parameters: list[inspect.Parameter], signature: inspect.Signature
) -> dict[str, Any]:
    """At the decoration: the types that are known already, which are refused if they do not travel. The rest is left for the
    start."""
    found: dict[str, Any] = {}
    names = ({}, {}) if is_of_a_module(function) else names_around(function)
    own = {each.name: each for each in parameters}
    for place, annotation in [*((each.name, each.annotation) for each in parameters), _result(signature)]:
        try:
            meaning = _resolve(function, annotation, *names)
        except NameError:
            continue
        found[place] = meaning
        if _is_open(meaning) and not is_of_a_module(function):
            continue  # what a subclass says it is
        try:
            if place in own:
                check_parameter(own[place], meaning, name)
            else:
                check_result(item_of(meaning, f"{name}: the result") if is_stream(function) else meaning, name)
        except NameError:  # a field's type is not there yet
            continue
        except _Noted as error:
            if "<locals>" not in function.__qualname__:
                _noted.append(str(error))
    return found


def _resolve(function: Callable[..., Any], annotation: Any, first: dict[str, Any], last: dict[str, Any]) -> Any:
    """With the names that hide those of the module, and if need be with those that are hidden by them."""
    try:
        return resolve(function, annotation, first)
    except NameError:
        if not last:
            raise
        return resolve(function, annotation, {**last, **first})


def result_type(function: Callable[..., Any]) -> Any:
    """What a method or function returns, marked or not, as far as it is known without its service."""
    options = getattr(function, _MARK, None)
    if isinstance(options, RemoteOptions) and "return" in options.annotations:
        return options.annotations["return"]
    return typing.get_type_hints(function).get("return", Any)


def _result(signature: inspect.Signature) -> tuple[str, Any]:
    return "return", signature.return_annotation


def _is_open(annotation: Any) -> bool:
    return isinstance(annotation, TypeVar) or bool(
        not isinstance(annotation, type) and getattr(annotation, "__parameters__", ())
    )


def is_of_a_module(function: Callable[..., Any]) -> bool:
    return "." not in function.__qualname__


def sent_parameters(function: Callable[..., Any], signature: inspect.Signature) -> list[inspect.Parameter]:
    parameters = list(signature.parameters.values())
    return parameters if is_of_a_module(function) else parameters[1:]  # self


NEEDS_SELF = "make it a method with `self`, or a function of the module, which `shard.call` calls"


def _takes_self(signature: inspect.Signature) -> bool:
    first = next(iter(signature.parameters.values()), None)
    return first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)


class _Noted(ConfigurationError):
    """It does not travel."""


_noted: list[str] = []


def noted(before: int = 0) -> list[str]:
    """What decorators have found that does not travel, in classes and functions of modules: all of it but the first so many."""
    return _noted[before:]


def check_parameter(parameter: inspect.Parameter, annotation: Any, name: str) -> None:
    where = f"{name}: parameter {parameter.name}"
    _check_type(annotation, where)
    if parameter.default is not parameter.empty:
        try:
            check_default(parameter.default, annotation)
        except DoesNotTravel as error:
            raise _Noted(f"{where} cannot be left out: {error}") from None


def check_result(annotation: Any, name: str) -> None:
    _check_type(annotation, f"{name}: the result")


def item_of(annotation: Any, where: str) -> Any:
    if typing.get_origin(annotation) not in _STREAMS:
        raise ConfigurationError(f"{where} is a stream; annotate it AsyncIterator[Item], and not {annotation!r}")
    return typing.get_args(annotation)[0]


def _check_type(annotation: Any, where: str) -> None:
    try:
        check_type(annotation)
    except DoesNotTravel as error:
        kind = ConfigurationError if isinstance(error, IsNoType) else _Noted
        raise kind(f"{where} has a type that cannot be sent: {error}") from None
