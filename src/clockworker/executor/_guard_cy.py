# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Guarded code: where no step is cut, since plain objects of the library are in between two states there.

Locks are known exactly (`_locks_cy`). asyncio, importlib and their like need none: they are of one thread, and what they change
between two awaits nobody else sees. So a step is not cut while a frame from the innermost out to the first coroutine's is of a
guarded package, or a `__del__`. Beyond that coroutine there are only coroutines that wait for it, as they would at any await.

*Verdicts are kept in the code objects*, in a word that CPython has for such ends. A frame's module is looked up once for each
function, and again after `never_preempt` has added a package: each generation of verdicts has its number.

*Libraries of asyncio's.* A connection, a protocol, a pool is a plain object that tasks of all queues change, and callbacks of
the loop between them. aiohttp's `if not lost: closed = create_future()`, cut at the call, is a future that nobody sets. Those
that are in wide use are guarded like asyncio; of others `never_preempt` is told.

*Boundaries.* Clockworker's own code is guarded. Where it calls a function of the application's, in a frame of its own, it says
so (`calls_out`): what lies further out is as good as a coroutine that waits.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._layout import a_frame

compiled: bool = cython.compiled

F = TypeVar("F", bound=Callable[..., Any])

# Not logging, threading, queue, concurrent: their locks are tracked, and a program that logs in a loop would never be cut.
_PACKAGES = (
    "importlib",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "zipimport",
    "asyncio",
    "anyio",
    "sniffio",
    "uvloop",
    "clockworker",
    "_clockworker_pytest",
    "greenlet",
    "weakref",
    "_weakrefset",
    "selectors",
    "signal",
)
# Clients and servers on asyncio, whose objects are shared without a lock. Not frameworks: below their coroutines is the
# application's own code, which is what computes.
_LIBRARIES = (
    "aio_pika",
    "aiohttp",
    "aiokafka",
    "aiomcache",
    "aiomysql",
    "aiopg",
    "aioredis",
    "aiormq",
    "aiosqlite",
    "asyncmy",
    "asyncpg",
    "asyncssh",
    "engineio",
    "grpc",
    "httpcore",
    "hypercorn",
    "nats",
    "psycopg",
    "psycopg_pool",
    "pymongo",
    "redis",
    "socketio",
    "uvicorn",
    "valkey",
    "websockets",
)

_OPEN = 1
_GUARDED = 2
_BOUNDARY = 3

_packages = {*_PACKAGES, *_LIBRARIES}
_boundaries: dict[int, CodeType] = {}  # by identity: code objects of different modules may be equal
_index = -1
_generation = 1


def guard(packages: tuple[str, ...]) -> None:
    """Code of these packages is guarded from now on."""
    global _generation
    _packages.update(packages)
    _generation += 1


def guarded() -> frozenset[str]:
    """The packages."""
    return frozenset(_packages)


def unguard(packages: set[str]) -> None:
    """No longer, for tests."""
    global _generation
    _packages.difference_update(packages)
    _generation += 1


def calls_out(function: F) -> F:
    """Decorates a function of ours that calls the application's, which may be cut."""
    code: CodeType = function.__code__
    _boundaries[id(code)] = code
    return function


def find() -> str | None:
    """Have the word in code objects. Why not, else None. Compiled only."""
    global _index
    if _index < 0:
        _index = request_index(cython.NULL)  # type: ignore[name-defined]  # noqa: F821
    if _index < 0:
        return "none is left"
    frame = a_frame()
    first = _verdict(frame, frame.f_code)
    again = _verdict(frame, frame.f_code)
    return None if first == again == _GUARDED else "it was not kept"


def _is_of(name: object) -> bool:
    if not isinstance(name, str):
        return False
    while name not in _packages:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return False
    return True


def _verdict(frame: Any, code: Any) -> int:
    if cython.compiled:
        kept = cython.NULL
        get_word(code, _index, cython.address(kept))  # type: ignore[name-defined]  # noqa: F821
        word = cython.cast(cython.Py_ssize_t, kept)
        if word >> 2 == _generation:
            return word & 3  # type: ignore[no-any-return]
    if id(code) in _boundaries:
        verdict = _BOUNDARY
    elif code.co_name == "__del__" or _is_of(frame.f_globals.get("__name__")):
        verdict = _GUARDED
    else:
        verdict = _OPEN
    if cython.compiled:
        set_word(code, _index, cython.cast(cython.p_void, _generation << 2 | verdict))  # type: ignore[name-defined]  # noqa: F821
    return verdict


def is_guarded(frame: FrameType | None) -> bool:
    """Whether the step whose innermost frame this is may not be cut. None: it has no frame in Python. Compiled only."""
    innermost = True
    while frame is not None:
        code = frame_code(frame)  # type: ignore[name-defined]  # noqa: F821
        verdict = _verdict(frame, code)
        if verdict == _GUARDED:
            return True
        if verdict == _BOUNDARY:
            return innermost
        if is_async(code):  # type: ignore[name-defined]  # noqa: F821
            return False
        frame = frame_back(frame)  # type: ignore[name-defined]  # noqa: F821
        innermost = False
    return False
