"""Decorators, strings and type variables are seen through, at the decoration or at the start."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pytest

import clockworker as cw
from clockworker.ipc.calls._annotations import bindings, is_asynchronous, is_stream
from clockworker.ipc.calls._definitions import function_of, remote_function, remote_methods
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._remote import can_suspend
from tests.conftest import needs

K = TypeVar("K")
V = TypeVar("V")
W = TypeVar("W")


class Row(msgspec.Struct):
    a: int


class Pair(msgspec.Struct, Generic[K]):
    one: K
    two: K


@contextlib.asynccontextmanager
async def traced() -> AsyncIterator[None]:
    yield


@contextlib.contextmanager
def timed() -> Iterator[None]:
    yield


def renamed(function: Any) -> Any:
    """Of this module, and a coroutine function itself."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


class Wrapper:
    """As wrapt's: an object that binds, and has what it wraps in __wrapped__."""

    def __init__(self, function: Any) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else functools.partial(self, instance)


DECORATORS: dict[str, Callable[[Any], Any]] = {
    "asynccontextmanager": traced(),  # type: ignore[dict-item]
    "contextmanager": timed(),  # type: ignore[dict-item]
    "wraps": renamed,
    "an object": Wrapper,
    "two": lambda function: renamed(timed()(function)),
}


def arguments_of(method: RemoteMethod, *args: Any) -> Any:
    return method.decode_arguments(msgspec.msgpack.encode(args))


@pytest.mark.parametrize("name", DECORATORS)
@pytest.mark.parametrize("above", [True, False], ids=["above", "below"])
def test_decorators_of_other_modules(name: str, above: bool) -> None:
    wrap = DECORATORS[name]

    def decorated(function: Any) -> Any:
        return wrap(cw.remote(function)) if above else cw.remote(wrap(function))

    class Service:
        @decorated
        async def get(self, key: Row, *, count: int = 1) -> Row:
            """What it does."""
            return key

    method = remote_methods(Service)["get"]
    assert arguments_of(method, Row(1), 2) == (Row(1), 2)
    assert method.bind(Row(1)) == (Row(1), 1)
    assert not method.streams
    assert "key: 'Row'" in method.shown


@pytest.mark.parametrize("name", ["contextmanager", "an object"])
@pytest.mark.parametrize("above", [True, False], ids=["above", "below"])
def test_decorated_streams(name: str, above: bool) -> None:
    wrap = DECORATORS[name]

    def decorated(function: Any) -> Any:
        return wrap(cw.remote(function)) if above else cw.remote(wrap(function))

    class Service:
        @decorated
        async def get(self, key: Row) -> AsyncIterator[Row]:
            yield key

    method = remote_methods(Service)["get"]
    assert method.streams
    assert method.decode_result(msgspec.msgpack.encode(Row(1))) == Row(1)
    assert can_suspend(Service.get)


def test_a_wrapper_that_is_a_coroutine_function_is_no_stream() -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    async def one() -> int:
        return 1

    @functools.wraps(rows)
    async def gathers() -> list[int]:
        return [each async for each in rows()]

    @functools.wraps(one)
    async def repeats() -> AsyncIterator[int]:
        yield await one()

    assert is_stream(rows)
    assert not is_stream(gathers)
    assert is_stream(repeats)
    assert not is_asynchronous(Row)
    with pytest.raises(cw.ConfigurationError, match="only an async generator is a stream"):

        class Service:
            @cw.remote
            @gathers_of
            async def get(self) -> AsyncIterator[int]:
                yield 1

        remote_methods(Service)


def gathers_of(function: Any) -> Any:
    @functools.wraps(function)
    async def gather(*args: Any) -> Any:
        return [each async for each in function(*args)]

    return gather


@needs("suspend")
def test_a_wrapper_may_suspend_where_what_it_wraps_does_not() -> None:
    class Service:
        @renamed
        @cw.remote
        async def get(self, key: int) -> int:
            return key

    assert can_suspend(Service.get)
    assert not can_suspend(Service.get.__wrapped__)


class Nested:
    class Key(msgspec.Struct):
        a: int

    Alias = Key | None

    @cw.remote
    async def get(self, key: Key, other: Alias = None) -> list[Nested.Key]:
        return [key]

    @cw.remote
    async def later(self, key: Later) -> Later:
        return key

    class Later(msgspec.Struct):
        a: int


class Inherits(Nested):
    pass


@pytest.mark.parametrize("service", [Nested, Inherits])
def test_types_in_the_class_of_the_service(service: type) -> None:
    methods = remote_methods(service)
    assert arguments_of(methods["get"], Nested.Key(1), None) == (Nested.Key(1), None)
    assert arguments_of(methods["later"], Nested.Later(1)) == (Nested.Later(1),)


def test_types_in_the_function_around_it() -> None:
    class Local(msgspec.Struct):
        a: int

    def inner() -> type:
        Row = Local  # hides the module's

        class Service:
            class Own(msgspec.Struct):
                a: int

            @cw.remote
            async def get(self, key: Row, other: Own, third: Local | None = None) -> dict[str, Local]:  # type: ignore[valid-type]
                return {}

        assert Row
        return Service

    method = remote_methods(inner())["get"]
    assert Local is not None
    assert [type(each).__name__ for each in arguments_of(method, Local(1), {"a": 2}, Local(3))[:2]] == ["Local", "Own"]


class Shadowing:
    """Its methods hide builtins from a reader, and not from annotations, which are looked up in the module."""

    class Key(msgspec.Struct):
        a: int

    @cw.remote
    async def set(self, key: Key, values: set[int]) -> list[bytes]: ...

    @cw.remote
    async def list(self, key: dict[str, Key] | None = None) -> set[int]: ...

    @cw.remote
    async def type(self, key: Other, keys: list[Other], values: set[Other]) -> list[set[int]]: ...

    class Other(msgspec.Struct, frozen=True):
        a: int


def test_methods_that_are_called_as_builtins() -> None:
    methods = remote_methods(Shadowing)
    assert arguments_of(methods["set"], Shadowing.Key(1), {1}) == (Shadowing.Key(1), {1})
    other = Shadowing.Other(1)
    assert arguments_of(methods["type"], other, [other], {other}) == (other, [other], {other})
    assert methods["list"].decode_result(b"\x91\x01") == {1}


def test_a_name_that_nobody_knows() -> None:
    class Service:
        @cw.remote
        async def get(self, key: list[Nowhere]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(cw.ConfigurationError, match=r"Service.get: an annotation cannot be resolved: name 'Nowhere'"):
        remote_methods(Service)


# Type variables


class Base(Generic[K, V]):
    @cw.remote
    async def get(self, key: K, pair: Pair[V], many: dict[str, list[K]] | None = None) -> tuple[K, V]: ...

    @cw.remote
    async def rows(self, key: Annotated[K, "a remark"]) -> AsyncIterator[V]:
        raise NotImplementedError
        yield


class Swapped(Base[V, K], Generic[K, V]):
    pass


class Half(Swapped[W, Row], Generic[W]):
    pass


class Filled(Half[bytes]):
    pass


class Direct(Base[Row, "bytes"]):
    pass


@pytest.mark.parametrize("service", [Filled, Direct, type("Further", (Filled,), {})])
def test_type_variables_are_what_subclasses_say(service: type) -> None:
    methods = remote_methods(service)
    assert arguments_of(methods["get"], Row(1), Pair(b"1", b"2"), {"a": [Row(2)]}) == (
        Row(1),
        Pair(b"1", b"2"),
        {"a": [Row(2)]},
    )
    assert methods["get"].decode_result(msgspec.msgpack.encode((Row(1), b""))) == (Row(1), b"")
    assert methods["rows"].streams
    assert methods["rows"].decode_result(msgspec.msgpack.encode(b"")) == b""
    with pytest.raises(msgspec.ValidationError):
        arguments_of(methods["get"], 1, Pair(b"1", b"2"), None)


def test_the_same_variable_of_two_bases_is_two() -> None:
    class One(Generic[K]):
        @cw.remote
        async def one(self, key: K) -> K: ...

    class Two(Generic[K]):
        @cw.remote
        async def two(self, key: K) -> K: ...

    class Both(One[int], Two[str]):
        pass

    methods = remote_methods(Both)
    assert arguments_of(methods["one"], 1) == (1,)
    assert arguments_of(methods["two"], "a") == ("a",)
    assert bindings(Both) == {(One, K): int, (Two, K): str}


def test_a_variable_that_stays_open_is_refused() -> None:
    for service in (Base, Swapped, Half, type("Bare", (Base,), {})):
        with pytest.raises(
            cw.ConfigurationError, match=r"get: parameter \w+ has a type that .*: \w is a type variable"
        ):
            remote_methods(service)
    with pytest.raises(cw.ConfigurationError, match="cannot be started: derive a class from it"):
        remote_methods(Base[int, str])

    class Own:
        @cw.remote
        async def get(self, key: W) -> W: ...

    with pytest.raises(cw.ConfigurationError, match="W is a type variable"):
        remote_methods(Own)


# Functions


@renamed
@cw.remote
async def doubled(row: Row, times: int = 2) -> list[Row]:
    return [row] * times


def test_a_function_with_a_decorator_is_run_with_it() -> None:
    method = remote_function(doubled)
    assert arguments_of(method, Row(1), 3) == (Row(1), 3)
    found = function_of(method.identifier)
    assert found is not None
    assert found[1] is doubled
