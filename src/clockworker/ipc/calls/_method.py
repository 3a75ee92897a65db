"""What the calls of a remote method are made with, and answered: its codecs, and functions that bind its arguments."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable
from types import GenericAlias
from typing import Any

import msgspec

from clockworker._errors import SchemaMismatch
from clockworker.ipc.calls._annotations import is_stream, signature_of
from clockworker.ipc.calls._call_cy import Method
from clockworker.ipc.calls._frames import queue_identifier
from clockworker.ipc.calls._limits import Limits
from clockworker.ipc.calls._remote import (
    RemoteOptions,
    check_parameter,
    check_result,
    item_of,
    meanings_of,
    options_of,
    sent_parameters,
)
from clockworker.ipc.calls._schema import MethodDescription, MethodSchema, describe, digest_of, method_schema


class RemoteMethod(Method):
    """One remote method of a service type, or a remote function: identifier, codecs, where it runs.

    service, owner: the type that is started, and that of its bases which defines the method; None of a function.
    limits: of its streams, in place of the mesh's; both ends have the same.
    """

    limits: Limits | None = None

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
        self.options: RemoteOptions = options_of(function)
        self.streams = is_stream(function)
        self.queue_identifier = 0 if self.options.queue is None else queue_identifier(self.options.queue)
        self.raises = {_type_name(exception): exception for exception in self.options.raises}
        signature = signature_of(function)
        parameters = self._parameters = sent_parameters(function, signature)
        self.parameters = tuple(each.name for each in parameters)
        self.shown = str(signature.replace(parameters=parameters))
        self.bind, self.caller = _functions_of(name, attribute, parameters)
        self.keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        # So many arguments by position are all there are; with keyword-only parameters there is no such number.
        self.count = -1 if self.keywords else len(parameters)
        *taken, result = meanings_of(function, name, parameters, signature, service, owner)
        for parameter, annotation in zip(parameters, taken, strict=True):
            check_parameter(parameter, annotation, name)
        if self.streams:
            result = item_of(result, f"{name}: the result")
        check_result(result, name)
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

    limits: Limits | None = None

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


def _type_name(exception: type[BaseException]) -> str:
    return f"{exception.__module__}.{exception.__qualname__}"
