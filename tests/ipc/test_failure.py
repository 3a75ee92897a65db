from __future__ import annotations

import asyncio
import builtins
import dataclasses
import importlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clockworker as cw
from clockworker.ipc.calls._failure import RemoteTraceback, decode_failure, encode_failure


class Custom(Exception):
    pass


def there_and_back(exception: BaseException, *declared: type[Exception]) -> Exception:
    body = encode_failure(exception)
    assert len(body) < 200_000
    return decode_failure(
        body, {f"{each.__module__}.{each.__qualname__}": each for each in declared}, "Store.get on shard 1"
    )


def raised(exception: BaseException) -> BaseException:
    try:
        raise exception
    except BaseException as caught:
        return caught


def test_a_builtin_comes_back_as_itself_with_the_traceback_as_cause() -> None:
    back = there_and_back(raised(ValueError("wrong", 3, b"\xff", None, 1.5)))
    assert type(back) is ValueError
    assert back.args == ("wrong", 3, b"\xff", None, 1.5)
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "raise exception" in str(back.__cause__)


def test_only_exceptions_are_made_anew() -> None:
    for type_name in (
        "builtins.print",
        "builtins.KeyboardInterrupt",
        "builtins.int",
        "builtins.nothing",
        "os.system",
        "",
    ):
        body = msgspec.msgpack.encode([type_name, ["argument"], "message", "traceback"])
        back = decode_failure(body, {}, "here")
        assert isinstance(back, cw.RemoteError)
        assert back.type_name == type_name


def test_a_custom_one_only_if_declared() -> None:
    assert type(there_and_back(Custom("x"), Custom)) is Custom
    back = there_and_back(raised(Custom("x")))
    assert isinstance(back, cw.RemoteError)
    assert back.type_name.endswith(".Custom")
    assert "Store.get on shard 1 raised" in str(back)
    assert "raise exception" in back.remote_traceback


def test_too_large_a_reply_is_the_callers_to_see() -> None:
    assert type(there_and_back(cw.MessageTooLarge("the result is too large"))) is cw.MessageTooLarge


def test_what_cannot_travel_becomes_its_message() -> None:
    back = there_and_back(ValueError(object()))
    assert type(back) is ValueError
    assert "<object object" in str(back)


@pytest.mark.parametrize("name", [name for name in dir(builtins) if name.endswith(("Error", "Warning", "Exception"))])
def test_every_builtin_gives_some_exception(name: str) -> None:
    kind: Any = getattr(builtins, name)
    for args in ((), ("one",), (1, "two"), ("utf-8", b"x", 0, 1, "why")):
        try:
            exception = kind(*args)
        except TypeError:
            continue
        assert isinstance(there_and_back(exception), Exception)


values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(), st.just(object())
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(values, max_size=20))
def test_any_arguments(args: list[Any]) -> None:
    assert isinstance(there_and_back(raised(RuntimeError(*args))), RuntimeError)


@given(st.binary(max_size=200))
def test_garbage_raises_what_msgspec_raises(body: bytes) -> None:
    """The mesh answers the caller with whatever decoding raises."""
    try:
        back = decode_failure(body, {}, "here")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    assert isinstance(back, Exception)


# What exceptions carry beside their args


def caught(provoke: Callable[[], object]) -> Exception:
    try:
        provoke()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


class Carries:
    a = 1

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no {name}", name=name, obj=self)


def undecodable() -> object:
    return b"ab\xff".decode()


PROVOKED: dict[str, Callable[[], object]] = {
    "FileNotFoundError": lambda: os.open("nowhere/at/all", os.O_RDONLY),
    "a path": lambda: os.stat(pathlib.Path("nowhere")),
    "a name that is not UTF-8": lambda: os.open("nowhere/\udcff", os.O_RDONLY),
    "two names": lambda: os.rename("nowhere/a", "nowhere/b"),
    "IsADirectoryError": lambda: os.open("/", os.O_RDWR),
    "a number for a file": lambda: os.fstat(10**6),
    "KeyError": lambda: {}[1, "a"],
    "AttributeError": lambda: Carries().nothing,
    "NameError": lambda: nothing,  # type: ignore[name-defined]  # noqa: F821
    "ModuleNotFoundError": lambda: importlib.import_module("nowhere.at.all"),
    "ImportError": lambda: exec("from os import nowhere"),
    "SyntaxError": lambda: compile("a = (\nb c", "file.py", "exec"),
    "UnicodeDecodeError": undecodable,
    "UnicodeEncodeError": lambda: "a\udcff".encode(),
    "ZeroDivisionError": lambda: 1 // 0,
    "an ExceptionGroup of one": lambda: raise_(ExceptionGroup("many", [ValueError("x")])),
    "TimeoutError": lambda: raise_(TimeoutError()),
    "BlockingIOError": lambda: raise_(BlockingIOError(11, "would block", 7)),
    "a warning": lambda: raise_(DeprecationWarning("old")),
    "a large number": lambda: raise_(ValueError(2**100, -(2**64), 1j, (1, [2, {"a": {3}}]), frozenset("a"))),
    "lone surrogates": lambda: raise_(ValueError("\ud800")),
}


def raise_(error: BaseException) -> object:
    raise error


FIELDS = {
    name for error in (OSError, ImportError, SyntaxError, AttributeError, UnicodeDecodeError) for name in vars(error)
}


def carried(error: BaseException) -> dict[str, Any]:
    found = {name: getattr(error, name) for name in FIELDS if name[0] != "_" and hasattr(error, name)}
    found.pop("obj", None)
    found.pop("with_traceback", None)
    found.pop("add_note", None)
    return {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in found.items()}


@pytest.mark.parametrize("name", PROVOKED)
def test_builtins_keep_what_they_carry(name: str) -> None:
    error = caught(PROVOKED[name])
    back = there_and_back(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert carried(back) == carried(error)
    if not isinstance(error, ExceptionGroup):
        assert back.args == error.args
        assert list(map(type, back.args)) == list(map(type, error.args))


def test_attributes_and_notes_travel_too() -> None:
    error = ValueError("x")
    error.code = 5  # type: ignore[attr-defined]
    error.where = {"a": (1, 2)}  # type: ignore[attr-defined]
    error.add_note("first")
    error.add_note("second")
    back: Any = there_and_back(error)
    assert (back.code, back.where, back.__notes__) == (5, {"a": (1, 2)}, ["first", "second"])


def test_notes_are_told_of_what_does_not_travel_as_well() -> None:
    error = Custom("x")
    error.add_note("a note")
    assert there_and_back(error).__notes__ == ["a note"]


class Declared(Exception):
    """Whose __init__ wants other arguments than its args are."""

    def __init__(self, order: int, *, why: str) -> None:
        super().__init__(f"order {order}: {why}")
        self.order = order
        self.why = why


class Slotted(Exception):
    __slots__ = ("order",)

    def __init__(self, order: int) -> None:
        super().__init__(f"order {order}")
        self.order = order


class Derived(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no such order", path)
        self.kind = "order"


@dataclasses.dataclass
class Classed(Exception):
    order: int
    tags: tuple[str, ...] = ()


class ByItsArgs(Exception):
    """Its attributes do not travel; its __init__ makes them of its args."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.lock = threading.Lock()


class Group(ExceptionGroup[Exception]):
    def derive(self, excs: Sequence[Exception]) -> Group:
        return Group(self.message, excs)


def test_declared_ones_arrive_as_they_were() -> None:
    for error in (Declared(7, why="late"), Slotted(7), Derived("orders/7"), Classed(7, ("a",)), ByItsArgs(7)):
        back: Any = there_and_back(error, type(error))
        assert type(back) is type(error)
        assert (str(back), back.args) == (str(error), error.args)
        for name in ("order", "why", "kind", "tags", "code", "errno", "strerror", "filename"):
            assert getattr(back, name, None) == getattr(error, name, None)
    json_error = caught(lambda: json.loads("{x"))
    back = there_and_back(json_error, json.JSONDecodeError)
    assert (back.pos, back.doc, back.msg, str(back)) == (1, "{x", json_error.msg, str(json_error))  # type: ignore[attr-defined]
    incomplete: Any = there_and_back(asyncio.IncompleteReadError(b"ab", 5), asyncio.IncompleteReadError)
    assert (incomplete.partial, incomplete.expected) == (b"ab", 5)


def test_a_group_arrives_with_all_that_is_in_it() -> None:
    inner = ExceptionGroup("inner", [caught(PROVOKED["FileNotFoundError"]), Custom("custom"), Declared(7, why="late")])
    error = raised(ExceptionGroup("outer", [raised(ValueError("x", 3)), inner]))
    back = there_and_back(error, Declared)
    assert isinstance(back, ExceptionGroup)
    assert (back.message, str(back)) == ("outer", "outer (2 sub-exceptions)")
    value, group = back.exceptions
    assert (type(value), value.args) == (ValueError, ("x", 3))
    assert isinstance(value.__cause__, RemoteTraceback)
    assert "raise exception" in str(value.__cause__)
    missing, custom, declared = group.exceptions  # type: ignore[union-attr]
    assert missing.filename == "nowhere/at/all"
    assert isinstance(custom, cw.RemoteError)
    assert custom.type_name.endswith(".Custom")
    assert (type(declared), declared.order) == (Declared, 7)
    handled = []
    try:
        raise back
    except* FileNotFoundError as found:
        handled.append(found)
    except* (ValueError, cw.RemoteError, Declared) as found:
        handled.append(found)
    assert len(handled) == 2


def test_a_declared_group() -> None:
    back = there_and_back(Group("many", [ValueError("x")]), Group)
    assert type(back) is Group
    assert str(back.exceptions) == "(ValueError('x'),)"


def test_a_group_that_ends_more_than_the_task_is_told_of() -> None:
    back = there_and_back(BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("x")]))
    assert isinstance(back, cw.RemoteError)
    assert back.type_name == "builtins.BaseExceptionGroup"


def deep(depth: int) -> Exception:
    return ValueError("innermost") if depth == 0 else ExceptionGroup("level", [deep(depth - 1)])


HUGE: dict[str, Callable[[], Exception]] = {
    "args": lambda: ValueError(*["x" * 4_000] * 200),
    "an argument": lambda: ValueError("x" * 10**6),
    "a list": lambda: ValueError([[1] * 10_000] * 100),
    "attributes": lambda: with_attributes(10_000),
    "notes": lambda: with_notes(1_000),
    "a group": lambda: ExceptionGroup("many", [raised(ValueError("x" * 4_000)) for _ in range(1_000)]),  # type: ignore[misc]
    "a deep group": lambda: deep(50),
    "a decoded object": lambda: caught((b"a" * 10**6 + b"\xff").decode),
    "a number": lambda: ValueError(2**100_000),
    "a loop": lambda: itself(),
    "a message": lambda: caught(lambda: compile("x" * 10**6 + " y", "file", "exec")),
}


def with_attributes(count: int) -> Exception:
    error = ValueError("x")
    error.__dict__.update({f"name_{number}": "x" * 100 for number in range(count)})
    return error


def with_notes(count: int) -> Exception:
    error = ValueError("x")
    for _ in range(count):
        error.add_note("x" * 10_000)
    return error


def itself() -> Exception:
    loop: list[Any] = []
    loop.append(loop)
    return ValueError(loop)


@pytest.mark.parametrize("name", HUGE)
def test_whatever_an_exception_holds_its_frame_is_small(name: str) -> None:
    error = HUGE[name]()
    body = encode_failure(error)
    assert len(body) <= 2 * 65_536
    back = decode_failure(body, {}, "Store.get on shard 1")
    assert isinstance(back, type(error) if name != "a deep group" else ExceptionGroup)
    str(back)


def test_a_decoding_error_says_where_even_if_it_does_not_hold_all() -> None:
    back: Any = there_and_back(caught((b"a" * 10_000 + b"\xff").decode))
    assert type(back) is UnicodeDecodeError
    assert (back.start, back.end, back.reason) == (10_000, 10_001, "invalid start byte")
    assert back.object == b"a" * 4_095


class Evil(Exception):
    """Each way to look at it raises."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no attributes")

    def __str__(self) -> str:
        raise RuntimeError("no message")


def test_an_exception_that_cannot_be_looked_at() -> None:
    back = there_and_back(Evil(1))
    assert isinstance(back, cw.RemoteError)
    assert back.type_name.endswith(".Evil")


def test_nothing_of_a_peers_is_run_or_set_that_should_not_be() -> None:
    """Names of attributes and of state are the peer's word."""

    def failure(type_name: str, state: Any = {}, attributes: Any = {}, args: Any = ()) -> Exception:  # noqa: B006
        body = msgspec.msgpack.encode([type_name, list(args), "message", "trace", state, attributes, [], []])
        return decode_failure(body, {f"{Declared.__module__}.Declared": Declared}, "here")

    back = failure("builtins.ValueError", {"filename": "x"}, {"__class__": 1, "__dict__": 2, "__cause__": 3, "fine": 4})
    assert type(back) is ValueError
    assert vars(back) == {"fine": 4}
    assert isinstance(failure("builtins.ValueError", args=[["call", ["os.system", "x"]]]), cw.RemoteError)
    assert isinstance(failure("builtins.OSError", {"errno": ["int", "x"]}), cw.RemoteError)
    assert isinstance(failure("builtins.ExceptionGroup", args=["no exceptions"]), cw.RemoteError)


@given(st.data())
def test_a_failure_that_was_tampered_with_is_some_exception(data: st.DataObject) -> None:
    error = data.draw(st.sampled_from(sorted(PROVOKED)))
    body = bytearray(encode_failure(caught(PROVOKED[error])))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), min_size=1, max_size=4)):
        body[place] = data.draw(st.integers(0, 255))
    try:
        back = decode_failure(bytes(body), {}, "here")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    assert isinstance(back, Exception)
