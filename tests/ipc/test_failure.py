from __future__ import annotations

import builtins
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clockworker as cw
from clockworker.ipc._failure import RemoteTraceback, decode_failure, encode_failure


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
