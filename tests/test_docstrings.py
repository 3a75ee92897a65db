"""Every public name has a docstring of its own, which says what its arguments are, in which units, and which errors it raises.

A docstring is prose; what is counted are its words. A method may have it said in a base class, a constructor in its class.

- All have one: classes, functions, methods, properties. An attribute is named in the docstring of its class; a field of a
  configuration may be an option, and that has its help.
- Each argument is named.
- A number with a unit has the word for it, or has it in its name; one without says what it counts.
- Each error is named that the body raises, or a function `check...` that the body calls, or one of the same module.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import clockworker
from clockworker.shards.config._options import OPTIONS

SOURCES = Path(clockworker.__file__).parent

# Where public names are, and what else must be installed for that.
DOORS = {
    "clockworker": None,
    "clockworker.testing": None,
    "clockworker.trio": "trio",
    "clockworker.http.socketio": "socketio",
    "clockworker.http.channels": "channels",
}

UNITS = re.compile(r"\b(?:seconds?|milliseconds?|microseconds?|nanoseconds?|ns|us|ms|bytes?|[KM]iB)\b", re.IGNORECASE)
WITHOUT_UNIT = re.compile(r"\b(?:shares?|fractions?|parts?|ratios?|times|0 to 1|millionths)\b")
IN_ITS_NAME = ("_ns", "_us", "_s", "_bytes")

# No errors of the caller's: our own mistakes, and what Python's protocols want.
NO_ERRORS = {"AssertionError", "AttributeError", "NotImplementedError", "StopAsyncIteration", "StopIteration"}

# Said of classes whose instances we make: what their constructors take is ours.
MADE_BY_US = re.compile(r"\bMade\s+by\b")

# Classes with attributes that are for the parts of Clockworker which they work with.
OF_PARTS = {"JoinHandle", "Mesh"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Told(msgspec.Struct):
    """A public name. kind: "class", "constructor", "function", "method", "property" or "attribute". text: what is said of it.
    node: its definition, None if there is none in Python."""

    name: str
    kind: str
    text: str
    node: Any
    module: str

    def arguments(self) -> Iterator[tuple[str, str]]:
        """Each one's name and annotation."""
        if isinstance(self.node, FUNCTIONS) and self.kind != "property":
            given = self.node.args
            for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]:
                if argument.arg not in ("self", "cls") and not argument.arg.startswith("_"):
                    yield argument.arg, ast.unparse(argument.annotation) if argument.annotation else ""


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def source_of(module: str) -> ast.Module | None:
    path = SOURCES.parent / module.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if module.startswith("clockworker") and file.exists():
            return parsed(file)
    return None


def definition(value: Any) -> Any:
    """From the source, since compiled functions have no signature that says more."""
    node: Any = source_of(getattr(value, "__module__", None) or "")
    for part in getattr(value, "__qualname__", "").split("."):
        found = [each for each in getattr(node, "body", ()) if getattr(each, "name", None) == part]
        node = found[-1] if found else None  # behind its overloads
    return node


def docstring(value: Any, node: Any) -> str:
    """From the source, too: what is compiled may be older."""
    own: str = getattr(value, "__doc__", None) or ""
    return own + "\n" + (ast.get_docstring(node) or "" if node is not None else "")


@functools.cache
def told() -> tuple[Told, ...]:
    return tuple(each for path, needed in DOORS.items() if is_there(needed) for each in of_door(path))


def is_there(needed: str | None) -> bool:
    return needed is None or importlib.util.find_spec(needed) is not None


def of_door(path: str) -> Iterator[Told]:
    door = importlib.import_module(path)
    for name in door.__all__:
        value, shown = getattr(door, name), f"{path}.{name}".removeprefix("clockworker.")
        if inspect.isclass(value):
            yield from of_class(shown, value)
        elif callable(value):
            node = definition(value)
            yield Told(shown, "function", docstring(value, node), node, value.__module__)


def of_class(name: str, owner: type) -> Iterator[Told]:
    yield Told(name, "class", docstring(owner, definition(owner)), definition(owner), owner.__module__)
    ours = [base for base in owner.__mro__ if base.__module__.startswith("clockworker")]
    of_it = "\n".join(docstring(base, definition(base)) for base in ours)
    if name == "ServeConfig":
        of_it += "\n".join(f"{option.name}: {option.help}" for option in OPTIONS)
    seen = set()
    for base in ours:
        for each in getattr(definition(base), "body", ()):
            for member, kind, node in members(each):
                if member in seen or (member.startswith("_") and kind != "constructor"):
                    continue
                seen.add(member)
                docs = [docstring_in(other, member) for other in ours]
                text = "\n".join([of_it, *docs] if kind in ("attribute", "constructor") else docs)
                yield Told(f"{name}.{member}", kind, text, node, base.__module__)


def docstring_in(owner: type, member: str) -> str:
    """What this class itself says of its member."""
    body = getattr(definition(owner), "body", ())
    functions = [each for each in body if isinstance(each, FUNCTIONS) and each.name == member]
    return docstring(vars(owner).get(member), functions[0] if functions else None)


def members(node: Any) -> Iterator[tuple[str, str, Any]]:
    """Name, kind and definition of what a class gets from a statement of its body."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, "attribute", node
    elif isinstance(node, FUNCTIONS) and node.name == "__init__":
        if not isinstance(node.body[0], ast.Raise):  # what is not to be made takes nothing
            yield node.name, "constructor", node
        for each in ast.walk(node):
            target = (
                each.target
                if isinstance(each, ast.AnnAssign)
                else each.targets[0]
                if isinstance(each, ast.Assign)
                else None
            )
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                yield target.attr, "attribute", each
    elif isinstance(node, FUNCTIONS):
        is_property = any(re.search(r"property$|\.setter$", ast.unparse(each)) for each in node.decorator_list)
        yield node.name, "property" if is_property else "method", node


def called(name: str, module: str) -> Iterator[tuple[Any, str]]:
    """The functions that a module knows by this name: its own, and `check...` of others, with whose they are."""
    tree = source_of(module)
    for node in tree.body if tree is not None else ():
        if isinstance(node, FUNCTIONS) and node.name == name:
            yield node, module
        elif name.startswith("check") and name in imported(node):
            yield from called(name, node.module)


def imported(node: Any) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) and node.module else []


def raised(function: Any, module: str, depth: int = 2) -> set[str]:
    """Names of errors, by `raise Name(...)`."""
    found: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=error))):
                found.add(error)
            case ast.Call(func=ast.Name(id=name)) if depth:
                for other, whose in called(name, module):
                    found |= raised(other, whose, depth - 1)
            case ast.Call(func=ast.Attribute(attr="check_thread")):
                found.add("UsageError")
    return {error for error in found if error[0].isupper()} - NO_ERRORS


def unsaid(check: Callable[[Told], Iterator[str]]) -> list[str]:
    return [f"{each.name}: {what}" for each in told() if not is_ours(each) for what in check(each)]


def is_ours(each: Told) -> bool:
    if each.kind == "constructor":
        return MADE_BY_US.search(each.text) is not None
    return each.kind == "attribute" and each.name.rpartition(".")[0] in OF_PARTS


def names_unsaid(each: Told) -> Iterator[str]:
    if each.kind == "attribute":
        name = each.name.rpartition(".")[2]
        if not re.search(rf"\b{name}\b", each.text):
            yield "its class does not name it"
    elif not each.text.strip():
        yield "has no docstring"


def arguments_unsaid(each: Told) -> Iterator[str]:
    for name, _ in each.arguments():
        if not re.search(rf"\b{name}\b", each.text):
            yield name


def units_unsaid(each: Told) -> Iterator[str]:
    numbers = [*each.arguments()]
    result = getattr(each.node, "returns", None) or getattr(each.node, "annotation", None)
    if result is not None:
        numbers.append((each.name, ast.unparse(result)))
    for name, annotation in numbers:
        is_number = re.search(r"\bfloat\b", annotation) and not name.endswith(IN_ITS_NAME)
        if is_number and not UNITS.search(each.text) and not WITHOUT_UNIT.search(each.text):
            yield name


def errors_unsaid(each: Told) -> Iterator[str]:
    if isinstance(each.node, FUNCTIONS):
        for name in sorted(raised(each.node, each.module)):
            if not re.search(rf"\b{name}\b", each.text):
                yield name


def test_all_have_one() -> None:
    assert unsaid(names_unsaid) == []


def test_arguments_are_said() -> None:
    assert unsaid(arguments_unsaid) == []


def test_units_are_said() -> None:
    assert unsaid(units_unsaid) == []


def test_errors_are_said() -> None:
    assert unsaid(errors_unsaid) == []


def test_what_is_left_out_is_there() -> None:
    assert {each.name for each in told() if each.kind == "class"} >= OF_PARTS
    made = {each.name for each in told() if each.kind == "constructor" and is_ours(each)}
    assert {name.partition(".")[0] for name in made if not name.startswith(("testing.", "trio."))} == {
        *("Counter", "QueueGroupHandle", "Shard", "Sharded", "Subscription", "Topic")
    }


def test_there_is_something_to_say() -> None:
    names = {each.name for each in told()}
    assert {
        "Executor.__init__",
        "Shard.start_server",
        "QueueHandle.spawn",
        "run",
        "Topic.subscribe",
        "Route.limit",
    } <= names
    assert {"testing.Clock.advance", "Shard.is_ready", "QueueHandle.share", "QueueStats.busy_ns"} <= names
    assert all(each.node is not None for each in told())


@pytest.mark.parametrize(
    ("check", "source", "found"),
    [
        (names_unsaid, "def f(): ...", ["has no docstring"]),
        (arguments_unsaid, "def f(one, two): 'one: the first.'", ["two"]),
        (units_unsaid, "def f(timeout: float | None): 'timeout: how long.'", ["timeout"]),
        (units_unsaid, "def f(timeout: float): 'timeout: seconds.'", []),
        (units_unsaid, "def f() -> float: 'How long.'", ["f"]),
        (errors_unsaid, "def f():\n 'Raises UsageError.'\n raise ValueError()", ["ValueError"]),
        (errors_unsaid, "def f(share):\n 'share'\n check_share('', share)", ["ConfigurationError"]),
    ],
)
def test_it_is_noticed(check: Callable[[Told], Iterator[str]], source: str, found: list[str]) -> None:
    (node,) = ast.parse(source).body
    assert isinstance(node, FUNCTIONS)
    assert [
        *check(Told("f", "function", ast.get_docstring(node) or "", node, "clockworker.executor._handles_cy"))
    ] == found
