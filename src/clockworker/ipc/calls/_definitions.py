"""Where remote methods are found: those of a service's class, and the functions of modules.

When a service is started the attributes of its class are looked at, and those of its bases: what is marked and cannot be called
as it is defined (a static method, one hidden by a decorator, one overridden without the mark) is refused, with what to do.

In a frame a method is a checksum of its name: whatever version of it the peer has, the peer knows which method is meant, and
whether it understands the call (see `_understanding`). So is a function of a module.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from clockworker._errors import ConfigurationError, UsageError
from clockworker.ipc.calls._annotations import layers
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._remote import NEEDS_SELF, is_of_a_module, is_remote, marked_functions
from clockworker.ipc.calls._schema import ServiceSchema


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
        raise ConfigurationError(f"{name} is marked @remote and is a {type(value).__name__}: {NEEDS_SELF}")
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
_by_function: dict[Callable[..., Any], RemoteMethod] = {}
_by_identifier: dict[int, tuple[RemoteMethod, Callable[..., Any]]] = {}


def remote_function(function: Callable[..., Any]) -> RemoteMethod:
    """What the calls of a module's function are made with. UsageError if it is not marked."""
    found = _by_function.get(function)
    if found is not None:
        return found
    if not is_remote(function) or not is_of_a_module(function):
        raise UsageError(
            f"{getattr(function, '__qualname__', function)!s} cannot be called on a shard by itself: "
            "mark it @remote, and have it at the top of a module; methods are called through their service"
        )
    name = f"{function.__module__}.{function.__qualname__}"
    method = _by_function[function] = RemoteMethod(function, name, "", name)
    return method


def function_of(identifier: int) -> tuple[RemoteMethod, Callable[..., Any]] | None:
    """The function that a peer means."""
    while marked_functions:
        # One that is wrong says so to those who call it here; it is no reason not to find the others.
        with contextlib.suppress(ConfigurationError):
            function = _outermost(marked_functions.pop())
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
