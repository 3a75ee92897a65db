# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""Where requests run: a target for each rule of a server's routes, and one more for the requests that no rule is about.

A rule names a queue; its target is that queue in this shard. The queue is chosen before there is a task: to make one in the
right queue costs less than to make one somewhere. A request counts for the limit of its target from its first step until its
task has ended, background tasks included. Beyond the limit requests wait here, with nothing read of them but their heads, and
beyond the number that may wait they are refused.
"""

from __future__ import annotations

import contextvars
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._core_cy import Core
from clockworker.executor._handles_cy import GroupHandle
from clockworker.executor._histogram_cy import Histogram
from clockworker.executor._tasks_cy import Membership
from clockworker.http._in_queue import IN_QUEUE

LONGEST_GROUP = 128  # bytes of a group's key; clients choose it

_MOST_KNOWN = 1_024  # paths whose target is kept
_LONGEST_KNOWN = 128  # characters of one and its method

NO_GROUP = 0
BY_CLIENT = 1
BY_HOST = 2
BY_HEADER = 3
BY_PATH = 4
BY_ROUTE = 5
_any_in_queue = False  # of the targets of this process
_KINDS = {"client": BY_CLIENT, "host": BY_HOST, "header": BY_HEADER, "path": BY_PATH, "route": BY_ROUTE}


@cython.final
@cython.cclass
class Target:
    """route: the rule's path, or "other". queue: the name of its queue. after: where a task goes when its response is complete.
    running, waiting: requests. refused: requests, since the start. statuses: of how many responses, by the first digit of
    the status; at 0, of requests that had none. seconds: from a request's last byte to its response's, in nanoseconds.
    websockets: that are open. app: that its requests have instead of the server's.
    """

    route: str
    queue: str
    after: GroupHandle | None
    running: int
    waiting: int
    refused: int
    statuses: list[int]
    seconds: Histogram
    websockets: int
    app: Callable[..., Any] | None

    def __init__(
        self,
        route: str,
        handle: GroupHandle,
        *,
        group: str | None = None,
        after: GroupHandle | None = None,
        limit: int | None = None,
        most_waiting: int | None = None,
        path_value: Callable[[str, str], str] | None = None,
        fresh_context: bool = False,
        app: Callable[..., Any] | None = None,
        in_queue: bool = False,
    ) -> None:
        """path_value: of a path, and the name of a part of it. fresh_context: of the connection's context its requests inherit
        nothing. in_queue: what they would run in threads runs in the queue (`_in_queue`)."""
        self.route = route
        self.app = app
        self.queue = str(handle.key)
        self.after = after
        self.running = self.waiting = self.refused = self.websockets = 0
        self.statuses = [0] * 6
        self.seconds = Histogram()
        self._handle = handle
        self._core: Core = handle._core
        self._membership: Membership = handle._membership
        kind, _, name = (group or "").partition(":")
        self._group = _KINDS.get(kind, NO_GROUP)
        self._group_name: Any = name.lower().encode() if self._group == BY_HEADER else name
        self._path_value = path_value
        self._limit = 0 if limit is None else limit
        self._most_waiting = -1 if most_waiting is None else most_waiting
        self._line: OrderedDict[Any, None] = OrderedDict()
        self._fresh_context = fresh_context
        self._in_queue = in_queue
        if in_queue:
            global _any_in_queue
            _any_in_queue = True

    def spawn(self, coroutine: Any, scope: dict[str, Any], path: str) -> Any:
        """The task of a request that was admitted. path: without what `root_path` adds."""
        membership = self._membership
        if self._group != NO_GROUP:
            membership = self._core.group(membership.queue, self._key(scope, path))
        if self._fresh_context:
            return contextvars.Context().run(self.spawn_in, membership, coroutine)
        # The step may be one of a request before it.
        if _any_in_queue and (self._in_queue or IN_QUEUE.get() is not None):
            return self.spawn_in(membership, coroutine)
        return self._core.spawn(membership, coroutine, self.route).task

    def spawn_in(self, membership: Membership, coroutine: Any) -> Any:
        """In this context, of which the task's is a copy."""
        if not _any_in_queue:
            return self._core.spawn(membership, coroutine, self.route).task
        token = IN_QUEUE.set(self._core if self._in_queue else None)
        try:
            return self._core.spawn(membership, coroutine, self.route).task
        finally:
            IN_QUEUE.reset(token)

    def group_of(self, scope: dict[str, Any], path: str) -> str | None:
        """The group of such a request; None if they are in none."""
        return None if self._group == NO_GROUP else self._key(scope, path)

    def _key(self, scope: dict[str, Any], path: str) -> str:
        if self._group == BY_ROUTE:
            return self.route
        if self._group == BY_CLIENT:
            client = scope["client"]
            return "" if client is None else str(client[0])[:LONGEST_GROUP]
        if self._group == BY_PATH:
            assert self._path_value is not None
            return self._path_value(path, self._group_name)[:LONGEST_GROUP]
        wanted = b"host" if self._group == BY_HOST else self._group_name
        for name, value in scope["headers"]:
            if name == wanted:
                return bytes(value[:LONGEST_GROUP]).decode("latin-1")
        return ""

    def admit(self, request: Any) -> bool:
        """Whether a request may run now. False: it waits, and `run` of it is called at its turn, or it is refused."""
        if self._limit and self.running >= self._limit:
            if 0 <= self._most_waiting <= self.waiting:
                self.refused += 1
                request.refuse(503)
            else:
                self.waiting += 1
                self._line[request] = None
            return False
        self.running += 1
        return True

    def leave(self, request: Any) -> None:
        """A request that waits does so no more: its client has left."""
        if self._line.pop(request, self) is None:
            self.waiting -= 1

    def ended(self) -> None:
        """The task of a request that was admitted has ended."""
        self.running -= 1
        while self._line and self.running < self._limit:
            request, _ = self._line.popitem(last=False)
            self.waiting -= 1
            self.running += 1
            request.run()

    def count(self, status: int, elapsed_ns: int) -> None:
        """A response has ended. status: 0 for none. elapsed_ns: 0 if it took no time that means anything."""
        self.statuses[status // 100 if status < 600 else 5] += 1
        if elapsed_ns > 0:
            self.seconds.record(elapsed_ns)


@cython.final
@cython.cclass
class Targets:
    """Those of a server. all: one for each route of the table, in their order, and the last for requests that none is about.

    Which one a method and a path have is kept, since most of them are asked again. Clients choose paths: so only of so many,
    and of none that is long.
    """

    all: list[Target]

    def __init__(self, table: Any, targets: list[Target], most_running: int | None) -> None:
        """table: a RouteTable. most_running: requests at once in all of them."""
        self.all = targets
        self._find = table.find
        self._uses_host = table.uses_host
        self._has_routes = len(targets) > 1
        self._most_running = -1 if most_running is None else most_running
        self._other: Target = targets[-1]
        self._known: dict[str, dict[str, Target]] = {}  # by method and path
        self._how_many_known = 0

    def find(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Target:
        """Where such a request is to run. path: decoded, without what `root_path` adds."""
        if not self._has_routes:
            return self._other
        if self._uses_host:
            host = ""
            for name, value in headers:
                if name == b"host":
                    host = bytes(value).decode("latin-1")
                    break
            of_host: Target = self.all[self._find(method, path, host)]
            return of_host
        of_method = self._known.get(method)
        target: Target | None = None if of_method is None else of_method.get(path)
        if target is None:
            target = self.all[self._find(method, path, "")]
            self._keep(method, path, target)
        return target

    def _keep(self, method: str, path: str, target: Target) -> None:
        if len(method) + len(path) > _LONGEST_KNOWN:
            return
        if self._how_many_known >= _MOST_KNOWN:
            self._known.clear()
            self._how_many_known = 0
        self._known.setdefault(method, {})[path] = target
        self._how_many_known += 1

    def are_full(self) -> bool:
        """Whether a further request is to be refused."""
        return self._most_running >= 0 and sum([target.running for target in self.all]) >= self._most_running
