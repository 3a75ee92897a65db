"""A module that says at its head that it is pure, or policy only, neither does I/O nor knows the time nor a loop.

The claims are found where they are made, so a new module is held to its own with nobody having to list it here. What is
looked at are imports: what a module does not import it cannot do, and what a pure module imports of ours has to be pure too,
whether that says so or not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import clockworker

ROOT = Path(clockworker.__file__).parent
CLAIM = re.compile(r"\b(Pure|Policy only)\b")

# With none of these can a module reach a file, a socket, a process, a clock, a loop, or chance.
HARMLESS = {
    *("__future__", "cython", "msgspec", "types", "typing"),
    *("collections", "enum", "functools", "heapq", "itertools", "math", "operator", "re", "struct", "zlib"),
}
# Nothing but exceptions, and stand-ins for what Cython declares.
OWN_HARMLESS = {"clockworker._errors", "clockworker._cython_shim"}
BUILTINS_WITH_EFFECTS = {"open", "print", "input", "breakpoint", "exec", "eval", "__import__"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def modules() -> Iterator[Path]:
    for package in ("executor", "ipc", "shards"):
        yield from sorted((ROOT / package).rglob("*.py"))
    yield from sorted(ROOT.glob("*.py"))


CLAIMING = [path for path in modules() if CLAIM.search(ast.get_docstring(tree(path)) or "")]


def name_of(path: Path) -> str:
    return ".".join(["clockworker", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def file_of(module: str) -> Path | None:
    """None for a module that is not ours, and for one that is declarations alone (.pxd)."""
    top, *rest = module.split(".")
    if top != "clockworker":
        return None
    path = ROOT.joinpath(*rest)
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()]
    return found[0] if found else None


def imports(node: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Modules, and the name that is taken from each: but for what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from (found for other in child.orelse for found in imports(other))
        elif isinstance(child, ast.Import):
            yield from ((alias.name, None) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = (child.module or "").removeprefix("cython.cimports.")
            yield from ((module, alias.name) for alias in child.names)
        else:
            yield from imports(child)


def defining(module: str, name: str | None) -> str:
    """The module that defines a name which a package hands on, or that is the name."""
    file = file_of(module)
    if name is None or file is None or file.name != "__init__.py":
        return module
    if file_of(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    for further, each in imports(tree(file)):
        if each == name:
            return defining(further, each)
    return module


def impurities(path: Path, seen: set[Path]) -> Iterator[str]:
    """What the module, or one that it needs, could have an effect by."""
    seen.add(path)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BUILTINS_WITH_EFFECTS:
            yield f"{name_of(path)} calls {node.func.id}"
    for module, name in imports(tree(path)):
        module = defining(module, name)
        file = file_of(module)
        if module in OWN_HARMLESS or file in seen:
            continue
        if file is not None:
            yield from impurities(file, seen)
        elif not module.startswith("clockworker.") and module.split(".")[0] not in HARMLESS:
            yield f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", [pytest.param(path, id=name_of(path)) for path in CLAIMING])
def test_who_claims_to_be_pure_is(path: Path) -> None:
    assert list(impurities(path, set())) == []


def test_claims_are_found() -> None:
    names = {name_of(path).rpartition(".")[2] for path in CLAIMING}
    assert names >= {
        "_eevdf_cy",
        "_steal_cy",
        "_ahead_cy",
        "_deadlines",
        "_frames",
        "_lifecycle",
        "_placement",
        "_rest",
    }
    assert len(CLAIMING) >= 13


def test_what_pure_modules_need_is_looked_at() -> None:
    """Through the door of a package, and when compiled."""
    seen: set[Path] = set()
    for path in CLAIMING:
        list(impurities(path, seen))
    assert {path.stem for path in seen} >= {"_stats", "_histogram_cy", "_heap_cy"}
    assert not {path.stem for path in seen} & {"__init__", "_core_cy"}
    steps = file_of("clockworker.executor._steps_cy")
    assert steps is not None
    assert "clockworker.executor._meter_cy imports time" in list(impurities(steps, set()))
