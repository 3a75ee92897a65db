"""Calls to one's own shard as if it were another: what goes in and comes out is encoded and decoded. For tests.

On its own shard a call is a plain call, and so it takes what could not be sent, and shares what would be copied. An
application that works on one shard may then fail on two, where half of the calls go elsewhere. With `encode_local` (of the
mesh; `encode_local_calls` of the test kit) it fails on one: the arguments are copies and of the types that were declared, so is
the result, and an exception is what a caller on another shard gets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from clockworker._errors import MessageTooLarge
from clockworker.ipc.calls._call_cy import unsendable
from clockworker.ipc.calls._failure import decode_failure, encode_failure
from clockworker.ipc.calls._home import Home
from clockworker.ipc.calls._method import RemoteMethod


class AsSent:
    """One method, of an instance on this shard."""

    def __init__(self, home: Home, method: RemoteMethod, bound: Callable[..., Any]) -> None:
        self._home = home
        self._method = method
        self._function = method.on(bound)

    def caller(self) -> Callable[..., Any]:
        """What to call in place of the method."""
        method = self._method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self.run(self.encode(method.bind(*args, **kwargs)))

        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            body = self.encode(method.bind(*args, **kwargs))
            try:
                generator = self._function(*self._decode(body))
                try:
                    async for value in generator:
                        yield self._arrived(value, "an item")
                finally:
                    await generator.aclose()
            except Exception as error:
                raise self._as_sent(error) from None

        return stream if method.streams else call

    def encode(self, arguments: tuple[Any, ...]) -> bytes:
        """Raises what a call to another shard raises before it is sent."""
        encode = self._home.shared.encode
        try:
            body: bytes = encode(arguments)
        except Exception as error:
            raise unsendable(self._method, arguments, encode, error) from error
        self._check_size(body, f"the arguments of {self._method.name}")
        return body

    async def run(self, body: bytes) -> Any:
        """Call it with encoded arguments."""
        try:
            return self._arrived(await self._function(*self._decode(body)), "the result")
        except Exception as error:
            raise self._as_sent(error) from None

    async def run_one_way(self, body: bytes) -> None:
        """Call it with encoded arguments, for nobody."""
        await self._function(*self._decode(body))

    def _decode(self, body: bytes) -> tuple[Any, ...]:
        try:
            arguments: tuple[Any, ...] = self._method.decode_arguments(body)
        except Exception as error:
            raise TypeError(f"{self._method.name}() was called with arguments that it does not take: {error}") from None
        return arguments

    def _arrived(self, value: object, what: str) -> Any:
        name = self._method.name
        try:
            body = self._home.shared.encode(value)
        except Exception as error:
            raise TypeError(f"{name}() returned what cannot be sent: {error}") from error
        self._check_size(body, f"{what} of {name}")
        try:
            return self._method.decode_result(body)
        except Exception as error:
            raise TypeError(f"{what} of {name} is not what it declares: {error}") from error

    def _check_size(self, body: bytes, what: str) -> None:
        most = self._home.shared.max_message
        if len(body) > most:
            raise MessageTooLarge(f"{what} is {len(body):,} bytes encoded; max_message is {most:,}. Nothing was sent")

    def _as_sent(self, error: Exception) -> Exception:
        where = f"{self._method.name} on shard {self._home.shard_id}"
        return decode_failure(encode_failure(error), self._method.raises, where)
