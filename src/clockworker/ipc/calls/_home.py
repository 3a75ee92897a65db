"""A shard as the calls see it that are made on it: its executor, its bounds, its thread."""

from __future__ import annotations

import asyncio
import threading

from clockworker.executor import Executor, QueueHandle
from clockworker.ipc.calls._call_cy import outside_loop
from clockworker.ipc.calls._method import RemoteMethod
from clockworker.ipc.calls._shared_cy import Shared


class Home:
    """Of the mesh that is made in this thread, on this loop.

    encode_local: encode calls to the shard itself too (`_as_sent`).
    calls_local: how many it has made to itself.
    """

    def __init__(self, executor: Executor, shared: Shared, *, encode_local: bool) -> None:
        self.executor = executor
        self.shared = shared
        self.shard_id = shared.shard_id
        self.encode_local = encode_local
        self.calls_local = 0
        self._thread = threading.get_ident()

    def check_thread(self, what: str) -> None:
        """Raise UsageError in another thread, or on another loop, than the mesh's own."""
        if threading.get_ident() != self._thread or asyncio._get_running_loop() not in (None, self.shared.loop):
            raise outside_loop(what)

    def queue_for(self, method: RemoteMethod) -> QueueHandle | None:
        """The method's own queue. KeyError if the executor lacks it."""
        return None if method.options.queue is None else self.executor.queue(method.options.queue)
