"""Clockworker: a multi-process, shard-per-core runtime.

    executor   one event loop divided fairly between weighted queues of tasks
    ipc        calls between shards over shared-memory rings
    shards     the supervisor, the shards' processes, the command line
    http       ASGI and WSGI applications, each request in a queue
    testing    for tests of applications

Everything public is importable from here, but `testing`, which production does not import.
"""

import os

if os.environ.get("CLOCKWORKER_PURE", "") not in ("", "0"):
    from clockworker import _sources

    _sources.come_first()  # before anything that is compiled

from clockworker import _errors, _moved, executor, http, ipc, shards
from clockworker._errors import *  # noqa: F403
from clockworker._version import __version__ as __version__
from clockworker.executor import *  # noqa: F403
from clockworker.http import *  # noqa: F403
from clockworker.ipc import *  # noqa: F403
from clockworker.shards import *  # noqa: F403

_moved.come_last()

__all__ = [*_errors.__all__, *executor.__all__, *http.__all__, *ipc.__all__, *shards.__all__]

# For those who put a shard together by themselves, as the supervisor's children do: here as everything public is, and nothing
# that an application is written with.
_WIRING = frozenset({"Limits", "LinkStats", "Mesh", "MeshStats", "create_doorbell", "create_ring"})


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"} - _WIRING)
