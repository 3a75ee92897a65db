"""Time-outs as users give them: seconds, for one call or for all that are made inside a `with`."""

from __future__ import annotations

import contextvars
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clockworker._errors import ConfigurationError
from clockworker.executor._edf_cy import read_contexts_by
from clockworker.ipc.calls._chain_cy import CHAIN, until


@contextmanager
def deadline(timeout: float) -> Iterator[None]:
    """Give the calls to shards that are made inside `timeout` seconds altogether; those that are not answered by then end in
    `CallTimeout`. Calls that the called methods make in turn inherit what is left. Of two deadlines the earlier holds.

    Nothing but such calls is cut short: for your own code there is `asyncio.timeout`. In a queue whose scheduler is `EDF` what
    runs inside is due at that time, and goes before what is due later.

    Raises `ConfigurationError` for a timeout that is no number of seconds from 0.
    """
    with until(time.monotonic_ns() + nanoseconds(timeout)):
        yield


def nanoseconds(timeout: float) -> int:
    """ConfigurationError if it is no time to wait. At least 1, since 0 stands for none."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < math.inf:
        raise ConfigurationError(f"timeout is {timeout!r}; it must be a number of seconds from 0, or None for no limit")
    return max(1, round(min(timeout, 1e9) * 1e9))


def deadline_in(context: contextvars.Context) -> int:
    """That of what runs in the context, in nanoseconds of CLOCK_MONOTONIC; 0: none."""
    chain = context.get(CHAIN)
    return 0 if chain is None else chain.deadline_ns


read_contexts_by(deadline_in)
