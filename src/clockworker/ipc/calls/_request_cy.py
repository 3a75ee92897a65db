# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A call of a peer, run here in the queue where it belongs, from decoding the arguments to encoding the result.

It is a task there, or a single step if the method cannot suspend (`_remote.can_suspend`): then the request itself is what its
queue holds, and is called. Making a task, and waking the loop for its end, was half of what such a request cost.

Where it is a task the request is what that runs: a coroutine, whose first step decodes the arguments, and whose others are
those of the method's own coroutine. It is answered exactly once: when it has run, or before that because its caller has left. A
one-way request is answered with credit. Anybody may cancel a task, also before its first step, and a coroutine function that
has not begun would not hear of it: a request is thrown the cancellation, and answers.

Whatever its method calls is part of a chain (`_chain_cy`), which ends when the request is answered.

Rejected: an `async def` around the method's coroutine (one more to make and to go through at each step, and one that has to be
begun with before its task is made); running every method's first step without a task, and making one of those that suspend. The
first step and the others would have different current tasks, and `asyncio.timeout` or a task group depends on there being one.
"""

from __future__ import annotations

import asyncio
import collections.abc
import logging
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import UsageError
from clockworker.executor._core_cy import Core
from clockworker.executor._cpython_cy import holds
from clockworker.executor._tasks_cy import Membership
from clockworker.ipc.calls._call_cy import Method
from clockworker.ipc.calls._chain_cy import CHAIN, DEEPEST, Chain, new_chain
from clockworker.ipc.calls._failure import encode_failure
from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.calls._shared_cy import Shared

if cython.compiled:
    from cython.cimports.clockworker.executor._native import PyContextVar_Set
    from cython.cimports.clockworker.ipc.calls._coroutine import run_to_end, send_to, step_by
    from cython.cimports.clockworker.ipc.rings._monotonic import now_ns
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
_LEAVING = int(Kind.LEAVING)
_CHAIN = CHAIN  # C globals when compiled
_DEEPEST = DEEPEST
_CoroutineType = CoroutineType


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    """Of what a decorated method may return in place of a coroutine."""
    return await awaitable


@cython.final
@cython.cclass
class Target:
    """What a request runs: a method of an instance here, or a function."""

    method: Method
    function: Callable[..., Any]  # takes all arguments by position
    membership: Membership | None  # of the method's own queue
    carrier: asyncio.Task[Any] | None  # the current task of all calls of a method that cannot suspend; None if it can
    running: int  # how many requests have come and are not answered

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
        self.running = 0

    def lead_to(self, function: Callable[..., Any], carrier: asyncio.Task[Any] | None) -> None:
        """From now on requests run this instead."""
        self.function = function
        self.carrier = carrier


@cython.freelist(64)
@cython.final
@cython.cclass
class Request:
    """One call of a peer."""

    link: Link
    epoch: int  # the link's, when it came
    target: Target
    queue: int  # whose credit it has: the key of the peer's lane
    number: int  # the peer's; 0: one way
    deadline_ns: int
    depth: int  # of the calls that it makes
    of_key: bytes | None  # what its body began with, if it is of a key
    chain: Chain | None  # of what runs in its task
    arguments: Any  # encoded; None once it is run
    task: asyncio.Task[None] | None  # None if it has none, until that is made, and when it is answered
    coroutine: (
        Coroutine[Any, Any, Any] | None
    )  # what its task runs: of the method, once it has begun; of a stream's server
    ended: bool  # it is answered
    begun: bool  # its task has taken its first step, or was cancelled before that

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a Request is not made: a peer sends one")

    def start(self, core: Core, membership: Membership) -> None:
        """Let its turn come. If that is not possible, it is answered."""
        try:
            if self.target.carrier is not None:
                core.spawn_step(membership, self.target.carrier, self)
            else:
                self.task = core.spawn(membership, self, self.target.method.name).task
                if self.ended:  # by an eager task factory
                    self.task = None
        except Exception as error:  # the executor is ending; or a task factory of the application's has failed
            self.fail(error)
            self.close()

    # A coroutine, for a task.

    def __await__(self) -> Request:
        return self

    def __iter__(self) -> Request:
        return self

    def __next__(self) -> Any:  # compiled: as `step_by` has it
        return self.send(None)

    def send(self, value: object) -> Any:
        yielded = step(self, value)
        if yielded is self:
            raise StopIteration
        return yielded

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Most often a cancellation."""
        self.begun = True
        coroutine = self.coroutine
        try:
            if coroutine is None:
                raise kind if value is None else value
            if value is None:
                return coroutine.throw(kind)
            return coroutine.throw(kind, value, traceback)
        except StopIteration as ended:
            self.coroutine = None
            self.returned(ended.value)
        except Exception as error:
            self.coroutine = None
            self.fail(error)
        except BaseException as error:
            self.coroutine = None
            self.fail(error)
            raise
        raise StopIteration

    def close(self) -> None:
        """Its task will not be run to its end."""
        self.begun = True
        coroutine, self.coroutine = self.coroutine, None
        try:
            if coroutine is not None:
                coroutine.close()
        finally:
            self.fail(GeneratorExit())

    # What is asked of a coroutine by who shows where a task stands.

    @property
    def cr_code(self) -> Any:
        return getattr(self.coroutine, "cr_code", None)

    @property
    def cr_frame(self) -> Any:
        return getattr(self.coroutine, "cr_frame", None)

    @property
    def cr_running(self) -> bool:
        return getattr(self.coroutine, "cr_running", False)

    @property
    def cr_await(self) -> Any:
        return getattr(self.coroutine, "cr_await", None)

    def begin(self) -> bool:
        """The first step of its task. False: it is over, since its caller has left, or its time is over."""
        self.begun = True
        if self.ended or (self.deadline_ns and self.deadline_ns <= now_ns()):
            self.answer(_ERROR, b"")
            self.close()
            return False
        if self.of_key is not None and not self.is_owned():
            self.close()
            return False
        # From here on, what runs in this context is part of it.
        chain = self.chain = new_chain(self.depth, self.deadline_ns, self.link)
        if cython.compiled:
            PyContextVar_Set(_CHAIN, chain)
        else:
            _CHAIN.set(chain)
        if self.coroutine is None:
            coroutine = self.call()
            self.coroutine = coroutine if type(coroutine) is _CoroutineType else _result_of(coroutine)
        return True

    def is_owned(self) -> bool:
        """Whether its key is ours, now that it begins. If not, it is answered."""
        assert self.of_key is not None
        error = self.link.shared.refusal_of(self.of_key)
        if error is not None:
            self.fail(error)
        return error is None

    def returned(self, value: object) -> None:
        """Its method has. What it raises one way is logged, since nobody waits for it."""
        try:
            self.reply(value)  # nothing, if it is answered: that of a stream, one that its caller has left
        except Exception as error:
            self.fail(error)

    def __call__(self) -> None:
        """Run a method that cannot suspend, and answer. Such a method waits for nothing that it begins, so that is part of
        nothing, and only inherits the deadline."""
        if self.ended:
            return
        try:
            if self.deadline_ns:
                if self.deadline_ns <= now_ns():
                    self.answer(_ERROR, b"")
                    return
                _CHAIN.set(new_chain(0, self.deadline_ns, None))
            if self.of_key is not None and not self.is_owned():
                return
            self.reply(run_to_end(self.call()))
        except Exception as error:
            self.fail(error)
        except BaseException as error:
            self.fail(error)
            raise

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
        self.task = None
        self.target.running -= 1
        if self.chain is not None:
            self.chain.ended = True
            self.chain = None
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


def step(awaited: Any, value: object) -> Any:
    """The next step of a request's task: what it waits for, or the request itself: it is over."""
    request: Request = awaited
    over = False
    if request.begun and request.coroutine is None:
        raise RuntimeError("cannot reuse already awaited coroutine")  # as any other says
    try:
        if not request.begun and not request.begin():
            return request
        if cython.compiled:
            value = send_to(request.coroutine, value, cython.address(over))
        else:
            try:
                value = request.coroutine.send(value)  # type: ignore[union-attr]
            except StopIteration as ended:
                value, over = ended.value, True
    except Exception as error:
        request.coroutine = None
        request.fail(error)
        return request
    except BaseException as error:
        # Cancelled by its caller, who has been answered, by the application, or because we are going down; or it is one that
        # ends more than this task, which is no reason to leave the caller waiting.
        request.coroutine = None
        request.fail(error)
        raise
    if not over:
        return value
    request.coroutine = None
    request.returned(value)
    return request


collections.abc.Coroutine.register(Request)
if cython.compiled and holds("send"):
    step_by(Request, step)


def new_request(
    link: Link, target: Target, queue: int, number: int, deadline_ns: int, depth: int, arguments: Any
) -> Request:
    """One that has just come. depth: of the call that its caller has made."""
    request = Request.__new__(Request)
    request.depth = depth + 1 if depth < _DEEPEST else _DEEPEST
    request.link = link
    request.epoch = link.connection.epoch
    request.target = target
    target.running += 1
    request.queue = queue
    request.number = number
    request.deadline_ns = deadline_ns
    request.arguments = arguments
    if not cython.compiled:
        request.chain = None
        request.ended = False
        request.task = None
        request.coroutine = None
        request.begun = False
        request.of_key = None
    return request
