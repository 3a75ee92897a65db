"""What the annotations of a function mean, once decorators, strings and type variables have been seen through.

A decorator with `functools.wraps` leaves the function that it wraps in `__wrapped__`. What is asked of a function here is asked
of what it wraps: its globals, in which names are looked up, and whether it yields. Only a wrapper that is itself a coroutine
function or an asynchronous generator knows better whether it is a stream.

An annotation that is a string may name what only the place of the definition knows, a type in the same class or in the function
around it. It is resolved at the decoration, where those bodies are still being run, or if that is too early (the class does
not exist yet) when the service is started, with the names of its classes.

A generic class leaves type variables open, and its subclasses say what they are, `class Rows(Base[Row])`. The decoder would
take an open one for `Any`.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def layers(function: Any) -> Iterator[Any]:
    """The function, what it wraps, what that wraps."""
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        function = getattr(function, "__wrapped__", None)


def innermost(function: Any) -> Any:
    """What is wrapped by everything else."""
    *_, last = layers(function)
    return last


def is_stream(function: Any) -> bool:
    """Whether calling it makes an asynchronous generator."""
    for layer in layers(function):
        if inspect.isasyncgenfunction(layer):
            return True
        if inspect.iscoroutinefunction(layer):
            return False
    return False


def is_asynchronous(function: Any) -> bool:
    """Whether calling it makes something to await, or an asynchronous generator."""
    return any(inspect.iscoroutinefunction(layer) or inspect.isasyncgenfunction(layer) for layer in layers(function))


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """With annotations as they are written, whatever they name."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def resolve(function: Any, annotation: Any, names: Mapping[str, Any]) -> Any:
    """The type that an annotation of the function stands for. names: beside those of its module. NameError if it names
    something that is not there, or not yet."""
    inner = innermost(function)
    known = {parameter.__name__: parameter for parameter in getattr(inner, "__type_params__", ())}
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    space = getattr(inner, "__globals__", {})
    return typing.get_type_hints(holder, space, {**names, **known}, include_extras=True)["it"]


def names_around(function: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """At the decoration: the names in the bodies of the functions, and of the classes, in which it is being defined. The
    former hide those of the module; the latter are for what is not found otherwise, as type checkers have it in spite of
    a method called `list` or `set`."""
    parts = function.__qualname__.split(".")[:-1]
    bodies = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    functions: dict[str, Any] = {}
    classes: dict[str, Any] = {}
    space = getattr(innermost(function), "__globals__", None)
    frame = sys._getframe(1)
    while frame is not None and bodies:
        body = frame.f_code.co_qualname
        if body in bodies and frame.f_globals is space:
            bodies.discard(body)
            # What is nearer hides what is farther.
            if frame.f_code.co_flags & inspect.CO_NEWLOCALS:
                functions = {**frame.f_locals, **functions}
            else:
                classes = {**_types_among(frame.f_locals), **classes}
        frame = frame.f_back  # type: ignore[assignment]
    return functions, classes


def names_in(service: type, owner: type) -> dict[str, Any]:
    """At the start: the names in the class that defines a method, and in the service, for what is not found otherwise."""
    names: dict[str, Any] = {}
    for cls in (service, owner):
        for parameter in getattr(cls, "__type_params__", ()):
            names[parameter.__name__] = parameter
        names[cls.__name__] = cls
    for cls in reversed((owner, *service.__mro__)):
        if cls is not object:
            names.update(_types_among(vars(cls)))
    return names


def _types_among(names: Mapping[str, Any]) -> dict[str, Any]:
    """Of the names in a class, those that an annotation may mean."""
    others = (types.FunctionType, staticmethod, classmethod, property)
    return {
        name: value
        for name, value in names.items()
        if not isinstance(value, others) and not hasattr(value, "__wrapped__") and not name.startswith("__")
    }


def bindings(service: type) -> dict[Any, Any]:
    """What the type variables of its generic bases stand for."""
    found: dict[Any, Any] = {}

    def visit(cls: type) -> None:
        for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
            origin = typing.get_origin(base) or base
            if not isinstance(origin, type) or origin in (typing.Generic, typing.Protocol, object):
                continue
            parameters = getattr(origin, "__parameters__", ())
            arguments = typing.get_args(base)
            if len(parameters) == len(arguments):
                for parameter, argument in zip(parameters, arguments, strict=True):
                    argument = substitute(_evaluated(argument, cls), found, cls)
                    found.setdefault((origin, parameter), argument)
            visit(origin)

    visit(service)
    return found


def _evaluated(argument: Any, cls: type) -> Any:
    """`class Rows(Base["Row"])`."""
    holder = types.SimpleNamespace(__annotations__={"it": argument})
    space = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    try:
        return typing.get_type_hints(holder, space, dict(vars(cls)), include_extras=True)["it"]
    except NameError:
        return argument


def substitute(annotation: Any, bound: Mapping[Any, Any], owner: type) -> Any:
    """The annotation, of a method that `owner` defines, with what its type variables stand for."""
    if isinstance(annotation, typing.TypeVar):
        if (owner, annotation) in bound:
            return bound[owner, annotation]
        default = getattr(annotation, "__default__", None)
        has_default = getattr(annotation, "has_default", None)
        return default if has_default is not None and has_default() else annotation
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters or (isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)):
        return annotation
    return annotation[tuple(substitute(parameter, bound, owner) for parameter in parameters)]
