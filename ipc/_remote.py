"""What can be called: methods and functions marked `@remote`, their signatures, and what shards agree on them by.

A signature is looked at twice. The decorator refuses at import what can be refused there: an annotation that is missing, or of
a type that cannot be sent. What an annotation names may not exist yet (the class itself, for one); then it is resolved when the
service is started, or the function first called.

In a frame a method is a checksum of its name: whatever version of it the peer has, the peer knows which method is meant, and
that it is another version (see `_schema`). A module-level function is a checksum of name and signature, since nothing is
exchanged about functions beforehand: another version is one that the peer does not know.
"""

from __future__ import annotations

import collections.abc
import contextlib
import dis
import inspect
import types
import typing
import zlib
from collections.abc import Callable, Hashable
from types import GenericAlias
from typing import Any, TypeVar, overload

import msgspec

from clockworker._errors import ConfigurationError, UsageError
from clockworker.ipc._call_cy import Method
from clockworker.ipc._frames import queue_identifier
from clockworker.ipc._schema import digest

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__clockworker_remote__"
# Opcodes. An await is the first and the second, followed by the third, in which it suspends: one would do.
_SUSPENDS = frozenset({"GET_AWAITABLE", "SEND", "YIELD_VALUE"})
_STREAMS = (collections.abc.AsyncIterator, collections.abc.AsyncGenerator, collections.abc.AsyncIterable)


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
    """Let a method of a service, or a function of a module, be called from other shards.

    It must be `async def`, every parameter and the result annotated with types that msgspec encodes. If it yields, it is a
    stream: annotate it `AsyncIterator[Item]`, and iterate the call. It runs in the queue named here, else in the caller's, if
    the shard that runs it has one of that key, else in its first.

    What has no `await`, `async for` or `async with` cannot suspend, and is run for its caller on another shard without a task
    of its own, at less than half the cost. All else is the same, but for `asyncio.current_task()`: that is one task which all
    such calls of the method share, which never ends, and which is not to be cancelled or waited for.

    raises: exception types that reach the caller as themselves, made anew from their `args`. Builtin exceptions always do;
        all others become `RemoteError`.
    """

    def mark(function: F) -> F:
        name = getattr(function, "__qualname__", repr(function))
        if not inspect.iscoroutinefunction(function) and not inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"@remote takes an `async def` method or function, and {name} is not one")
        signature = inspect.signature(function)
        parameters = _sent_parameters(function, signature)
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ConfigurationError(f"{name}: parameter {parameter} cannot be sent; take a list or a dict instead")
            if parameter.annotation is parameter.empty:
                raise ConfigurationError(f"{name}: parameter {parameter.name} needs a type annotation to be sent")
        if signature.return_annotation is inspect.Signature.empty:
            raise ConfigurationError(
                f"{name} needs a return annotation for its result to be sent (None, if it has none)"
            )
        for parameter in parameters:
            _check_now(function, parameter.annotation, f"{name}: parameter {parameter.name}")
        _check_now(function, signature.return_annotation, f"{name}: the result", inspect.isasyncgenfunction(function))
        setattr(function, _MARK, RemoteOptions(queue, raises))
        if _is_of_a_module(function):
            _functions.append(function)
        return function

    return mark if function is None else mark(function)


def is_remote(function: object) -> bool:
    """Whether it is marked `@remote`."""
    return hasattr(function, _MARK)


def can_suspend(function: Callable[..., Any]) -> bool:
    """Whether calling the function, or bound method, makes something that may wait. False only if its code shows that it
    cannot: a coroutine function without an `await`, `async for` or `async with`. All of these yield."""
    if isinstance(function, types.MethodType):
        function = function.__func__
    if not isinstance(function, types.FunctionType) or not function.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return any(instruction.opname in _SUSPENDS for instruction in dis.get_instructions(function))


class RemoteMethod(Method):
    """One remote method of a service type, or a remote function: identifier, codecs, where it runs."""

    def __init__(self, function: Callable[..., Any], name: str, attribute: str, identity: str) -> None:
        self.name = name
        self.attribute = attribute
        self.options: RemoteOptions = getattr(function, _MARK)
        self.streams = inspect.isasyncgenfunction(function)
        self.queue_identifier = 0 if self.options.queue is None else queue_identifier(self.options.queue)
        self.raises = {_type_name(exception): exception for exception in self.options.raises}
        signature = inspect.signature(function)
        parameters = _sent_parameters(function, signature)
        self.shown = str(signature.replace(parameters=parameters))
        self.bind, self.caller = _functions_of(name, attribute, parameters)
        self.keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        # So many arguments by position are all there are; with keyword-only parameters there is no such number.
        self.count = -1 if self.keywords else len(parameters)
        try:
            taken = [_resolve(function, each.annotation) for each in parameters]
            result = _resolve(function, signature.return_annotation)
        except NameError as error:
            raise ConfigurationError(f"{name}: an annotation cannot be resolved: {error}") from None
        for parameter, annotation in zip(parameters, taken, strict=True):
            _check_type(annotation, f"{name}: parameter {parameter.name}")
        if self.streams:
            result = _item_of(result, f"{name}: the result")
        _check_type(result, f"{name}: the result")
        self.decode_arguments = msgspec.msgpack.Decoder(GenericAlias(tuple, tuple(taken))).decode
        self.decode_result = msgspec.msgpack.Decoder(result).decode
        self.digest = digest([each.name for each in parameters], taken, result, streams=self.streams)
        if attribute:
            self.identifier = zlib.crc32(identity.encode())
        else:
            self.identifier = zlib.crc32(f"{identity} {self.digest}".encode())

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, or a bound method, as one that takes all arguments by position."""
        if not self.keywords:
            return function
        names = self.keywords

        def by_position(*args: Any) -> Any:
            return function(*args[: -len(names)], **dict(zip(names, args[-len(names) :], strict=True)))

        return by_position


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
    """The remote methods of a service type, by attribute. ConfigurationError if there are none."""
    methods = {
        name: RemoteMethod(function, f"{service.__name__}.{name}", name, f"{service_name(service)}.{name}")
        for name, function in inspect.getmembers(service, inspect.isfunction)
        if is_remote(function)
    }
    if not methods:
        raise ConfigurationError(f"{service.__qualname__} has no method marked @remote, so no shard could call it")
    return methods


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
    _by_identifier[method.identifier] = method, function
    return method


def function_of(identifier: int) -> tuple[RemoteMethod, Callable[..., Any]] | None:
    """The function that a peer means."""
    while _functions:
        # One that is wrong says so to those who call it here; it is no reason not to find the others.
        with contextlib.suppress(ConfigurationError):
            remote_function(_functions.pop())
    return _by_identifier.get(identifier)


def _is_of_a_module(function: Callable[..., Any]) -> bool:
    return "." not in function.__qualname__


def _sent_parameters(function: Callable[..., Any], signature: inspect.Signature) -> list[inspect.Parameter]:
    parameters = list(signature.parameters.values())
    return parameters if _is_of_a_module(function) else parameters[1:]  # self


def _resolve(function: Callable[..., Any], annotation: Any) -> Any:
    """What an annotation means. NameError if it names something that is not there, or not yet."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return typing.get_type_hints(holder, function.__globals__, include_extras=True)["it"]


def _check_now(function: Callable[..., Any], annotation: Any, where: str, streams: bool = False) -> None:
    """At the decoration: what cannot be resolved yet is left for the start."""
    try:
        found = _resolve(function, annotation)
        _check_type(_item_of(found, where) if streams else found, where)
    except NameError:
        pass


def _item_of(annotation: Any, where: str) -> Any:
    if typing.get_origin(annotation) not in _STREAMS:
        raise ConfigurationError(f"{where} is a stream; annotate it AsyncIterator[Item], and not {annotation!r}")
    return typing.get_args(annotation)[0]


def _check_type(annotation: Any, where: str) -> None:
    try:
        msgspec.msgpack.Decoder(annotation)
    except TypeError as error:
        raise ConfigurationError(f"{where} has a type that cannot be sent: {error}") from None


def _type_name(exception: type[BaseException]) -> str:
    return f"{exception.__module__}.{exception.__qualname__}"
