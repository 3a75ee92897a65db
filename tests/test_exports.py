"""One door for each public name, one direction for imports, and no stale extension modules."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import clockworker
from clockworker import _errors
from clockworker.shards.config._options import BY_NAME

ROOT = Path(clockworker.__file__).parent
PACKAGES = ["executor", "ipc", "shards", "http"]  # each may import those before it
WITH_TESTING = [*PACKAGES, "testing"]  # which is for tests, and not imported with the rest
ORDER = ["executor", "ipc", "shards", "cluster", "http", "testing"]  # the cluster's is imported by who has one
ALL = [*ORDER, "trio"]  # which is its extra's, and not imported with the rest either

# Where a package imports one that stands behind it, inside functions only: for those who serve HTTP, or have a cluster.
# One pair for each.
UPWARDS = [
    ("shards/config/_application.py", "http"),
    ("shards/worker/_shard.py", "http"),
    ("shards/worker/_shard.py", "cluster"),
    ("shards/worker/_child.py", "cluster"),
    ("shards/supervisor/_clustering.py", "cluster"),
]

# The rooms of a package: what each may import beside itself. What stands in no room may import them all.
ROOMS = {
    "ipc": {
        "rings": set[str](),
        "calls": {"rings"},
        "topics": {"calls", "rings"},
    },
    "shards": {
        "config": set[str](),
        "logs": {"config"},
        "machine": {"config", "logs"},
        "protocol": {"config", "machine"},
        "worker": {"config", "machine", "logs", "protocol"},
        "observe": {"config", "machine", "logs", "protocol"},
        "supervisor": {"config", "machine", "logs", "protocol", "observe"},
        "tools": {"protocol", "observe"},
    },
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """The module's."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """What a file imports, of `from a import b` as `a.b`; absolute."""
    yield from imports_among(path, ast.walk(ast.parse(path.read_text())))


def imports_among(path: Path, nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively, which says less"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def exported(package: str) -> list[str]:
    return list(getattr(importlib.import_module(f"clockworker.{package}"), "__all__", []))


def test_every_public_name_has_one_door() -> None:
    doors: dict[str, str] = {}
    for package in ["_errors", *PACKAGES]:
        for name in exported(package):
            assert name not in doors, f"{name} is exported by {package} and by {doors[name]}"
            doors[name] = package
    assert sorted(doors) == sorted(clockworker.__all__)
    assert len(set(clockworker.__all__)) == len(clockworker.__all__)


def test_dir_shows_what_applications_are_written_with() -> None:
    shown = dir(clockworker)
    assert not {*shown} - {*clockworker.__all__, "__version__"}
    wiring = {"Limits", "LinkStats", "Mesh", "MeshStats", "create_doorbell", "create_ring"}
    assert {*clockworker.__all__} - {*shown} == wiring


@pytest.mark.parametrize("package", ["_errors", *PACKAGES])
def test_exported_names_exist_and_are_the_same_at_the_root(package: str) -> None:
    module = importlib.import_module(f"clockworker.{package}")
    for name in exported(package):
        assert getattr(clockworker, name) is getattr(module, name)


def public() -> Iterator[tuple[object, str]]:
    """All public names, each with its door."""
    doors = [clockworker, importlib.import_module("clockworker.testing")]
    if importlib.util.find_spec("trio") is not None:
        doors.append(importlib.import_module("clockworker.trio"))
    for door in doors:
        yield from ((door, name) for name in door.__all__)


def undocumented() -> Iterator[str]:
    """The public classes, functions, methods and properties that say nothing. A method may say it in a base class."""
    for owner, name in public():
        value = getattr(owner, name)
        if not callable(value) or not str(getattr(value, "__module__", "")).startswith("clockworker"):
            continue
        if not value.__doc__:
            yield name
        for member in vars(value) if inspect.isclass(value) else ():
            is_told = isinstance(vars(value)[member], property) or inspect.isroutine(getattr(value, member))
            if (
                not member.startswith("_")
                and is_told
                and not any(getattr(base, member).__doc__ for base in value.__mro__ if member in vars(base))
            ):
                yield f"{name}.{member}"


def test_every_public_name_says_what_it_is() -> None:
    assert list(undocumented()) == []


# What is said of these stands in `clockworker-serve --help`.
OPTIONS = {("ServeConfig", name) for name in BY_NAME}


def data_of(owner: type) -> set[str]:
    """The public attributes of its instances, as far as the class or its source shows them."""
    found = {*getattr(owner, "__struct_fields__", ())}
    for base in owner.__mro__:
        if base is not owner and base.__name__ not in clockworker.__all__:
            continue  # what it has of a private one is ours
        found |= {name for name, value in vars(base).items() if inspect.isgetsetdescriptor(value) and not value.__doc__}
        if base.__module__.endswith("_cy"):
            continue  # pure, these show what compiled they keep to themselves
        found |= {*vars(base).get("__annotations__", ())}
        if "__init__" in vars(base) and not hasattr(base, "__struct_fields__"):
            found |= {*re.findall(r"\bself\.(\w+)(?:: .*)? = ", inspect.getsource(base.__init__))}
    return {name for name in found if not name.startswith("_")}


def unexplained() -> Iterator[str]:
    for door, name in public():
        owner = getattr(door, name)
        if inspect.isclass(owner) and owner.__module__.startswith("clockworker"):
            said = "\n".join(base.__doc__ or "" for base in owner.__mro__ if base.__module__.startswith("clockworker"))
            for attribute in sorted(data_of(owner)):
                if (name, attribute) not in OPTIONS and not re.search(rf"\b{attribute}\b", said):
                    yield f"{name}.{attribute}"


def test_every_public_class_says_what_its_attributes_are() -> None:
    assert {"busy_ns", "share"} <= data_of(clockworker.QueueStats)
    assert "executor" in data_of(clockworker.Shard)
    assert list(unexplained()) == []


def test_every_error_has_the_common_base() -> None:
    for name in _errors.__all__:
        assert issubclass(getattr(_errors, name), clockworker.ClockworkerError)


@pytest.mark.parametrize("package", ALL)
def test_implementation_modules_are_private(package: str) -> None:
    # testing had its place here before there was a package; the others need what their extras install.
    public = {"shards": ["testing.py"], "http": ["channels.py", "socketio.py"]}
    assert [path.name for path in sources(package) if not path.name.startswith("_")] == public.get(package, [])
    rooms = {path.name for path in (ROOT / package).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == ROOMS.get(package, {}).keys()


@pytest.mark.parametrize("package", ALL)
def test_imports_go_one_way(package: str) -> None:
    # The root imports all packages but the last: whoever takes a public name from it there imports in a circle.
    allowed = ["executor", "trio"] if package == "trio" else ORDER[: ORDER.index(package) + 1]
    for path in sources(package):
        here = str(path.relative_to(ROOT))
        for module in imports(path):
            top, _, rest = module.partition(".")
            if top == "clockworker":
                first = rest.split(".")[0]
                may = first in allowed or first.startswith("_") or (here, first) in UPWARDS
                assert may, f"{here} imports {module}"


@pytest.mark.parametrize(("here", "package"), UPWARDS)
def test_an_arrow_up_is_inside_functions(here: str, package: str) -> None:
    path = ROOT / here
    above = f"clockworker.{package}"
    assert any(module.startswith(above) for module in imports(path)), "take it out"
    assert not [module for module in imports_among(path, ast.parse(path.read_text()).body) if module.startswith(above)]


def test_what_serves_http_is_imported_by_those_who_serve_it() -> None:
    """Whoever does not is not made to install it, nor to wait."""
    modules = printed("import clockworker, sys; clockworker.Shard; print(*sys.modules)").split()
    assert not {"httptools", "websockets", "clockworker.http._serve"} & {*modules}
    assert not {"trio", "clockworker.trio"} & {*modules}
    assert "clockworker.http._marks" in modules


def printed(code: str) -> str:
    """By a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_executor_alone_is_imported_without_the_rest() -> None:
    modules = printed(
        "import clockworker as cw, sys\n"
        "async def main(): return await cw.current_executor().queue('only').spawn(asyncio.sleep(0, 'slept'))\n"
        "import asyncio; cw.run(main(), queues=[cw.Queue('only')])\n"
        "assert issubclass(cw.CallError, cw.ClockworkerError) and cw.compiled in (True, False)\n"
        "print(*sys.modules)"
    ).split()
    parts = {module.split(".")[1] for module in modules if module.startswith("clockworker.")}
    assert "executor" in parts
    assert not parts & {"ipc", "shards", "http"}
    # What takes longest of the standard library, beside what asyncio imports itself.
    assert not {"ctypes", "pathlib", "pickle", "sysconfig"} & {*modules}


@pytest.mark.parametrize(
    "first",
    [
        "from clockworker import http",
        "from clockworker import ipc",
        "from clockworker import shards",
        "import clockworker.shards._cli",
        "import clockworker.shards.worker._child",
        "import clockworker.testing",
        "import clockworker; clockworker.shards.Shard",
        "import clockworker; clockworker.remote",
        "import clockworker; dir(clockworker)",
        "from clockworker import Shard, run, asgi",
    ],
)
def test_it_is_all_the_same_what_is_imported_first(first: str) -> None:
    said = printed(
        f"{first}\n"
        "import clockworker\n"
        "from clockworker import *\n"
        "assert all(globals()[name] is getattr(clockworker, name) for name in clockworker.__all__)\n"
        "print(len(clockworker.__all__))"
    )
    assert int(said) == len(clockworker.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    said = printed(
        "import clockworker\n"
        "assert not hasattr(clockworker, 'Shrad')\n"
        "try: clockworker.Shrad\n"
        "except AttributeError as error: print(error)\n"
        "try: from clockworker import Shrad\n"
        "except ImportError as error: print(error)"
    )
    first, second = said.splitlines()
    assert first == "module 'clockworker' has no attribute 'Shrad'"
    assert second.startswith("cannot import name 'Shrad' from 'clockworker'")


def test_many_threads_may_ask_for_the_rest_at_once() -> None:
    said = printed(
        "import clockworker, threading\n"
        "start, found = threading.Barrier(8), []\n"
        "def ask(name):\n"
        "    start.wait()\n"
        "    found.append(getattr(clockworker, name).__name__)\n"
        "names = ['Shard', 'remote', 'asgi', 'Topic'] * 2\n"
        "threads = [threading.Thread(target=ask, args=[name]) for name in names]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(*sorted(found))"
    )
    assert said.split() == sorted(["Shard", "remote", "asgi", "Topic"] * 2)


def test_what_makes_a_cluster_is_imported_by_those_who_have_one() -> None:
    code = (
        "import clockworker, clockworker.shards._cli, clockworker.shards.worker._child, sys; "
        "from clockworker.shards.config._settings import read_settings; read_settings(['app:main'], {}); print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [
        module for module in modules if module.split(".")[0] == "nats" or module.startswith("clockworker.cluster")
    ]


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_one_way(package: str) -> None:
    rooms = ROOMS[package]
    for path in sources(package):
        here = path.parent.name
        for module in imports(path) if here in rooms else ():
            first, second, room, *_ = f"{module}...".split(".")
            if (first, second) == ("clockworker", package) and room != here:
                assert room in rooms[here], f"{here}/{path.name} imports {module}"


@pytest.mark.parametrize("package", ALL)
def test_nothing_is_imported_by_a_bare_name(package: str) -> None:
    for path in sources(package):
        for module in imports(path):
            # The standard library has an `http`, too.
            bare = module.split(".")[0]
            assert bare == "http" or bare not in PACKAGES, f"{package}/{path.name} imports {module}"


@pytest.mark.skipif(
    not (ROOT.parents[1] / "setup.py").exists(),
    reason="installed from a wheel, whose files have the time of their unpacking",
)
def test_no_extension_module_is_older_than_its_source() -> None:
    for package in PACKAGES:
        for binary in (ROOT / package).rglob("*.so"):
            for suffix in (".py", ".pxd"):
                source = binary.with_name(binary.name.split(".")[0] + suffix)
                if source.exists():
                    stale = f"{package}/{binary.name} is older than {source.name}: run setup.py build_ext --inplace"
                    assert binary.stat().st_mtime >= source.stat().st_mtime, stale


def test_either_all_modules_are_compiled_or_none() -> None:
    compiled = {
        path.stem: not str(importlib.import_module(name_of(path)).__file__).endswith(".py")
        for package in PACKAGES
        for path in sources(package)
        if path.stem.endswith("_cy")
    }
    assert set(compiled.values()) == {clockworker.compiled}, compiled
