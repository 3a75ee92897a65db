# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A call of a peer, run here in the queue where it belongs, from decoding the arguments to encoding the result.

It is a task there, or a single step if the method cannot suspend (`_remote.can_suspend`): then the request itself is what its
queue holds, and is called. Making a task, and waking the loop for its end, was half of what such a request cost.

It is answered exactly once: when it has run, or before that because its caller has left. A one-way request is answered with
credit.

Rejected: running every method's first step that way, and making a task of those that suspend. The first step and the others
would have different current tasks, and `asyncio.timeout` or a task group depends on there being one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker.executor._core_cy import Core
from clockworker.executor._tasks_cy import Membership
from clockworker.ipc._call_cy import DEADLINE, Method
from clockworker.ipc._failure import encode_failure
from clockworker.ipc._frames import Kind
from clockworker.ipc._link_cy import Link
from clockworker.ipc._shared_cy import Shared

if cython.compiled:
    from cython.cimports.clockworker.ipc._coroutine import run_to_end
    from cython.cimports.clockworker.ipc._monotonic import now_ns
else:
    from time import monotonic_ns as now_ns

    def run_to_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine that does not suspend."""
        try:
            coroutine.send(None)
        except StopIteration as ended:
            return ended.value
        coroutine.close()
        raise RuntimeError(f"{coroutine!r} has suspended, and what it was made of could not")


logger = logging.getLogger("clockworker.ipc")

_REPLY = int(Kind.REPLY)
_ERROR = int(Kind.ERROR)


@cython.final
@cython.cclass
class Target:
    """What a request runs: a method of an instance here, or a function."""

    method: Method
    function: Callable[..., Any]  # takes all arguments by position
    membership: Membership | None  # of the method's own queue
    carrier: asyncio.Task[Any] | None  # the current task of all calls of a method that cannot suspend; None if it can

    def __init__(
        self,
        method: Method,
        function: Callable[..., Any],
        membership: Membership | None,
        carrier: asyncio.Task[Any] | None,
    ) -> None:
        if method is None:
            raise TypeError("a target is a method's")
        self.method = method
        self.function = function
        self.membership = membership
        self.carrier = carrier


@cython.freelist(64)
@cython.final
@cython.cclass
class Request:
    """One call of a peer."""

    link: Link
    epoch: int  # the link's, when it came
    target: Target
    queue: int  # whose credit it has
    number: int  # the peer's; 0: one way
    deadline_ns: int
    arguments: Any  # encoded
    task: asyncio.Task[None] | None  # None while the first step runs at birth, and if it has none
    running: bool  # if it has no task
    left: bool  # its caller has, before it ran

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a Request is not made: a peer sends one")

    def start(self, core: Core, membership: Membership, serve: Coroutine[Any, Any, None] | None) -> None:
        """Let its turn come: of `serve`, or if that is None of `self()`."""
        if serve is None:
            core.spawn_step(membership, self.target.carrier, self)  # type: ignore[arg-type]
        else:
            self.task = core.spawn(membership, serve, self.target.method.name).task

    def __call__(self) -> None:
        """What `serve` and `serve_one_way` do, for a method that cannot suspend."""
        if self.left:
            return
        self.running = True
        try:
            if self.deadline_ns and not self.in_time():
                if self.number:
                    self.answer(_ERROR, b"")
            elif self.number:
                self.reply(run_to_end(self.call()))
            else:
                run_to_end(self.call())
        except Exception as error:
            if self.number:
                self.answer(_ERROR, encode_failure(error))
            else:
                self.log(error)
        except BaseException as error:
            if self.number:
                self.answer(_ERROR, encode_failure(error))
            raise
        finally:
            self.running = False
            if self.number == 0:
                self.done_one_way()

    async def serve(self) -> None:
        """Run it and answer."""
        if self.deadline_ns and not self.in_time():
            self.answer(_ERROR, b"")
            return
        try:
            self.reply(await self.call())
        except Exception as error:
            self.answer(_ERROR, encode_failure(error))
        except BaseException as error:
            # Cancelled by its caller, who has been answered, or because we are going down; or it is one that ends more than
            # this task, which is no reason to leave the caller waiting.
            self.answer(_ERROR, encode_failure(error))
            raise

    async def serve_one_way(self) -> None:
        """Run it. What it raises is logged here, since nobody waits for it."""
        try:
            if self.deadline_ns == 0 or self.in_time():
                await self.call()
        except Exception as error:
            self.log(error)
        finally:
            self.done_one_way()

    def log(self, error: Exception) -> None:
        logger.error(
            "%s, sent by shard %d, failed", self.target.method.name, self.link.peer, exc_info=error, stacklevel=2
        )

    def done_one_way(self) -> None:
        self.link.one_ways_done += 1
        self.link.owe(self.epoch, self.queue)

    def in_time(self) -> bool:
        """Whether the deadline is still to come. Then what runs in this context inherits it."""
        DEADLINE.set(self.deadline_ns)
        now: int = now_ns()
        return self.deadline_ns > now

    def call(self) -> Any:
        """The coroutine or generator of the method, with its arguments."""
        method = self.target.method
        arguments = self.arguments
        self.arguments = None
        try:
            decoded = method.decode_arguments(arguments)
        except Exception as error:
            raise TypeError(f"{method.name}() was called with arguments that it does not take: {error}") from None
        return self.target.function(*decoded)

    def encode(self, value: object, what: str) -> bytes:
        """A result, or an item of a stream. TypeError if it cannot be sent, MessageTooLarge if it is too large."""
        shared: Shared = self.link.shared
        method = self.target.method
        try:
            body: bytes = shared.encode(value)
        except Exception as error:
            raise TypeError(f"{method.name}() returned what cannot be sent: {error}") from error
        if len(body) > shared.max_message:
            raise self.link.too_large(body, f"{what} of {method.name}")
        return body

    def reply(self, result: object) -> None:
        self.answer(_REPLY, self.encode(result, "the result"))

    def answer(self, kind: int, body: bytes) -> None:
        """Once; after that it does nothing."""
        self.link.answer(self.epoch, self.number, kind, body)

    def runs_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it is what the task, which is the current one, does."""
        return self.running or self.task is task

    def cancel(self) -> None:
        """The caller has left, or died."""
        self.left = True
        if self.task is not None:
            self.task.cancel()


def new_request(link: Link, target: Target, queue: int, number: int, deadline_ns: int, arguments: Any) -> Request:
    """One that has just come."""
    request = Request.__new__(Request)
    request.link = link
    request.epoch = link.epoch
    request.target = target
    request.queue = queue
    request.number = number
    request.deadline_ns = deadline_ns
    request.arguments = arguments
    if not cython.compiled:
        request.task = None
        request.running = False
        request.left = False
    return request
