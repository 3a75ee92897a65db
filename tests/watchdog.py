"""What a test run has started dies with it, also when pytest is killed and cleans nothing up.

This runs as a process beside pytest (`watch` starts it) and waits for its end. A variable of the environment names the run.
What tests start inherits the variable and hands it on; every process that has it when pytest is gone is killed. Rejected:
PR_SET_PDEATHSIG at each start. It means the thread that starts, needs a fork where otherwise vfork does, and each new kind of
process would have to think of it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

VARIABLE = "TESTS_OF_CLOCKWORKER"


def watch() -> subprocess.Popen[bytes]:
    """Have this process, and what it starts from now on, watched. To end it, `kill`."""
    run = str(os.getpid())
    os.environ[VARIABLE] = run
    os.environ["SPT_NOENV"] = "1"  # setproctitle would write the titles of shards over their environment
    # A session of its own: Ctrl-C is for the tests.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, run], start_new_session=True, stdin=subprocess.DEVNULL
    )


def _kill_all(mark: bytes) -> bool:
    """Whether there was anything to kill."""
    found = False
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as environment:
                if mark in environment.read().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
                    found = True
        except OSError:  # it has ended, or belongs to somebody else
            continue
    return found


def main() -> None:
    run = int(sys.argv[1])
    try:
        watched = os.pidfd_open(run)
    except ProcessLookupError:
        pass
    else:
        select.select([watched], [], [])
    # A process that starts another at this moment is gone at the next look, and its child is seen then.
    while _kill_all(f"{VARIABLE}={run}".encode()):
        select.select([], [], [], 0.01)


if __name__ == "__main__":
    main()
