"""What a shard and a process of its pool say to each other, through a pair of sockets.

A frame is a byte that says what it is, the length of what follows as eight bytes, and that. Values are pickled: both ends are
of one installation, and of one trust.

    to the process     SETUP first; MAIN before the first call that needs it; CALL; REOPEN
    to the shard       READY first; of each CALL one of VALUE, RAISED, FAILED, TOLD
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, Literal, TypeAlias

import msgspec

from clockworker.shards.config._config import ServeConfig

HEAD = struct.Struct("=cQ")

SETUP = b"s"  # a Setup, pickled
MAIN = b"m"  # where the program's own module is found, pickled: `multiprocessing.spawn.prepare` takes it
CALL = b"c"  # function, args and kwargs, pickled
REOPEN = b"o"  # nothing: log files have been moved
READY = b"r"  # nothing: it is set up
TOLD = b"t"  # nothing: SIGTERM has ended the function, and ends the process
VALUE = b"v"  # what the function returned, pickled
RAISED = b"e"  # the exception and its traceback as a text, pickled
FAILED = b"f"  # a Failure, pickled

PROTOCOL = pickle.HIGHEST_PROTOCOL

# What went wrong: the function is not found there, its result does not travel, or its exception does not.
Where: TypeAlias = Literal["call", "value", "exception"]


class Setup(msgspec.Struct, frozen=True):
    """role: for logs, `shard 0 pool`. path: `sys.path`. cpus: where it runs; none: wherever it was started."""

    role: str
    path: list[str]
    cpus: tuple[int, ...] = ()
    config: ServeConfig | None = None


class Failure(msgspec.Struct, frozen=True):
    """A call that has not returned. where: calling it, sending its value, or sending what it raised. type_name,
    message, trace: of the exception."""

    where: Where
    message: str
    type_name: str
    trace: str


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return HEAD.pack(kind, len(body)) + body


def packed(kind: bytes, value: Any) -> bytes:
    return frame(kind, pickle.dumps(value, PROTOCOL))
