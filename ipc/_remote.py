"""What can be called: methods and functions marked `@remote`, their signatures, and what shards agree on them by.

A signature is looked at twice. The decorator refuses what is wrong with it by itself: an annotation that is missing, or that
msgspec takes for no type. What does not travel (`_types`) it only notes: an application is refused for it once it has been
imported to be served (`noted`), but a script or a tool that merely imports the module is not. And what an annotation names
may not exist yet (the class itself, for one), and a generic base does not know its type variables; so all of it is looked at
when the service is started, or the function first called.

At the start the attributes of the class are looked at, its bases' too: what is marked and cannot be called as it is defined (a
static method, one hidden by a decorator, one overridden without the mark) is refused, with what to do.

In a frame a method is a checksum of its name: whatever version of it the peer has, the peer knows which method is meant, and
whether it understands the call (see `_schema`). So is a function of a module.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import inspect
import sys
import types
import typing
import zlib
from collections.abc import Callable, Hashable, Mapping
from types import GenericAlias
from typing import Any, TypeVar, overload

import msgspec

from clockworker._errors import ConfigurationError, SchemaMismatch, UsageError
from clockworker.executor._cpython_cy import may_suspend
from clockworker.ipc._annotations import (
    bindings,
    is_asynchronous,
    is_stream,
    layers,
    names_around,
    names_in,
    resolve,
    signature_of,
    substitute,
)
from clockworker.ipc._call_cy import Method
from clockworker.ipc._frames import queue_identifier
from clockworker.ipc._schema import MethodDescription, MethodSchema, ServiceSchema, describe, digest_of, method_schema
from clockworker.ipc._types import DoesNotTravel, IsNoType, check_default, check_type

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__clockworker_remote__"
_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncGenerator, collections.abc.AsyncIterable)


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
                f"@remote takes a method with `self`, and not a {type(function).__name__}: {_SELF}"
            )
        name = getattr(function, "__qualname__", repr(function))
        if not is_asynchronous(function):
            raise ConfigurationError(f"@remote takes an `async def` method or function, and {name} is not one")
        signature = signature_of(function)
        if not _is_of_a_module(function) and not _takes_self(signature):
            raise ConfigurationError(f"{name} takes no `self`: {_SELF}")
        parameters = _sent_parameters(function, signature)
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
        if _is_of_a_module(function):
            _functions.append(function)
        return function

    return mark if function is None else mark(function)


def is_remote(function: object) -> bool:
    """Whether it is marked `@remote`."""
    return isinstance(getattr(function, _MARK, None), RemoteOptions)


def can_suspend(function: Callable[..., Any]) -> bool:
    """Whether calling the function, or bound method, makes something that may wait. False only if its code shows that it
    cannot: a coroutine function without an `await`, `async for` or `async with`. All of these yield."""
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType) or not function.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return may_suspend(function.__code__)


class RemoteMethod(Method):
    """One remote method of a service type, or a remote function: identifier, codecs, where it runs.

    service, owner: the type that is started, and that of its bases which defines the method; None of a function.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        attribute: str,
        identity: str,
        service: type | None = None,
        owner: type | None = None,
    ) -> None:
        self.name = name
        self.attribute = attribute
        self.options: RemoteOptions = getattr(function, _MARK)
        self.streams = is_stream(function)
        self.queue_identifier = 0 if self.options.queue is None else queue_identifier(self.options.queue)
        self.raises = {_type_name(exception): exception for exception in self.options.raises}
        signature = signature_of(function)
        parameters = self._parameters = _sent_parameters(function, signature)
        self.parameters = tuple(each.name for each in parameters)
        self.shown = str(signature.replace(parameters=parameters))
        self.bind, self.caller = _functions_of(name, attribute, parameters)
        self.keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        # So many arguments by position are all there are; with keyword-only parameters there is no such number.
        self.count = -1 if self.keywords else len(parameters)
        *taken, result = _meanings(function, name, parameters, signature, service, owner)
        for parameter, annotation in zip(parameters, taken, strict=True):
            _check_parameter(parameter, annotation, name)
        if self.streams:
            result = _item_of(result, f"{name}: the result")
        _check_result(result, name)
        self.types = dict(zip(self.parameters, taken, strict=True))
        self.decode_arguments = msgspec.msgpack.Decoder(GenericAlias(tuple, tuple(taken))).decode
        self.decode_result = msgspec.msgpack.Decoder(result).decode
        self.identifier = zlib.crc32(identity.encode())
        description = describe(
            [(each.name, kind, each.default) for each, kind in zip(parameters, taken, strict=True)],
            result,
            streams=self.streams,
            no_default=inspect.Parameter.empty,
        )
        self.schema: MethodSchema = method_schema(self.identifier, self.shown, description)

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, or a bound method, as one that takes all arguments by position."""
        if not self.keywords:
            return function
        names = self.keywords

        def by_position(*args: Any) -> Any:
            return function(*args[: -len(names)], **dict(zip(names, args[-len(names) :], strict=True)))

        return by_position

    def fitted_to(self, version: MethodDescription, peer: int) -> FittedMethod:
        """The method as that peer calls it, whose version has other parameters (see `_schema`)."""
        return FittedMethod(self, version, peer)


class FittedMethod(Method):
    """A method for the calls of a peer whose version has other parameters, which has been found to be understood."""

    def __init__(self, method: RemoteMethod, version: MethodDescription, peer: int) -> None:
        self.name = method.name
        self.identifier = method.identifier
        self.queue_identifier = method.queue_identifier
        self.streams = method.streams
        self.parameters = tuple(each.name for each in version.parameters)
        self.raises = method.raises
        self.decode_result = method.decode_result
        kinds = tuple(method.types.get(name, msgspec.Raw) for name in self.parameters)
        self.decode_arguments = msgspec.msgpack.Decoder(GenericAlias(tuple, kinds)).decode
        self._unknown = {each.name: each.default for each in version.parameters if each.name not in method.types}
        self._own = method._parameters
        self._shown = method.shown
        self._peer = peer

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As `RemoteMethod.on`, of what that makes. It raises SchemaMismatch where a parameter that is not known here was
        given a value other than its default."""

        def fitted(*args: Any) -> Any:
            given = dict(zip(self.parameters, args, strict=True))
            for name, default in self._unknown.items():
                if digest_of(given[name]) != default:
                    raise SchemaMismatch(
                        f"{self.name} was given {name}, which shard {self._peer} knows and the shard that it called does "
                        f"not; that has {self.name}{self._shown}"
                    )
            return function(*[given.get(each.name, each.default) for each in self._own])

        return fitted


def _meanings(
    function: Callable[..., Any],
    name: str,
    parameters: list[inspect.Parameter],
    signature: inspect.Signature,
    service: type | None,
    owner: type | None,
) -> list[Any]:
    """The types of the parameters, and of the result."""
    known = getattr(function, _MARK).annotations
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
    names = ({}, {}) if _is_of_a_module(function) else names_around(function)
    own = {each.name: each for each in parameters}
    for place, annotation in [*((each.name, each.annotation) for each in parameters), _result(signature)]:
        try:
            meaning = _resolve(function, annotation, *names)
        except NameError:
            continue
        found[place] = meaning
        if _is_open(meaning) and not _is_of_a_module(function):
            continue  # what a subclass says it is
        try:
            if place in own:
                _check_parameter(own[place], meaning, name)
            else:
                _check_result(_item_of(meaning, f"{name}: the result") if is_stream(function) else meaning, name)
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


class _Name:
    """Is shown in a signature as what it names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _functions_of(
    name: str, attribute: str, parameters: list[inspect.Parameter]
) -> tuple[Callable[..., tuple[Any, ...]], Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """What takes the arguments of a call, and returns all of them in the order of the parameters, defaults filled in; and
    what makes an `async def` that takes them of something that takes that tuple and returns what to await.

    They are functions of these very parameters, so that Python itself binds the arguments, and says what is wrong with them,
    in the time of a plain call. `inspect.Signature.bind` takes longer than all else that a call between shards does.
    """
    defaults = {f"default_{number}": each.default for number, each in enumerate(parameters)}
    bare = [
        each.replace(
            annotation=each.empty, default=each.empty if each.default is each.empty else _Name(f"default_{number}")
        )
        for number, each in enumerate(parameters)
    ]
    signature = inspect.Signature(bare)
    bound = "".join(f"{each.name}, " for each in parameters)
    new = "new"
    while any(each.name == new for each in parameters):
        new += "_"
    namespace: dict[str, Any] = defaults
    exec(
        f"def bind{signature}: return ({bound})\n"
        f"def caller({new}):\n"
        f"    async def call{signature}: return await {new}(({bound}))\n"
        f"    return call\n",
        namespace,
    )
    bind, make = namespace["bind"], namespace["caller"]
    bind.__name__ = bind.__qualname__ = name

    def caller(new: Callable[..., Any]) -> Callable[..., Any]:
        call: Callable[..., Any] = make(new)
        call.__name__ = attribute or name
        call.__qualname__ = name  # which names the tasks that are made of it
        return call

    return bind, caller


def remote_methods(service: type) -> dict[str, RemoteMethod]:
    """The remote methods of a service type, by attribute. ConfigurationError if there are none, or if one that is marked
    cannot be called as it is defined."""
    if typing.get_origin(service) is not None:
        raise ConfigurationError(f"{service} cannot be started: derive a class from it, `class Name({service})`")
    methods = {}
    for attribute, (owner, value) in sorted(_attributes(service).items()):
        name = f"{service.__name__}.{attribute}"
        if not is_remote(value) or not hasattr(type(value), "__get__") or isinstance(value, staticmethod | classmethod):
            _check_unmarked(service, attribute, owner, value)
            continue
        if attribute.startswith("__") and attribute.endswith("__"):
            raise ConfigurationError(f"{name} is a special method, which @remote cannot make callable: rename it")
        identity = f"{service_name(service)}.{attribute}"
        methods[attribute] = RemoteMethod(value, name, attribute, identity, service, owner)
    if not methods:
        raise ConfigurationError(f"{service.__qualname__} has no method marked @remote, so no shard could call it")
    return methods


def service_schema(service: type, methods: Mapping[str, RemoteMethod]) -> ServiceSchema:
    """What peers are told of a service."""
    return ServiceSchema(service_name(service), {name: method.schema for name, method in methods.items()})


def _attributes(service: type) -> dict[str, tuple[type, Any]]:
    """As they are defined, with the class that defines them."""
    found: dict[str, tuple[type, Any]] = {}
    for cls in service.__mro__:
        for attribute, value in vars(cls).items():
            found.setdefault(attribute, (cls, value))
    return found


def _check_unmarked(service: type, attribute: str, owner: type, value: Any) -> None:
    """Refuse what looks marked, or looks as if it were not, and is something else."""
    name = f"{owner.__name__}.{attribute}"
    if isinstance(value, staticmethod | classmethod) and _marked_within(value) is not None:
        raise ConfigurationError(f"{name} is marked @remote and is a {type(value).__name__}: {_SELF}")
    if value is None:  # taken away on purpose
        return
    marked = _marked_within(value)
    if marked is not None and marked.__qualname__ == f"{owner.__qualname__}.{attribute}":
        raise ConfigurationError(
            f"{name} is marked @remote, and {type(value).__name__} around it hides that: put @remote outermost, or let the "
            "decorator use functools.wraps"
        )
    for cls in service.__mro__[service.__mro__.index(owner) + 1 :]:
        overridden = vars(cls).get(attribute, _NOTHING)
        if overridden is None:
            return
        if is_remote(overridden):
            raise ConfigurationError(
                f"{name} overrides {cls.__name__}.{attribute}, which is marked @remote, and is not marked itself: mark it "
                f"@remote, too, or set {attribute} = None"
            )


_NOTHING = object()


def _marked_within(value: Any, depth: int = 3) -> Any:
    """The function marked `@remote` that a descriptor, a partial or a decorator's function holds, if there is one."""
    inner = []
    for name in ("__func__", "__wrapped__", "fget", "func"):
        with contextlib.suppress(Exception):  # an object with a mind of its own
            inner.append(getattr(value, name))
    if isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # empty yet
                inner.append(cell.cell_contents)
    for each in inner:
        if isinstance(each, types.FunctionType | types.MethodType | functools.partial | functools.partialmethod):
            if is_remote(each):
                return each
            found = _marked_within(each, depth - 1) if depth else None
            if found is not None:
                return found
    return None


def service_name(service: type) -> str:
    """What shards call a service among themselves."""
    return f"{service.__module__}.{service.__qualname__}"


# Functions of modules. Each shard imports the same modules, and so knows the same functions.
_functions: list[Callable[..., Any]] = []  # whose signature no peer has asked for yet
_by_function: dict[Callable[..., Any], RemoteMethod] = {}
_by_identifier: dict[int, tuple[RemoteMethod, Callable[..., Any]]] = {}


def remote_function(function: Callable[..., Any]) -> RemoteMethod:
    """What the calls of a module's function are made with. UsageError if it is not marked."""
    found = _by_function.get(function)
    if found is not None:
        return found
    if not is_remote(function) or not _is_of_a_module(function):
        raise UsageError(
            f"{getattr(function, '__qualname__', function)!s} cannot be called on a shard by itself: "
            "mark it @remote, and have it at the top of a module; methods are called through their service"
        )
    name = f"{function.__module__}.{function.__qualname__}"
    method = _by_function[function] = RemoteMethod(function, name, "", name)
    return method


def function_of(identifier: int) -> tuple[RemoteMethod, Callable[..., Any]] | None:
    """The function that a peer means."""
    while _functions:
        # One that is wrong says so to those who call it here; it is no reason not to find the others.
        with contextlib.suppress(ConfigurationError):
            function = _outermost(_functions.pop())
            method = remote_function(function)
            _by_identifier.setdefault(method.identifier, (method, function))
    return _by_identifier.get(identifier)


def function_schema(method: RemoteMethod) -> ServiceSchema:
    """What a peer is told of a function that is called there."""
    return ServiceSchema(method.name, {FUNCTION: method.schema})


FUNCTION = ""  # stands for the function itself, where a service has the names of its methods


def _outermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """What its module has under its name: a decorator above `@remote` may have wrapped it."""
    found = getattr(sys.modules.get(function.__module__), function.__name__, None)
    if found is not None and is_remote(found) and any(layer is function for layer in layers(found)):
        return found  # type: ignore[no-any-return]
    return function


def _is_of_a_module(function: Callable[..., Any]) -> bool:
    return "." not in function.__qualname__


def _sent_parameters(function: Callable[..., Any], signature: inspect.Signature) -> list[inspect.Parameter]:
    parameters = list(signature.parameters.values())
    return parameters if _is_of_a_module(function) else parameters[1:]  # self


_SELF = "make it a method with `self`, or a function of the module, which `shard.call` calls"


def _takes_self(signature: inspect.Signature) -> bool:
    first = next(iter(signature.parameters.values()), None)
    return first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)


class _Noted(ConfigurationError):
    """It does not travel."""


_noted: list[str] = []


def noted(before: int = 0) -> list[str]:
    """What decorators have found that does not travel, in classes and functions of modules: all of it but the first so many."""
    return _noted[before:]


def _check_parameter(parameter: inspect.Parameter, annotation: Any, name: str) -> None:
    where = f"{name}: parameter {parameter.name}"
    _check_type(annotation, where)
    if parameter.default is not parameter.empty:
        try:
            check_default(parameter.default, annotation)
        except DoesNotTravel as error:
            raise _Noted(f"{where} cannot be left out: {error}") from None


def _check_result(annotation: Any, name: str) -> None:
    _check_type(annotation, f"{name}: the result")


def _item_of(annotation: Any, where: str) -> Any:
    if typing.get_origin(annotation) not in _STREAMS:
        raise ConfigurationError(f"{where} is a stream; annotate it AsyncIterator[Item], and not {annotation!r}")
    return typing.get_args(annotation)[0]


def _check_type(annotation: Any, where: str) -> None:
    try:
        check_type(annotation)
    except DoesNotTravel as error:
        kind = ConfigurationError if isinstance(error, IsNoType) else _Noted
        raise kind(f"{where} has a type that cannot be sent: {error}") from None


def _type_name(exception: type[BaseException]) -> str:
    return f"{exception.__module__}.{exception.__qualname__}"
