from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clockworker._errors import ApplicationError
from clockworker.shards.config._application import format_traceback, load_application

SOURCE = """
import contextlib
async def main(shard): pass
async def with_more(shard, more=1): pass
async def nothing(): pass
async def two(shard, other): pass
def plain(): pass
def takes_two(request, reply): pass
def make(): return main
def needs(x): return main
def boom(): raise ValueError("boom")

class Main:
    async def __call__(self, shard): pass
    async def method(self, shard): pass

@contextlib.contextmanager
def timed(): yield

@timed()
async def decorated(shard): pass

main_object = Main()
number = 3
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = f"application_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("attribute", ["main", "with_more", "decorated", "main_object", "main_object.method"])
def test_what_an_application_can_be(app: str, tmp_path: Path, attribute: str) -> None:
    assert callable(load_application(f"{app}:{attribute}", str(tmp_path), factory=False))


def test_a_factory_makes_it(app: str, tmp_path: Path) -> None:
    assert load_application(f"{app}:make", str(tmp_path), factory=True).__name__ == "main"


@pytest.mark.parametrize(
    ("attribute", "factory", "parts"),
    [
        ("mian", False, ["no attribute 'mian'", "did you mean 'main'?", "async def main(shard)"]),
        ("main.method", False, ["no attribute 'main.method'"]),
        ("number", False, ["number is not callable but of type int", "async def main(shard)"]),
        ("plain", False, ["not a coroutine function but a plain `def`", "--factory"]),
        ("Main", False, ["not a coroutine function but a class", "async def main(shard)"]),
        ("nothing", False, ["must take one argument, the shard"]),
        ("two", False, ["must take one argument, the shard"]),
        ("takes_two", False, ["not a coroutine function but a plain `def`", "--interface"]),
        ("plain", True, ["plain returned is not callable but of type NoneType"]),
        ("number", True, ["is of type int; --factory needs a function"]),
        ("needs", True, ["needs arguments; --factory calls it without any"]),
    ],
)
def test_what_is_none_is_told_in_one_line(
    app: str, tmp_path: Path, attribute: str, factory: bool, parts: list[str]
) -> None:
    with pytest.raises(ApplicationError) as caught:
        load_application(f"{app}:{attribute}", str(tmp_path), factory=factory)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_told_from_one_that_it_imports(tmp_path: Path) -> None:
    with pytest.raises(ApplicationError, match=f"no module 'no_such' in {tmp_path} .*--app-dir"):
        load_application("no_such.thing:main", str(tmp_path), factory=False)
    (tmp_path / "imports_another.py").write_text("import no_such_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_application("imports_another:main", str(tmp_path), factory=False)


def test_the_directory_is_put_first_and_once(app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    for _ in range(2):
        load_application(f"{app}:main", str(tmp_path), factory=False)
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_a_traceback_begins_where_the_application_does(app: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom") as caught:
        load_application(f"{app}:boom", str(tmp_path), factory=True)
    error = caught.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # this test's own frame
    lines = format_traceback(error).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f"{app}.py" in lines[1]
    assert lines[-1] == "ValueError: boom"
    assert sum("File" in line for line in lines) == 1
