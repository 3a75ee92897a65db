"""Exceptions on the wire: what a remote method raised, as data, and back. Never pickle: it would run what the peer says."""

from __future__ import annotations

import builtins
import traceback
from typing import Any

import msgspec

from clockworker._errors import MessageTooLarge, RemoteError, SchemaMismatch

_PLAIN = (str, bytes, int, float, bool, type(None))


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An exception that travels. `args` are the exception's if they are plain values, else its message alone."""

    type_name: str
    args: list[Any]  # plain values; msgspec takes no union of str and bytes
    message: str
    remote_traceback: str


class RemoteTraceback(Exception):
    """The cause of an exception that came from another shard: its traceback there, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


# What a shard says of the call itself, rather than the method.
_OURS = {"MessageTooLarge": MessageTooLarge, "SchemaMismatch": SchemaMismatch}
# To raise them means something else where the caller is.
_ENDINGS = ("StopIteration", "StopAsyncIteration")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Failure)


def encode_failure(exception: BaseException) -> bytes:
    """The body of an error frame. Whatever the exception holds, there is one, and it is small: the caller waits for it."""
    kind = type(exception)
    try:
        text = _encodable(str(exception))[:4_096]
    except Exception:  # a __str__ with a mind of its own
        text = f"<{kind.__qualname__} that has no message>"
    args = list(exception.args[:16]) if all(map(_is_plain, exception.args)) else [text]
    trace = _encodable("".join(traceback.format_exception(exception, limit=-20)))[-16_384:]
    failure = Failure(f"{kind.__module__}.{kind.__qualname__}", args, text, trace)
    try:
        return _encoder.encode(failure)
    except Exception:  # an integer of more than 64 bits, or a string of lone surrogates
        return _encoder.encode(msgspec.structs.replace(failure, args=[text]))


def _is_plain(arg: object) -> bool:
    return isinstance(arg, _PLAIN) and not (isinstance(arg, str | bytes) and len(arg) >= 4_096)


def _encodable(text: str) -> str:
    # File names that are not UTF-8 are strings with lone surrogates, which UTF-8 does not take.
    return text.encode(errors="backslashreplace").decode()


def decode_failure(body: bytes, declared: dict[str, type[Exception]], where: str) -> Exception:
    """The exception to raise in the caller: itself if it is a builtin or declared, else RemoteError."""
    failure = _decoder.decode(body)
    module, _, name = failure.type_name.rpartition(".")
    kind: Any = declared.get(failure.type_name)
    if kind is None and module == MessageTooLarge.__module__:
        kind = _OURS.get(name)
    if kind is None and module == "builtins" and name not in _ENDINGS:
        kind = getattr(builtins, name, None)
    exception: Exception | None = None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            exception = kind(*failure.args)
        except Exception:  # a constructor with a mind of its own
            exception = None
    if exception is None:
        exception = RemoteError(
            f"{where} raised {failure.type_name}: {failure.message}", failure.type_name, failure.remote_traceback
        )
    exception.__cause__ = RemoteTraceback(failure.remote_traceback)
    return exception
