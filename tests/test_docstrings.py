"""Every public function, method and constructor says what its arguments are, in which units, and which errors it raises.

A docstring is prose; what is counted are its words, and those of its class. An argument is named. One that is a time, or
another number that has a unit, comes with the word for it. An error that the function's own body raises is named, where it is
one of ours. A method may have it said in a base class.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

import clockworker
from clockworker import _errors

SOURCES = Path(clockworker.__file__).parent
UNITS = re.compile(r"\b(?:seconds?|milliseconds?|microseconds?|nanoseconds?|ns|us|ms|s|bytes|MiB)\b")
IN_ITS_NAME = ("_ns", "_us", "_s", "_bytes")


# Classes whose instances are made by us: what their constructors take is ours.
MADE_BY_US = {"Counter", "QueueGroupHandle", "Server", "Shard", "Sharded", "Subscription", "Topic"}

# A shard's end of its links, public for those who build another runtime on it: its methods are called by links and peers.
OF_PARTS = {"Mesh"}

# Public methods that others of our parts call, and no user: what they take is said by the protocols that they are of.
HOOKS = {
    "Executor": {"panicked", "was_long", "was_slow", "when_stirred"},
    "Clock": {"begin", "go_on"},
}
if not clockworker.compiled:  # else they are C's
    HOOKS["JoinHandle"] = {"begin", "add", "remove"}


class Told(msgspec.Struct):
    """A public callable. text: all that is said of it. function: its definition in the source, None if it has none."""

    name: str
    text: str
    function: ast.FunctionDef | ast.AsyncFunctionDef | None


def definition(value: Any) -> ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | None:
    """From the source, since compiled functions have no signature that says more."""
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not module or not module.startswith("clockworker"):
        return None
    path = SOURCES.parent / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    if not path.exists():
        return None
    node: Any = ast.parse(path.read_text())
    for part in qualname.split("."):
        found = [
            each
            for each in getattr(node, "body", ())
            if isinstance(each, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and each.name == part
        ]
        if not found:
            return None
        node = found[-1]  # behind its overloads
    return node


def docstring_of(owner: type) -> str:
    node = definition(owner)
    return ast.get_docstring(node) or "" if node is not None else ""


def told() -> Iterator[Told]:
    testing = importlib.import_module("clockworker.testing")
    for door, name in [(clockworker, n) for n in clockworker.__all__] + [(testing, n) for n in testing.__all__]:
        value = getattr(door, name)
        if inspect.isclass(value):
            yield from of_class(name, value)
        elif callable(value):
            function = definition(value)
            assert not isinstance(function, ast.ClassDef)
            yield Told(name, inspect.getdoc(value) or "", function)


def of_class(name: str, owner: type) -> Iterator[Told]:
    ours = [base for base in owner.__mro__ if base.__module__.startswith("clockworker")]
    # From the source, too: what is compiled may be older.
    said = "\n".join((inspect.getdoc(base) or "") + "\n" + docstring_of(base) for base in ours)
    seen = set()
    for base in ours:
        node = definition(base)
        for each in getattr(node, "body", ()):
            if not isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) or each.name in seen:
                continue
            if each.name != "__init__" and (each.name.startswith("_") or not hasattr(owner, each.name)):
                continue
            seen.add(each.name)
            if each.name in HOOKS.get(name, ()) or (each.name == "__init__" and name in MADE_BY_US):
                continue
            if each.name != "__init__" and name in OF_PARTS:
                continue
            docs = [getattr(getattr(other, each.name, None), "__doc__", None) or "" for other in ours]
            yield Told(f"{name}.{each.name}", "\n".join([said, *docs, ast.get_docstring(each) or ""]), each)


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    """Each one's name and annotation."""
    given = function.args
    for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]:
        if argument.arg not in ("self", "cls") and not argument.arg.startswith("_"):
            yield argument.arg, ast.unparse(argument.annotation) if argument.annotation else ""


def raised(function: ast.AST) -> set[str]:
    """Names of what its own body raises, by `raise Name(...)`, and of ours."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            found.add(node.exc.func.id)
    return found & {*_errors.__all__}


def unsaid(check: Callable[[Told], Iterator[str]]) -> list[str]:
    return [f"{each.name}: {what}" for each in told() if each.function is not None for what in check(each)]


def arguments_unsaid(each: Told) -> Iterator[str]:
    assert each.function is not None
    for name, _ in arguments(each.function):
        if not re.search(rf"\b{name}\b", each.text):
            yield name


def units_unsaid(each: Told) -> Iterator[str]:
    assert each.function is not None
    for name, annotation in arguments(each.function):
        if re.search(r"\bfloat\b", annotation) and not name.endswith(IN_ITS_NAME) and not UNITS.search(each.text):
            yield name


def errors_unsaid(each: Told) -> Iterator[str]:
    assert each.function is not None
    for name in sorted(raised(each.function)):
        if not re.search(rf"\b{name}\b", each.text):
            yield name


def test_arguments_are_said() -> None:
    assert unsaid(arguments_unsaid) == []


def test_units_are_said() -> None:
    assert unsaid(units_unsaid) == []


def test_errors_are_said() -> None:
    assert unsaid(errors_unsaid) == []


def test_what_is_left_out_is_there() -> None:
    assert {*clockworker.__all__} >= MADE_BY_US - {"Server"}
    for name, hooks in HOOKS.items():
        owner = getattr(clockworker, name, None) or getattr(importlib.import_module("clockworker.testing"), name)
        assert all(hasattr(owner, hook) for hook in hooks)


def test_there_is_something_to_say() -> None:
    names = {each.name for each in told() if each.function is not None}
    assert {"Executor.__init__", "Shard.start_server", "QueueHandle.spawn", "run", "Topic.subscribe"} <= names
