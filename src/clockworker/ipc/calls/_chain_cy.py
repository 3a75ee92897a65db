# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What a call is part of, and the envelope in which that travels.

Whatever runs in a context may be part of a *chain* of calls, each made by a method that was called by the one before, and that
waits for the next. A call inherits its chain's deadline, and is one deeper (`_credit_cy`: who holds credit waits for credit of
a greater depth only). Both are in one object in one context variable, since each call asks for it, and to ask a context for a
variable takes some 200 instructions, 1 % of a call. A context goes wherever its task starts something: into tasks, other
queues, and threads (`asyncio.to_thread`, `run_blocking`) and back (`call_threadsafe`).

Most calls have neither deadline nor group and are part of no other, and their frames have no envelope. The kind of those that
have one has the flag `ENVELOPE`.

    bytes 0-7     deadline, nanoseconds of CLOCK_MONOTONIC, which is the same for all processes of a machine; 0: none
    byte 8        depth: how many calls it is made within, of which each waits for the next
    bytes 9-10    length of the group's key
    then          the group's key, msgpack; then the arguments
"""

from __future__ import annotations

import contextvars
import struct
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

try:
    import cython
except ModuleNotFoundError:
    from clockworker import _cython_shim as cython

DEEPEST = 63

_ENVELOPE = struct.Struct("<QBH")
_SIZE = 11  # of an envelope without a key
_LONGEST_GROUP = 0xFFFF
_SMALL = 4_096  # to copy so many bytes takes less than a view of them
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@cython.freelist(64)
@cython.final
@cython.cclass
class Chain:
    """What runs in a context is part of it: a request that is served, a function in a thread, a block with a deadline."""

    depth: int  # of the calls that are made here
    deadline_ns: int  # of those calls, at the latest; 0: none
    asked_by: Any  # the link over which the request has come; None: it is no request
    within: Chain | None  # the request's, if this is a block within it
    ended: bool  # nobody waits for it any more

    def __init__(
        self, depth: int = 0, deadline_ns: int = 0, asked_by: object = None, within: Chain | None = None
    ) -> None:
        self.depth = depth
        self.deadline_ns = deadline_ns
        self.asked_by = asked_by
        self.within = within
        self.ended = False


def new_chain(depth: int, deadline_ns: int, asked_by: object) -> Chain:
    """That of a request."""
    chain = Chain.__new__(Chain)
    chain.depth = depth
    chain.deadline_ns = deadline_ns
    chain.asked_by = asked_by
    if not cython.compiled:
        chain.within = None
        chain.ended = False
    return chain


# That of whatever runs in this context.
CHAIN: contextvars.ContextVar[Chain | None] = contextvars.ContextVar("clockworker.chain", default=None)


def inherited_deadline_ns() -> int:
    """That of whatever runs in this context, in nanoseconds of CLOCK_MONOTONIC; 0: none."""
    chain = CHAIN.get()
    return 0 if chain is None else chain.deadline_ns


@contextmanager
def until(deadline_ns: int) -> Iterator[None]:
    """What runs inside inherits this deadline, if it has no earlier one."""
    outer = CHAIN.get()
    if outer is None:
        inner = Chain(0, deadline_ns)
    else:
        earliest_ns = min(deadline_ns, outer.deadline_ns) if outer.deadline_ns else deadline_ns
        inner = Chain(outer.depth, earliest_ns, None, outer if outer.within is None else outer.within)
    token = CHAIN.set(inner)
    try:
        yield
    finally:
        CHAIN.reset(token)


@contextmanager
def deeper() -> Iterator[int]:
    """What runs inside holds something that calls may have to wait for. Yields the depth of what it holds."""
    outer = CHAIN.get()
    depth = 0 if outer is None else outer.depth
    inner = Chain(min(depth + 1, DEEPEST), 0 if outer is None else outer.deadline_ns)
    token = CHAIN.set(inner)
    try:
        yield depth
    finally:
        inner.ended = True
        CHAIN.reset(token)


def pack_envelope(deadline_ns: int, group: Hashable, depth: int, sender: int, arguments: bytes) -> bytes:
    """The body of a request with a deadline, or a group, or within others; each may be missing (0, None, 0).

    A group whose key is text, bytes, a number or a tuple of these travels as itself. Any other key means something in the
    sender's process only; for it stands (sender, hash): still a group of its own.
    """
    key = b""
    if group is not None:
        key = _encode(group if _travels(group) else (sender, hash(group)))
        if len(key) > _LONGEST_GROUP:
            key = _encode((sender, hash(group)))
    if cython.compiled:
        return put_together(deadline_ns, depth, key, arguments)  # type: ignore[name-defined,no-any-return]  # noqa: F821
    return _ENVELOPE.pack(deadline_ns, depth, len(key)) + key + arguments


def unpack_envelope(body: bytes) -> tuple[int, Hashable, int, bytes | memoryview]:
    """Deadline, group, depth and arguments. Raises ValueError, or whatever msgspec does, for what is no envelope."""
    if len(body) < _SIZE:
        raise ValueError("the envelope is cut short")
    if cython.compiled:
        deadline_ns: int = deadline_of(body)  # type: ignore[name-defined]  # noqa: F821
        depth: int = depth_of(body)  # type: ignore[name-defined]  # noqa: F821
        length: int = length_of(body)  # type: ignore[name-defined]  # noqa: F821
    else:
        deadline_ns, depth, length = _ENVELOPE.unpack_from(body)
    if not 0 <= deadline_ns < 1 << 63:
        raise ValueError("its deadline is none")
    start = _SIZE + length
    group = _hashable(_decode(body[_SIZE:start])) if length else None
    return deadline_ns, group, depth, body[start:] if len(body) - start <= _SMALL else memoryview(body)[start:]


def _travels(group: Hashable) -> bool:
    if type(group) is tuple:
        return all(map(_travels, group))
    return isinstance(group, str | bytes | float | None) or (isinstance(group, int) and -(2**63) <= group < 2**64)


def _hashable(group: Any) -> Hashable:
    return tuple(map(_hashable, group)) if isinstance(group, list) else group
