# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""A call of ours, from its first step to its result.

`await call` sends it and waits. A call is what its task waits for, as asyncio understands futures, and the record of it in the
link; there is no future beside it. What the reply holds is decoded when its caller runs again, so that the caller's queue
pays for it and not the pump.

    NEW       made, not awaited yet
    WAITING   for credit
    SENT      in flight
    DONE      answered, or failed, or its caller has left: cancelled, or its deadline has passed

    NEW -> WAITING | SENT | DONE      WAITING -> SENT | DONE      SENT -> DONE

A call that its caller left while it was in flight is DONE and still known to the link: only the answer gives its credit back.

It begins in the loop's own thread, and nowhere else: in another nothing would wake the loop for it, and its answer would find
the wrong task. That is looked at before anything is sent.

Rejected: an `asyncio.Future` for each call (it and its callback cost as much as the frame), and being the coroutine as well:
`asyncio.gather` takes whatever can be waited for as a future for a future that has been started.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Generator
from typing import Any

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

from clockworker._errors import CallTimeout, ShardDied, ShardDown, UsageError
from clockworker.executor._core_cy import Core
from clockworker.executor._cpython_cy import holds
from clockworker.ipc.calls._chain_cy import CHAIN, Chain
from clockworker.ipc.calls._failure import decode_failure
from clockworker.ipc.calls._frames import FLAGS, KEYED, Kind

if cython.compiled:
    from cython.cimports.clockworker.executor._native import proceed_by
    from cython.cimports.clockworker.ipc.calls._native import context_get, get_ident
    from cython.cimports.clockworker.ipc.rings._monotonic import now_ns
else:
    from threading import get_ident
    from time import monotonic_ns as now_ns

NEW = 0
WAITING = 1
SENT = 2
DONE = 3
_REPLY = int(Kind.REPLY)
_LEAVING = int(Kind.LEAVING)
_ONE_WAY = int(Kind.ONE_WAY)
_FLAGS = FLAGS
_KEYED = KEYED
_CHAIN = CHAIN
_get_running_loop = asyncio._get_running_loop


def outside_loop(what: str) -> UsageError:
    """The error of who calls from another thread or on another loop."""
    return UsageError(
        f"{what} was called outside its shard's own event loop, and nothing was sent; from another thread or loop, use "
        "`service.call_threadsafe(shard, Service.method, ...)` and wait for its result there"
    )


class Method:
    """What a call needs to know of the method that it calls; `RemoteMethod` is the rest."""

    name: str  # for messages
    identifier: int
    queue_identifier: int  # of its own queue; 0: the caller's
    streams: bool
    parameters: tuple[str, ...]  # their names, in the order in which they are sent
    raises: dict[str, type[Exception]]
    decode_arguments: Any
    decode_result: Any


class Channel:
    """The way to one other shard, as a call sees it."""

    core: Core
    loop: asyncio.AbstractEventLoop

    def check_thread(self, what: str) -> None:
        """Raise UsageError in another thread, or on another loop, than the one that the channel belongs to."""
        core = self.core
        # While a step of the core runs, the running loop is ours. Zero: the executor has not been entered.
        if (core._thread and core._thread != get_ident()) or (
            core.current is None and _get_running_loop() not in (None, self.loop)
        ):
            raise outside_loop(what)

    def submit(self, call: Call) -> None:
        """Send it, or let it wait for credit. Raises what keeps it from being sent."""
        raise NotImplementedError

    def leave(self, call: Call) -> None:
        """The caller of a call that is WAITING or SENT has left."""
        raise NotImplementedError

    def where(self) -> str:
        """For messages: "shard 3"."""
        raise NotImplementedError


@cython.freelist(64)
@cython.final
@cython.cclass
class Call:
    """One call. Awaited once, it gives the result or raises the method's exception, CallTimeout, ShardDied and so on."""

    channel: Channel
    method: Method
    arguments: Any  # until it is encoded
    body: bytes  # until it is sent
    key: bytes  # of a keyed request: what its body begins with
    kind: int
    timeout_ns: int  # from the first step; 0: none
    deadline_ns: int  # 0: none
    depth: int  # how many calls it is made within (`_chain_cy`)
    nowait: bool  # ChannelFull rather than WAITING
    state: int
    number: int  # the link's, from when it is sent
    lane: Any  # the link's: whose credit it uses
    reply_kind: int
    reply: bytes
    error: BaseException | None  # instead of a reply
    receiver: Any  # of a stream: takes its items, and is told when the call is DONE
    cancelled_with: Any
    awaited: bool
    opening: bool  # a stream that the peer has not begun with: it uses credit
    _asyncio_future_blocking: bool
    _callback: Any
    _context: contextvars.Context

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("a Call is not made: the methods of a proxy give one")

    def __await__(self) -> Generator[Any, None, Any]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> Call:
        return self

    def __next__(self) -> Any:  # compiled: as `proceed_by` has it
        value = proceed(self)
        if value is self:
            return self
        raise StopIteration(value)

    def set_key(self, key: bytes) -> None:
        """It is a call of a key (`_owners`), and NEW."""
        self.key = key
        self.kind |= _KEYED

    def start(self) -> None:
        """Send it, or queue it for credit. Raises what keeps it from being sent."""
        self.state = DONE  # until it is on its way
        self.channel.check_thread(self.method.name)
        if self.timeout_ns:
            self.deadline_ns = now_ns() + self.timeout_ns
        within: Chain | None = context_get(_CHAIN) if cython.compiled else _CHAIN.get()
        if within is not None:
            self.depth = within.depth
            if within.deadline_ns and (self.deadline_ns == 0 or within.deadline_ns < self.deadline_ns):
                self.deadline_ns = within.deadline_ns
        if self.deadline_ns and self.deadline_ns <= now_ns():
            raise CallTimeout(f"{self.method.name} was not called: its deadline has passed")
        self.channel.submit(self)

    def conclude(self) -> Any:
        """The result of a call that is DONE, or the exception."""
        if self.error is not None:
            raise self.error
        method = self.method
        if self.reply_kind != _REPLY:
            if self.kind & ~_FLAGS == _ONE_WAY:
                return None
            if self.reply_kind == _LEAVING:
                if self.reply:
                    raise ShardDied(
                        f"{self.channel.where()} is leaving, with {method.name} in flight; it may have run or not"
                    )
                raise ShardDown(f"{self.channel.where()} is leaving; {method.name} was not run")
            if not self.reply:
                raise CallTimeout(f"{method.name} was not run on {self.channel.where()}: its deadline had passed")
            where = f"{method.name} on {self.channel.where()}"
            failure = decode_failure(self.reply, method.raises, where)
            if self.deadline_ns and self.deadline_ns <= now_ns():
                # Perhaps because a call that it has made inherited the deadline, and heard of its end before we did.
                raise CallTimeout(f"{where} did not answer in time") from failure
            raise failure
        if method.streams:
            return None
        try:
            return method.decode_result(self.reply)
        except Exception as error:
            # msgspec also raises UnicodeDecodeError and RecursionError; whatever it is, it is the caller's answer.
            raise TypeError(
                f"the result of {method.name} from {self.channel.where()} is not what it declares: {error}"
            ) from error

    def finish(self, kind: int, reply: bytes) -> None:
        """The answer has come."""
        self.reply_kind = kind
        self.reply = reply
        self.end()

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        self.error = error
        self.end()

    def expire(self) -> None:
        """The deadline has passed."""
        if self.state == DONE:  # a ring was found broken, while another was told of its deadline
            return
        sent = self.state == SENT
        self.deadline_ns = 0  # nobody waits for it to pass any more
        self.channel.leave(self)
        what = "did not answer in time" if sent else "was not called: there was no credit in time, and nothing was sent"
        self.fail(CallTimeout(f"{self.method.name} on {self.channel.where()} {what}"))

    def end(self) -> None:
        self.state = DONE
        if self.receiver is not None:
            self.receiver.wake()
        elif self._callback is not None:
            self._wake()

    def _wake(self) -> None:
        callback = self._callback
        self._callback = None
        self.channel.core.wake_waiter(callback, self, self.cancelled_with is not None, self._context)

    # What asyncio asks of a future that a task waits for.

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:  # and no `get_loop`: a method is looked for first, and takes longer
        return self.channel.loop

    def add_done_callback(self, callback: Any, *, context: contextvars.Context) -> None:
        self._callback = callback
        self._context = context
        if self.state == DONE:
            self._wake()

    def cancel(self, msg: object = None) -> bool:
        """Wake the caller with CancelledError, and cancel the callee."""
        if self.state == DONE:
            return False
        self.channel.leave(self)
        self.cancelled_with = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self.fail(self.cancelled_with)
        return True

    def done(self) -> bool:
        return self.state == DONE

    def cancelled(self) -> bool:
        return self.cancelled_with is not None

    def result(self) -> None:
        """For the wake-up of a task that does not go through the core."""
        if self.cancelled_with is not None:
            raise self.cancelled_with


@cython.final
@cython.cclass
class Caller:
    """Makes the calls of one method over one channel."""

    channel: Channel
    kind: int
    method: Method
    timeout_ns: int

    def __init__(self, channel: Channel, kind: int, method: Method, timeout_ns: int) -> None:
        if channel is None or method is None:
            raise TypeError("a caller calls a method over a channel")
        self.channel = channel
        self.kind = kind
        self.method = method
        self.timeout_ns = timeout_ns

    def new(self, arguments: tuple[Any, ...]) -> Call:
        """A call that is NEW."""
        return new_call(self.channel, self.kind, self.method, arguments, self.timeout_ns, False)


def proceed(awaited: Any) -> Any:
    """A call is awaited: itself if it must be waited for, else its result. Raises what it ends in."""
    call: Call = awaited
    if call.state == NEW:
        call.start()
    if call.state == DONE:
        return call.conclude()
    if call.awaited:
        raise RuntimeError("await wasn't used with future")
    call.awaited = True
    call._asyncio_future_blocking = True
    return call


if cython.compiled and holds("send"):
    proceed_by(Call, proceed)


def unsendable(method: Method, arguments: tuple[Any, ...], encode: Any, error: Exception) -> TypeError:
    """Says which of the arguments it is that cannot be encoded."""
    for name, argument in zip(getattr(method, "parameters", None) or (), arguments, strict=False):
        try:
            encode(argument)
        except Exception as found:
            return TypeError(f"{method.name}(): the argument {name} cannot be sent: {found}")
    return TypeError(f"{method.name}(): the arguments cannot be sent: {error}")


def new_call(
    channel: Channel, kind: int, method: Method, arguments: tuple[Any, ...], timeout_ns: int, nowait: bool
) -> Call:
    """A call that is NEW."""
    call = Call.__new__(Call)
    call.channel = channel
    call.kind = kind
    call.method = method
    call.arguments = arguments
    call.timeout_ns = timeout_ns
    call.nowait = nowait
    if not cython.compiled:
        call.body = b""
        call.key = b""
        call.deadline_ns = 0
        call.depth = 0
        call.state = NEW
        call.number = 0
        call.lane = None
        call.reply_kind = 0
        call.reply = b""
        call.error = None
        call.receiver = None
        call.cancelled_with = None
        call.awaited = False
        call.opening = False
        call._asyncio_future_blocking = False
        call._callback = None
    return call
