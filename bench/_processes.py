"""Processes to measure: forked, pinned to a core each, and gone at the end."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds after which one measurement is taken to hang.
DEADLINE_S = 60.0
STOP_S = 15.0  # that a server has to end in good order

_context = multiprocessing.get_context("fork")


def cores() -> list[int]:
    """Those that processes are dealt out to."""
    return sorted(os.sched_getaffinity(0))


def together(works: Sequence[Callable[[], T]], deadline_s: float = DEADLINE_S) -> list[T]:
    """Run each in a process of its own, on a core of its own while there are enough; what they returned.

    What a work refers to is inherited, descriptors included. SystemExit if one fails or hangs; the others are killed.
    """
    gc.collect()
    available = cores()
    processes = []
    receivers = []
    for number, work in enumerate(works):
        receiver, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=_child, args=(work, sender, available[number % len(available)]), daemon=True)
        process.start()
        sender.close()
        processes.append(process)
        receivers.append(receiver)
    try:
        results = _collect(receivers, deadline_s)
        for process in processes:  # they are done, and end by themselves
            process.join(1)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def _child(work: Callable[[], Any], sender: Connection, core: int) -> None:
    os.sched_setaffinity(0, {core})
    try:
        outcome = (work(), "")
    except BaseException:
        outcome = (None, traceback.format_exc())
    sender.send(outcome)


def _collect(receivers: list[Connection], deadline_s: float) -> list[Any]:
    results: dict[Connection, Any] = {}
    until = time.monotonic() + deadline_s
    while len(results) < len(receivers):
        ready = wait([each for each in receivers if each not in results], until - time.monotonic())
        if not ready:
            raise SystemExit(f"a measurement has not ended within {deadline_s:g} s")
        for receiver in ready:
            assert isinstance(receiver, Connection)
            try:
                results[receiver], failure = receiver.recv()
            except EOFError:
                raise SystemExit("a process that was measured has died") from None
            if failure:
                raise SystemExit(failure)
    return [results[receiver] for receiver in receivers]


def stop(process: subprocess.Popen[bytes]) -> None:
    """A server, which leads a session of its own: with all that is in it if it does not end."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
