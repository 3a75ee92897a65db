"""A process of a shard's pool: `python -m clockworker.shards.worker._pool_child DESCRIPTOR PARENT`, started by
`_process_pool` and by nobody else. It runs one function after the other, each in its main thread.

It ends with its shard, however that ends: the kernel kills it (PR_SET_PDEATHSIG), and the socket has an end of file. SIGTERM
raises SystemExit in the function, whose `finally` blocks run, and ends the process. What a terminal sends to the process group
is the supervisor's to answer; from before the process begins until it has handlers these signals are held back.

Beside shards on the same CPUs it must not take time from them: it is nice by `NICE`, which beside a busy shard leaves it about
a tenth of the CPU, and a batch process (SCHED_BATCH), which when it wakes up never takes the CPU from one that runs. Rejected:
SCHED_IDLE, beside which a busy shard leaves a function nearly nothing, for ever.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import traceback
from types import FrameType
from typing import BinaryIO

from clockworker._errors import ConfigurationError
from clockworker.shards.logs._logging import reopen, set_up_logging
from clockworker.shards.machine._heritage import STRAY, Handler, do_nothing
from clockworker.shards.machine._host import set_process_title
from clockworker.shards.protocol._birth import TERMINAL_SIGNALS, be_child
from clockworker.shards.worker._pool_frames import (
    CALL,
    FAILED,
    HEAD,
    MAIN,
    PROTOCOL,
    RAISED,
    READY,
    REOPEN,
    SETUP,
    TOLD,
    VALUE,
    Failure,
    Setup,
    Where,
    frame,
    packed,
)

NICE = 10
EXIT_TERMINATED = 128 + signal.SIGTERM

_ending = False


def main() -> None:
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    del sys.argv[1:]
    ignored: dict[int, Handler] = dict.fromkeys(STRAY | TERMINAL_SIGNALS, do_nothing)
    be_child(parent, ignored | {signal.SIGTERM: _terminate})
    os.set_inheritable(descriptor, False)
    with (
        contextlib.suppress(ConnectionError),
        socket.socket(fileno=descriptor) as sock,
        sock.makefile("rb") as incoming,
    ):
        _serve(sock, incoming)


def _terminate(number: int, interrupted: FrameType | None) -> None:
    global _ending
    if not _ending:
        _ending = True
        sys.exit(EXIT_TERMINATED)


def _serve(sock: socket.socket, incoming: BinaryIO) -> None:
    while not _ending and (head := incoming.read(HEAD.size)):
        kind, length = HEAD.unpack(head)
        body = incoming.read(length)
        match kind:
            case _ if kind == SETUP:
                _set_up(pickle.loads(body))
                sock.sendall(frame(READY))
            case _ if kind == MAIN:
                from multiprocessing import spawn

                spawn.prepare(pickle.loads(body))
            case _ if kind == CALL:
                try:
                    answer = _run(body)
                except BaseException:  # told to end, which beside a busy shard may take longer than is waited for
                    sock.sendall(frame(TOLD))
                    raise
                _flush()
                sock.sendall(answer)
                del answer
            case _ if kind == REOPEN:
                reopen()
        del body


def _set_up(setup: Setup) -> None:
    with contextlib.suppress(OSError):  # the cpuset was changed under us
        if setup.cpus:
            os.sched_setaffinity(0, setup.cpus)
    with contextlib.suppress(OSError):  # a sandbox
        os.nice(NICE)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    sys.path[:] = setup.path
    if setup.config is not None:
        set_process_title(setup.role, setup.config.app)
        with contextlib.suppress(ConfigurationError):  # the shard has said so
            set_up_logging(setup.role, setup.config)


def _run(body: bytes) -> bytes:
    """The answer. SystemExit ends the process if it was told to end, and is the function's own else."""
    where: Where = "call"
    try:
        function, args, kwargs = pickle.loads(body)
        del body
        where = "exception"
        value = function(*args, **kwargs)
        where = "value"
        return packed(VALUE, value)
    except BaseException as error:
        if _ending:
            raise
        return _raised(error) if where == "exception" else _failed(error, where)


def _raised(error: BaseException) -> bytes:
    try:
        body = pickle.dumps((error, _trace(error)), PROTOCOL)
        pickle.loads(body)  # many an exception can be taken apart, and not put together
    except Exception:
        return _failed(error, "exception")
    return frame(RAISED, body)


def _failed(error: BaseException, where: Where) -> bytes:
    kind = type(error)
    try:
        said = str(error)
    except Exception as second:  # it is the application's own
        said = f"<its text raised {type(second).__name__}>"
    return packed(FAILED, Failure(where, said, f"{kind.__module__}.{kind.__qualname__}", _trace(error)))


def _trace(error: BaseException) -> str:
    trace = error.__traceback__
    ours = trace and trace.tb_next  # without `_run`
    try:
        return "".join(traceback.format_exception(type(error), error, ours))
    except Exception:
        return "".join(traceback.format_tb(ours))


def _flush() -> None:
    """What a function has printed is seen when it is done, not when the process ends."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a function may have put anything there
            stream.flush()


if __name__ == "__main__":
    main()
