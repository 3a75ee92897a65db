"""What a process of ours is born with: its command, the variables that it is told by, and the signals that are held back; and
what it does first."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping

from clockworker.shards.machine._heritage import Handler, settle_signals
from clockworker.shards.machine._host import die_with_parent

CONTROL_VARIABLE = "CLOCKWORKER_CONTROL_FD"
SUPERVISOR_VARIABLE = "CLOCKWORKER_SUPERVISOR_PID"
SHARD_VARIABLE = "CLOCKWORKER_SHARD_ID"
# In its place, of a spare, and of the process that forks spares: the application. Each is of a length that the entry fits into
# by which it is overwritten when a fork server's child becomes a spare, and a spare a shard.
SPARE_VARIABLE = "CLOCKWORKER_SPARE_SHARD_OF"
FORK_SERVER_VARIABLE = "CLOCKWORKER_FORK_SERVER_OF"

# A terminal sends these to the whole process group. A shard obeys its supervisor, not the terminal; until it has said
# so to the kernel itself they are held back.
TERMINAL_SIGNALS = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)


EXIT_ORPHANED = 1


def command(module: str = "clockworker.shards.worker._child", *arguments: str) -> list[str]:
    # -P: the working directory is not put on sys.path by the interpreter; the shard adds --app-dir itself.
    return [sys.executable, "-P", "-m", module, *arguments]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """The signals of a terminal, for a process that is started meanwhile: `be_child` lets them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def be_child(parent: int, handlers: Mapping[int, Handler]) -> None:
    """Die with it, and have these handlers, before any signal is let through. Ends a process whose parent is gone already."""
    if not die_with_parent(parent):
        sys.exit(EXIT_ORPHANED)
    settle_signals(dict(handlers))
