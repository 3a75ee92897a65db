"""What a shard's process is born with: its command, the variables that it is told by, and the signals that are held back."""

from __future__ import annotations

import signal
import sys

CONTROL_VARIABLE = "CLOCKWORKER_CONTROL_FD"
SUPERVISOR_VARIABLE = "CLOCKWORKER_SUPERVISOR_PID"
SHARD_VARIABLE = "CLOCKWORKER_SHARD_ID"
SPARE_VARIABLE = (
    "CLOCKWORKER_SPARE_SHARD_OF"  # in its place: the application. Of a length that the other's entry fits into
)

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


def command() -> list[str]:
    # -P: the working directory is not put on sys.path by the interpreter; the shard adds --app-dir itself.
    return [sys.executable, "-P", "-m", "clockworker.shards.worker._child"]
