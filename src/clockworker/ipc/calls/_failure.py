"""Exceptions on the wire: what a remote method raised, as data, and back. Never pickle: it would run what the peer says.

An exception is more than its `args`. What each builtin keeps elsewhere is in a table here, `_STATE`; beside it travel the
attributes that were set on it, its notes, and of an ExceptionGroup the exceptions in it, as failures themselves. The exception
is made anew without its class's own `__init__`, which may want other arguments, by the builtin that it derives from; so one
that is declared (`@remote(raises=...)`) arrives as it was. If its attributes are not plain values, its `__init__` has to make
them of the `args`.

Plain values are text, bytes, numbers, None, and lists, tuples, dicts and sets of them. Everything is bounded, since the caller
waits for the answer: one over a bound is left out, and the `args` are then the message alone.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from clockworker._errors import MessageTooLarge, NodeIsolated, NotOwner, RemoteError, SchemaMismatch

MAX_FAILURE = 65_536  # bytes of a frame, unless one exception alone takes more
MAX_TEXT = 4_096  # characters of a message, a note, a value
MAX_TRACE = 16_384  # characters of a traceback
MAX_VALUES = 32_768  # bytes of args, attributes and state, and 8 more for each value
MAX_DEPTH = 8  # of values in values, and of groups in groups
MAX_EXCEPTIONS = (32, 8, 1)  # in a group, all told; fewer if they are too large
MAX_NOTES = 16

# What builtin exceptions keep beside their args, by the type that keeps it.
_STATE: tuple[tuple[type[BaseException], tuple[str, ...]], ...] = (
    (OSError, ("errno", "strerror", "filename", "filename2")),
    (BlockingIOError, ("characters_written",)),
    (ImportError, ("msg", "name", "path", "name_from")),
    (NameError, ("name",)),
    (AttributeError, ("name",)),
    (
        SyntaxError,
        ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset", "print_file_and_line"),
    ),
    (UnicodeDecodeError, ("encoding", "object", "start", "end", "reason")),
    (UnicodeEncodeError, ("encoding", "object", "start", "end", "reason")),
    (UnicodeTranslateError, ("object", "start", "end", "reason")),
)


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An exception that travels. `args` are the exception's if they are plain values, else its message alone. Values are packed
    (`_pack`).

    state: what its builtin base keeps. attributes: those that were set on it; None if some of them do not travel.
    exceptions: of a group.
    """

    type_name: str
    args: list[Any]
    message: str
    remote_traceback: str
    state: dict[str, Any] = {}
    attributes: dict[str, Any] | None = {}
    notes: list[str] = []
    exceptions: list[Failure] = []


class RemoteTraceback(Exception):
    """The cause of an exception that came from another shard: its traceback there, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


# What a shard says of the call itself, rather than the method.
_OURS = {each.__name__: each for each in (MessageTooLarge, NodeIsolated, NotOwner, SchemaMismatch)}
# To raise them means something else where the caller is.
_ENDINGS = ("StopIteration", "StopAsyncIteration")

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Failure)


def encode_failure(exception: BaseException) -> bytes:
    """The body of an error frame. Whatever the exception holds, there is one, and it is small: the caller waits for it."""
    try:
        for most in MAX_EXCEPTIONS:
            room = _Room(MAX_VALUES)
            body = _encoder.encode(_failure(exception, room, _Room(most), MAX_TRACE, MAX_DEPTH))
            if len(body) <= MAX_FAILURE:
                break
        return body
    except Exception:  # whatever else an exception may do to who looks at it
        kind = type(exception)
        text = f"<{kind.__qualname__} that cannot be described>"
        return _encoder.encode(Failure(f"{kind.__module__}.{kind.__qualname__}", [text], text, ""))


class _Room:
    """How much there still is."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> bool:
        """False if it is too much, and is not to be there."""
        if size > self._left:
            return False
        self._left -= size
        return True


class _NotPlain(Exception):
    """A value that does not travel."""


def _failure(exception: BaseException, values: _Room, exceptions: _Room, trace_length: int, depth: int) -> Failure:
    kind = type(exception)
    try:
        text = _encodable(str(exception))[:MAX_TEXT]
    except Exception:  # a __str__ with a mind of its own
        text = f"<{kind.__qualname__} that has no message>"
    try:
        trace = _encodable("".join(traceback.format_exception(exception, limit=-20)))[-trace_length:]
    except Exception:
        trace = ""
    own = {**getattr(exception, "__dict__", {}), **{name: getattr(exception, name, None) for name in _slots(kind)}}
    notes = [_shown(note) for note in _list(own.get("__notes__"))[:MAX_NOTES]]
    inner = []
    if isinstance(exception, BaseExceptionGroup):
        args = [_shown(exception.message)]
        taken = [each for each in exception.exceptions if depth and exceptions.take(1)]
        inner = [_failure(each, values, exceptions, trace_length // 8, depth - 1) for each in taken]
        if len(taken) < len(exception.exceptions):
            notes.append(f"and {len(exception.exceptions) - len(taken)} more exceptions, which were left out")
    else:
        try:
            args = [_pack(arg, values) for arg in exception.args]
        except _NotPlain:
            args = [text]
    attributes: dict[str, Any] | None
    try:
        attributes = {name: _pack(value, values) for name, value in own.items() if _is_name(name)}
    except _NotPlain:
        attributes = None
    return Failure(
        f"{kind.__module__}.{kind.__qualname__}",
        args,
        text,
        trace,
        _state(exception, values),
        attributes,
        notes,
        inner,
    )


def _state(exception: BaseException, values: _Room) -> dict[str, Any]:
    state = {}
    for base, names in _STATE:
        if isinstance(exception, base):
            for name in names:
                value = getattr(exception, name, None)
                if isinstance(exception, UnicodeError) and isinstance(value, bytes | str):
                    value = value[: MAX_TEXT - 1]  # where it went wrong is a number, and stays right
                if value is not None:
                    try:
                        state[name] = _pack(value, values)
                    except _NotPlain:  # a path
                        state[name] = _shown(value)
    return state


def _slots(kind: type[BaseException]) -> set[str]:
    names: set[str] = set()
    for cls in kind.__mro__:
        slots = vars(cls).get("__slots__", ())
        names.update((slots,) if isinstance(slots, str) else slots)
    return names - {"__dict__", "__weakref__"}


def decode_failure(body: bytes, declared: dict[str, type[Exception]], where: str) -> Exception:
    """The exception to raise in the caller: itself if it is a builtin or declared, else RemoteError."""
    return _exception(_decoder.decode(body), declared, where, MAX_DEPTH)


def _exception(failure: Failure, declared: dict[str, type[Exception]], where: str, depth: int) -> Exception:
    module, _, name = failure.type_name.rpartition(".")
    kind: Any = declared.get(failure.type_name)
    if kind is None and module == MessageTooLarge.__module__:
        kind = _OURS.get(name)
    if kind is None and module == "builtins" and name not in _ENDINGS:
        kind = getattr(builtins, name, None)
    exception: Exception | None = None
    if isinstance(kind, type) and issubclass(kind, Exception):
        inner = [_exception(each, declared, where, depth - 1) for each in failure.exceptions] if depth else []
        try:
            exception = _made(kind, failure, inner)
        except Exception:  # a constructor with a mind of its own, or a peer's lie
            exception = None
    if exception is None:
        exception = RemoteError(
            f"{where} raised {failure.type_name}: {failure.message}", failure.type_name, failure.remote_traceback
        )
    for note in failure.notes[:MAX_NOTES]:
        exception.add_note(note)
    exception.__cause__ = RemoteTraceback(failure.remote_traceback)
    return exception


def _made(kind: type[Exception], failure: Failure, inner: list[Exception]) -> Exception:
    args = tuple(map(_unpack, failure.args))
    state = {name: _unpack(value) for name, value in failure.state.items()}
    if issubclass(kind, ExceptionGroup):
        made: Exception = kind.__new__(kind, str(args[0]), inner)
    elif failure.attributes is None and _initializes(kind):
        made = kind(*args)
    elif issubclass(kind, UnicodeError) and "object" in state:
        made = _without_init(kind, tuple(state[name] for name in _UNICODE if name in state))
    else:
        made = _without_init(kind, args)
    for base, names in _STATE:
        if issubclass(kind, base):
            for name in names:
                if name in state:
                    setattr(made, name, state[name])
    slots = _slots(kind)
    for name, value in (failure.attributes or {}).items():
        if name in slots:
            object.__setattr__(made, name, _unpack(value))
        elif _is_name(name):
            made.__dict__[name] = _unpack(value)
    return made


_UNICODE = ("encoding", "object", "start", "end", "reason")


def _without_init(kind: type[Exception], args: tuple[Any, ...]) -> Exception:
    """By the builtin that it derives from."""
    base: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    made: Exception = base.__new__(kind, *args)
    base.__init__(made, *args)
    made.args = args
    return made


def _initializes(kind: type[Exception]) -> bool:
    """Whether it has an `__init__` of its own."""
    owner = next(each for each in kind.__mro__ if "__init__" in vars(each))
    return owner.__module__ != "builtins"


# Values. Those that msgpack has are themselves; the others are lists, which begin with what they are.

_SCALARS = (bool, float, type(None))


def _pack(value: Any, room: _Room, depth: int = MAX_DEPTH) -> Any:
    """Raises `_NotPlain`."""
    if not depth or not room.take(8 + (len(value) if isinstance(value, str | bytes | bytearray) else 0)):
        raise _NotPlain
    kind = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, int):  # IntEnum's members too
        whole = int(value)
        if -(2**63) <= whole < 2**64:
            return whole
        if whole.bit_length() <= MAX_TEXT:
            return ["int", hex(whole)]
    elif isinstance(value, str | bytes | bytearray):
        if len(value) < MAX_TEXT:
            return _pack_text(value)
    elif kind in (list, tuple, set, frozenset):
        return [kind.__name__, [_pack(each, room, depth - 1) for each in value]]
    elif kind is dict:
        return ["dict", [(_pack(key, room, depth - 1), _pack(each, room, depth - 1)) for key, each in value.items()]]
    elif kind is complex:
        return ["complex", [value.real, value.imag]]
    raise _NotPlain


def _pack_text(value: str | bytes | bytearray) -> Any:
    if isinstance(value, bytearray):
        return ["bytearray", bytes(value)]
    if isinstance(value, bytes):
        return bytes(value)
    plain = str.__str__(value)
    try:
        plain.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return ["str", plain.encode(errors="surrogatepass")]
    return plain


_UNPACK: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "str": lambda data: data.decode(errors="surrogatepass"),
    "bytearray": bytearray,
    "list": lambda items: list(map(_unpack, items)),
    "tuple": lambda items: tuple(map(_unpack, items)),
    "set": lambda items: set(map(_unpack, items)),
    "frozenset": lambda items: frozenset(map(_unpack, items)),
    "dict": lambda pairs: {_unpack(key): _unpack(value) for key, value in pairs},
    "complex": lambda parts: complex(*parts),
}


def _unpack(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, what = value
    return _UNPACK[kind](what)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and not name.startswith("__") and len(name) < 128


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []


def _shown(value: object) -> str:
    try:
        return _encodable(str(value))[: MAX_TEXT - 1]
    except Exception:
        return f"<{type(value).__name__}>"


def _encodable(text: str) -> str:
    # File names that are not UTF-8 are strings with lone surrogates, which UTF-8 does not take.
    return text.encode(errors="backslashreplace").decode()
