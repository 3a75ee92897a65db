"""Clockworker: a multi-process, shard-per-core runtime.

    executor   one event loop divided fairly between weighted queues of tasks
    ipc        calls between shards over shared-memory rings
    shards     the supervisor, the shards' processes, the command line

Everything public is importable from here.
"""

from clockworker.executor import *  # noqa: F403
