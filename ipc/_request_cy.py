# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A call of a peer, run here in the queue where it belongs, from decoding the arguments to encoding the result.

It is a task there, or a single step if the method cannot suspend (`_remote.can_suspend`): then the request itself is what its
queue holds, and is called. Making a task, and waking the loop for its end, was half of what such a request cost.

It is answered exactly once: when it has run, or before that because its caller has left. A one-way request is answered with
credit. Anybody may cancel a task, also before its first step, and then a coroutine that has not begun never does. So that of a
request has begun when its task is made: it stands at the first of its awaits, and whatever ends it, ends it there.

A request is the chain (`_credit_cy`) of whatever its method calls, for as long as it is not answered.

Rejected: running every method's first step that way, and making a task of those that suspend. The first step and the others
would have different current tasks, and `asyncio.timeout` or a task group depends on there being one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._core_cy import Core
from clockworker.executor._cpython_cy import holds
from clockworker.executor._tasks_cy import Membership
from clockworker.ipc._call_cy import DEADLINE, Method
from clockworker.ipc._credit_cy import CHAIN, DEEPEST, Chain
from clockworker.ipc._failure import encode_failure
from clockworker.ipc._frames import Kind
from clockworker.ipc._link_cy import Link
from clockworker.ipc._shared_cy import Shared

if cython.compiled:
    from cython.cimports.clockworker.executor._native import PyContextVar_Set, proceed_by
    from cython.cimports.clockworker.ipc._coroutine import run_to_end
    from cython.cimports.clockworker.ipc._monotonic import now_ns
    from cython.cimports.clockworker.ipc._native import begin
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

    def begin(coroutine: Coroutine[Any, Any, Any]) -> None:
        """Its first step, which must not be its last."""
        coroutine.send(None)


logger = logging.getLogger("clockworker.ipc")

_REPLY = int(Kind.REPLY)
_ERROR = int(Kind.ERROR)
_LEAVING = int(Kind.LEAVING)
_CHAIN = CHAIN  # C globals when compiled
_DEEPEST = DEEPEST


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


@cython.final
@cython.cclass
class Request(Chain):
    """One call of a peer."""

    link: Link
    epoch: int  # the link's, when it came
    target: Target
    queue: int  # whose credit it has: the key of the peer's lane
    number: int  # the peer's; 0: one way
    deadline_ns: int
    arguments: Any  # encoded; None once it is run
    task: asyncio.Task[None] | None  # None while the first step runs at birth, if it has none, and when it is done
    begun: bool

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a Request is not made: a peer sends one")

    def start(self, core: Core, membership: Membership, serve: Coroutine[Any, Any, None] | None) -> None:
        """Let its turn come: of `serve`, or if that is None of `self()`. If that is not possible, it is answered."""
        try:
            if serve is None:
                core.spawn_step(membership, self.target.carrier, self)  # type: ignore[arg-type]
            else:
                begin(serve)
                self.task = core.spawn(membership, serve, self.target.method.name).task
                if self.ended:  # by an eager task factory
                    self.task = None
        except Exception as error:  # the executor is ending; or a task factory of the application's has failed
            self.fail(error)
            if serve is not None:
                serve.close()

    # Awaited once, by who serves it: the first time that goes on, when its task takes its first step.

    def __await__(self) -> Generator[None, None, None]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> Request:
        return self

    def __next__(self) -> Any:  # compiled: as `proceed_by` has it
        value = proceed(self)
        if value is self:
            return self
        raise StopIteration(value)

    def __call__(self) -> None:
        """What `serve` does, for a method that cannot suspend. Such a method waits for nothing that it begins, so whatever it
        begins is part of nothing."""
        if self.ended:
            return
        try:
            if self.deadline_ns and not self.in_time():
                self.answer(_ERROR, b"")
            else:
                self.reply(run_to_end(self.call()))
        except Exception as error:
            self.fail(error)
        except BaseException as error:
            self.fail(error)
            raise

    async def serve(self) -> None:
        """Run it and answer. What it raises one way is logged, since nobody waits for it."""
        try:
            await self
            self.enter()
            if self.deadline_ns and not self.in_time():
                self.answer(_ERROR, b"")
            else:
                self.reply(await self.call())
        except Exception as error:
            self.fail(error)
        except BaseException as error:
            # Cancelled by its caller, who has been answered, by the application, or because we are going down; or it is one
            # that ends more than this task, which is no reason to leave the caller waiting.
            self.fail(error)
            raise

    def enter(self) -> None:
        """From here on, what runs in this context is part of it."""
        if cython.compiled:
            PyContextVar_Set(_CHAIN, self)
        else:
            _CHAIN.set(self)

    def fail(self, error: BaseException) -> None:
        """Answer with what has ended it."""
        if self.ended:
            return
        if not self.link.core.accepting and isinstance(error, asyncio.CancelledError | GeneratorExit | UsageError):
            # Not its method's fault, and no news to its caller that an executor has ended here.
            not_run = self.arguments is not None
            if not_run and not self.number:
                logger.error(
                    "%s, sent by shard %d, was not run: the shard is leaving", self.target.method.name, self.link.peer
                )
            self.answer(_LEAVING, b"" if not_run else b"\1")
            return
        if self.number:
            self.answer(_ERROR, encode_failure(error))
        else:
            if isinstance(error, Exception):
                self.log(error)
            self.answer(_ERROR, b"")

    def log(self, error: Exception) -> None:
        logger.error(
            "%s, sent by shard %d, failed", self.target.method.name, self.link.peer, exc_info=error, stacklevel=2
        )

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
        """Answer with the result of the method. One way, nobody asks for it."""
        self.answer(_REPLY, self.encode(result, "the result") if self.number else b"")

    def answer(self, kind: int, body: bytes) -> None:
        """Once; after that it does nothing."""
        if self.ended:
            return
        self.ended = True
        self.task = None  # whose context has this request
        if self.number:
            self.link.answer(self.epoch, self.number, kind, body)
        else:
            self.link.one_ways_done += 1
            self.link.owe(self.epoch, self.queue)

    def cancel(self) -> None:
        """The caller has left, or died."""
        task = self.task
        self.answer(_ERROR, b"")
        if task is not None:
            task.cancel()


def proceed(awaited: Any) -> Any:
    """A request is awaited: itself the first time, when its task has not been made."""
    request: Request = awaited
    if request.begun:
        return None
    request.begun = True
    return request


if cython.compiled and holds("send"):
    proceed_by(Request, proceed)


def new_request(
    link: Link, target: Target, queue: int, number: int, deadline_ns: int, depth: int, through: int, arguments: Any
) -> Request:
    """One that has just come. depth, through: of the call that its caller has made."""
    request = Request.__new__(Request)
    request.depth = depth + 1 if depth < _DEEPEST else _DEEPEST
    request.through = through | link.bit
    request.link = link
    request.epoch = link.epoch
    request.target = target
    request.queue = queue
    request.number = number
    request.deadline_ns = deadline_ns
    request.arguments = arguments
    if not cython.compiled:
        request.ended = False
        request.task = None
        request.begun = False
    return request
