"""Clockworker: a multi-process, shard-per-core runtime.

    executor   one event loop divided fairly between weighted queues of tasks
    ipc        calls between shards over shared-memory rings
    shards     the supervisor, the shards' processes, the command line
    http       ASGI and WSGI applications, each request in a queue
    testing    for tests of applications

Everything public is importable from here, but `testing`, which production does not import.
"""

import os
import sys

if "t" in getattr(sys, "abiflags", ""):
    raise ImportError(
        "Clockworker relies on CPython's interpreter lock, and this is a free-threaded Python: use "
        f"python{sys.version_info.major}.{sys.version_info.minor}, not python{sys.version_info.major}.{sys.version_info.minor}t"
    )

if os.environ.get("CLOCKWORKER_PURE", "") not in ("", "0"):
    from clockworker import _sources

    _sources.come_first()  # before anything that is compiled

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from clockworker import _errors, _moved, executor
from clockworker._errors import *  # noqa: F403
from clockworker._version import __version__ as __version__
from clockworker.executor import *  # noqa: F403

if TYPE_CHECKING:
    from clockworker import http, ipc, shards
    from clockworker.http import *  # noqa: F403
    from clockworker.ipc import *  # noqa: F403
    from clockworker.shards import *  # noqa: F403

    __all__ = [*_errors.__all__, *executor.__all__, *http.__all__, *ipc.__all__, *shards.__all__]

_moved.come_last()

# For those who put a shard together by themselves, as the supervisor's children do: here as everything public is, and nothing
# that an application is written with.
_WIRING = frozenset({"Limits", "LinkStats", "Mesh", "MeshStats", "create_doorbell", "create_ring"})


_LATER = ("http", "ipc", "shards")


def _import_the_rest() -> None:
    """What only servers need: whoever has an executor on a loop of their own does not wait for it."""
    names = [*_errors.__all__, *executor.__all__]
    for package in map(_package, _LATER):
        globals().update((name, getattr(package, name)) for name in package.__all__)
        names += package.__all__
    globals()["__all__"] = names  # the last: who finds it finds all


def _package(name: str) -> ModuleType:
    return importlib.import_module(f"clockworker.{name}")


if not TYPE_CHECKING:  # to a checker a module with this has every name

    def __getattr__(name: str) -> object:
        if name in _LATER:  # and no other: who asks for it may be a part of one
            return _package(name)
        if (name == "__all__" or not name.startswith("_")) and "__all__" not in globals():
            _import_the_rest()
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    if "__all__" not in globals():
        _import_the_rest()
    return sorted({*__all__, "__version__"} - _WIRING)
