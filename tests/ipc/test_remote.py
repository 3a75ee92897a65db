from __future__ import annotations

import abc
import asyncio
import contextlib
import functools
import pathlib
import unittest.mock
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

import clockworker as cw
from clockworker.ipc.calls._definitions import function_of, remote_function, remote_methods
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._remote import can_suspend, noted


class Store:
    @cw.remote
    async def get(self, key: bytes, default: bytes = b"", *, fresh: bool = False) -> bytes: ...

    @cw.remote(queue="background", raises=(LookupError,))
    async def compact(self) -> int: ...

    async def private(self) -> None: ...


class Special(Store):
    @cw.remote
    async def extra(self, positional: int, /, other: int) -> None: ...


METHODS = remote_methods(Special)


def test_only_what_is_marked_can_be_called_inherited_or_not() -> None:
    assert sorted(METHODS) == ["compact", "extra", "get"]
    assert METHODS["compact"].options.queue == "background"
    assert METHODS["compact"].raises == {"builtins.LookupError": LookupError}
    assert METHODS["get"].options.queue is None


def test_identifiers_are_stable_and_differ() -> None:
    again = remote_methods(Special)
    assert {name: method.identifier for name, method in METHODS.items()} == {
        name: method.identifier for name, method in again.items()
    }
    assert len({method.identifier for method in METHODS.values()}) == 3
    assert remote_methods(Store)["get"].identifier != METHODS["get"].identifier
    assert all(0 <= method.identifier < 2**32 for method in METHODS.values())


def test_the_mark_leaves_the_method_as_it_is() -> None:
    assert Store.get.__name__ == "get"
    assert Store.get.__annotations__["key"] == "bytes"


@pytest.mark.parametrize(
    ("args", "kwargs", "bound"),
    [
        ((b"k",), {}, (b"k", b"", False)),
        ((b"k", b"d"), {"fresh": True}, (b"k", b"d", True)),
        ((), {"fresh": True, "key": b"k"}, (b"k", b"", True)),
    ],
)
def test_binding_fills_in_defaults(args: Any, kwargs: Any, bound: Any) -> None:
    assert METHODS["get"].bind(*args, **kwargs) == bound


@pytest.mark.parametrize("args", [(), (b"k", b"d", True), (b"k", b"d", True, 1)])
def test_binding_what_does_not_fit(args: Any) -> None:
    with pytest.raises(TypeError, match=r"Store.get\(\)|Special.get\(\)"):
        METHODS["get"].bind(*args)
    with pytest.raises(TypeError, match="positional"):
        METHODS["extra"].bind(positional=1, other=2)


class Odd:
    """Its parameters have the names that a generated function might use for itself."""

    @cw.remote
    async def call(self, new: int, new_: int = 2, /, default_0: int = 3, *, bind: int = 4, args: int = 5) -> int: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "bound"),
    [((1,), {}, (1, 2, 3, 4, 5)), ((1, 7), {"default_0": 8, "args": 9}, (1, 7, 8, 4, 9))],
)
def test_parameters_may_have_any_names(args: Any, kwargs: Any, bound: Any) -> None:
    async def new(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return arguments

    method = remote_methods(Odd)["call"]
    call = method.caller(new)
    assert asyncio.run(call(*args, **kwargs)) == method.bind(*args, **kwargs) == bound
    assert (call.__name__, call.__qualname__) == ("call", "Odd.call")
    with pytest.raises(TypeError, match=r"Odd.call\(\) missing 1 required positional argument: 'new'"):
        call()


def test_calling_hands_each_argument_to_its_parameter() -> None:
    def target(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert METHODS["get"].on(target)(b"k", b"d", True) == ((b"k", b"d"), {"fresh": True})
    assert METHODS["extra"].on(target) is target


def refused(message: str) -> Any:
    return pytest.raises(cw.ConfigurationError, match=message)


def test_what_cannot_be_remote_is_refused_at_the_decoration() -> None:
    with refused("takes an `async def` method or function, and .*plain is not one"):

        @cw.remote
        def plain(self: Any) -> int: ...

    with refused(r"the result is a stream; annotate it AsyncIterator\[Item\], and not typing.Any"):

        @cw.remote
        async def generator(self: Any) -> Any:
            yield 1

    with refused("parameter key needs a type annotation"):

        @cw.remote
        async def unannotated(self: Any, key) -> int: ...  # type: ignore[no-untyped-def]

    with refused("needs a return annotation"):

        @cw.remote
        async def no_result(self: Any, key: int): ...  # type: ignore[no-untyped-def]

    with refused(r"parameter \*keys.* cannot be sent; take a list or a dict instead"):

        @cw.remote
        async def variadic(self: Any, *keys: int) -> int: ...

    with refused(r"parameter \*\*keys.* cannot be sent"):

        @cw.remote
        async def keywords(self: Any, **keys: int) -> int: ...


def test_types_that_cannot_be_sent_are_refused_at_the_decoration() -> None:
    with refused("BadParameter.method: parameter both has a type that cannot be sent"):

        class BadParameter:
            @cw.remote
            async def method(self, fine: int, both: list[int] | set[int]) -> int: ...

    with refused("BadResult.method: the result has a type that cannot be sent"):

        class BadResult:
            @cw.remote
            async def method(self) -> dict[list[int], tuple[int, ...] | list[int]]: ...

    with refused("BadItem.method: the result has a type that cannot be sent"):

        class BadItem:
            @cw.remote
            async def method(self) -> AsyncIterator[list[int] | set[int]]:
                yield []


def test_what_does_not_exist_yet_is_resolved_at_the_start() -> None:
    assert remote_methods(Early)["later"].decode_arguments(b"\x91\x91\x07") == (Later(7),)

    class Unknown:
        @cw.remote
        async def method(self, value: Missing) -> int: ...  # type: ignore[name-defined]  # noqa: F821

    with refused("Unknown.method: an annotation cannot be resolved: name 'Missing'"):
        remote_methods(Unknown)

    with refused("Late.method: parameter value has a type that cannot be sent"):
        remote_methods(Late)


class Early:
    @cw.remote
    async def later(self, value: Later) -> None: ...


class Late:
    @cw.remote
    async def method(self, value: Both) -> None: ...


class Later(msgspec.Struct, array_like=True):
    number: int


Both = list[int] | set[int]


def test_a_service_without_remote_methods() -> None:
    class Nothing:
        async def method(self) -> int: ...

    with refused("Nothing has no method marked @remote"):
        remote_methods(Nothing)


def test_arguments_are_decoded_as_declared() -> None:
    method: RemoteMethod = METHODS["extra"]
    assert method.decode_arguments(b"\x92\x01\x02") == (1, 2)


# Functions


@cw.remote
async def double(x: int, *, times: int = 1) -> int:
    return x * 2 * times


def test_a_function_of_a_module() -> None:
    method = remote_function(double)
    assert method.name == f"{__name__}.double"
    assert method.bind(3) == (3, 1)
    assert function_of(method.identifier) == (method, double)
    assert function_of(method.identifier + 1) is None


def test_what_is_no_function_of_a_module() -> None:
    @cw.remote
    async def inner(self: Any) -> None: ...

    async def unmarked() -> None: ...

    for function in (inner, unmarked, Store.get):
        with pytest.raises(
            cw.UsageError, match=r"cannot be called on a shard by itself: mark it @remote, and have it at"
        ):
            remote_function(function)


def test_a_function_is_known_by_its_name_whatever_its_version() -> None:
    def made(annotation: type) -> Any:
        async def function(x: Any) -> int: ...

        function.__annotations__["x"] = annotation
        function.__qualname__ = "function"
        return cw.remote(function)

    one, same, other = remote_function(made(int)), remote_function(made(int)), remote_function(made(str))
    assert one.identifier == same.identifier == other.identifier
    assert one.schema == same.schema
    assert one.schema.digest != other.schema.digest


class Kinds:
    """Each method by what can be said of it."""

    async def no_return(self) -> int:
        for number in range(3):
            if number == 2:
                return number
        try:
            raise ValueError
        except ValueError:
            return len([each + 1 for each in range(3)])

    async def no_starts_another(self) -> None:
        async def inner() -> None:
            await asyncio.sleep(0)

        self.task = asyncio.get_running_loop().create_task(inner())

    async def no_makes_a_generator(self) -> list[int]:
        def inner() -> Iterator[int]:
            yield 1

        return list(inner())

    async def yes_await(self) -> None:
        await asyncio.sleep(0)

    async def yes_sometimes(self, often: bool) -> None:
        if often:
            await asyncio.sleep(0)

    async def yes_for(self) -> None:
        async for _ in self.yes_yields():
            pass

    async def yes_with(self) -> None:
        async with contextlib.AsyncExitStack():
            pass

    async def yes_comprehension(self) -> list[int]:
        return [each async for each in self.yes_yields()]

    async def yes_yields(self) -> AsyncIterator[int]:
        yield 1

    def yes_plain(self) -> Any:
        return self.yes_await()

    yes_partial = functools.partialmethod(yes_await)

    @functools.wraps(no_return)
    def yes_wrapped(self) -> Any:
        return self.yes_await()


@pytest.mark.parametrize("name", [name for name in dir(Kinds) if name.startswith(("no_", "yes_"))])
def test_what_can_suspend(name: str) -> None:
    expected = name.startswith("yes") or "suspend" in cw.switched_off()
    assert can_suspend(getattr(Kinds(), name)) == expected
    assert can_suspend(getattr(Kinds, name)) == expected


def test_what_can_suspend_of_what_is_no_function() -> None:
    assert can_suspend(asyncio.sleep)
    assert can_suspend(unittest.mock.AsyncMock())
    assert can_suspend(functools.partial(Kinds().no_return))


# Definitions that look marked and are not, or the other way round


class Marked:
    @cw.remote
    async def get(self, key: int) -> int:
        return key

    @cw.remote
    async def put(self, key: int) -> int:
        return key


def hides(function: Any) -> Any:
    """Without functools.wraps."""

    async def wrapper(*args: Any) -> Any:
        return await function(*args)

    return wrapper


def test_static_and_class_methods_are_refused() -> None:
    for wrap in (staticmethod, classmethod):
        with refused(rf"Service.get is marked @remote and is a {wrap.__name__}: make it a method with `self`"):

            class Service(Marked):
                @wrap
                @cw.remote
                async def get(self, key: int) -> int: ...

            remote_methods(Service)

        with refused(f"@remote takes a method with `self`, and not a {wrap.__name__}"):

            class Other:
                @cw.remote
                @wrap
                async def get(self, key: int) -> int: ...

    with refused("and not a property"):
        cw.remote(property(lambda self: 1))


def test_a_method_without_self_is_refused() -> None:
    with refused("Service.get takes no `self`"):

        class Service:
            @cw.remote
            async def get() -> int: ...  # type: ignore[misc]

    with refused("Other.get takes no `self`"):

        class Other:
            @cw.remote
            async def get(*, key: int) -> int: ...  # type: ignore[misc]


def test_an_override_needs_the_mark_too() -> None:
    class Service(Marked):
        async def get(self, key: int) -> int:
            return key + 1

    class Deeper(Service):
        pass

    class Again(Deeper):
        async def get(self, key: int) -> int:
            return key + 2

    class Mixin:
        async def get(self, key: int) -> int:
            return key

    class WithMixin(Mixin, Marked):
        pass

    for service, name in ((Service, "Service"), (Deeper, "Service"), (Again, "Again"), (WithMixin, "Mixin")):
        with refused(f"{name}.get overrides Marked.get, which is marked @remote, and is not marked itself"):
            remote_methods(service)


def test_the_implementation_of_an_abstract_method_needs_it() -> None:
    class Abstract(abc.ABC):
        @cw.remote
        @abc.abstractmethod
        async def get(self, key: int) -> int: ...

        @abc.abstractmethod
        @cw.remote
        async def put(self, key: int) -> int: ...

    class Good(Abstract):
        @cw.remote
        async def get(self, key: int) -> int:
            return key

        @cw.remote(queue="other")
        async def put(self, key: int) -> int:
            return key

    class Bad(Good):
        async def put(self, key: int) -> int:
            return key

    methods = remote_methods(Good)
    assert sorted(methods) == ["get", "put"]
    assert methods["put"].options.queue == "other"
    with refused("Bad.put overrides Good.put"):
        remote_methods(Bad)


def test_a_method_may_be_taken_away() -> None:
    class Service(Marked):
        get = None  # type: ignore[assignment]

    class Below(Service):
        async def get(self, key: int) -> int:  # type: ignore[override]
            return key

    assert list(remote_methods(Service)) == ["put"]
    assert list(remote_methods(Below)) == ["put"]


def test_a_decorator_that_hides_the_mark_is_named() -> None:
    class Service(Marked):
        @hides
        @cw.remote
        async def get(self, key: int) -> int:
            return key

    with refused(
        r"Service.get is marked @remote, and function around it hides that: put @remote outermost, or let the dec"
    ):
        remote_methods(Service)

    class Property(Marked):
        @property
        @cw.remote
        async def other(self) -> int:
            return 1

    with refused("Property.other is marked @remote, and property around it hides that"):
        remote_methods(Property)


def test_what_merely_calls_a_marked_method_is_left_alone() -> None:
    class Service(Marked):
        by_default = functools.partialmethod(Marked.get, 1)
        alias = Marked.get

        async def plain(self) -> int:
            return 1

        closed = hides(Marked.get)

    assert sorted(remote_methods(Service)) == ["alias", "get", "put"]


def test_special_methods_are_refused() -> None:
    class Service(Marked):
        @cw.remote
        async def __call__(self) -> int: ...

    with refused("Service.__call__ is a special method"):
        remote_methods(Service)


def test_an_object_that_has_every_attribute_is_not_marked() -> None:
    class Service(Marked):
        double = unittest.mock.MagicMock()

    assert sorted(remote_methods(Service)) == ["get", "put"]


def test_what_does_not_travel_is_refused_at_the_start_and_noted_for_the_application() -> None:
    class Service:
        @cw.remote
        async def get(self, key: pathlib.Path) -> int: ...

    class Default:
        @cw.remote
        async def get(self, key: int = None) -> int: ...  # type: ignore[assignment]  # noqa: RUF013

    class Result:
        @cw.remote
        async def get(self) -> complex: ...

    class Item:
        @cw.remote
        async def get(self) -> AsyncIterator[pathlib.Path]:
            yield pathlib.Path()

    for service, message in (
        (Service, r"Service.get: parameter key has a type that cannot be sent: pathlib.Path is no type of msgspec's"),
        (Default, r"Default.get: parameter key cannot be left out: its default None is not of its type"),
        (Result, r"Result.get: the result has a type that cannot be sent: complex is no type of msgspec's"),
        (Item, r"Item.get: the result has a type that cannot be sent: pathlib.Path is no type"),
    ):
        with refused(message):
            remote_methods(service)

    before = len(noted())

    async def function(key: pathlib.Path) -> int: ...

    function.__qualname__ = "function"
    cw.remote(function)
    assert [text.partition(":")[0] for text in noted(before)] == ["function"]
    with refused("function: parameter key has a type that cannot be sent"):
        remote_function(function)
