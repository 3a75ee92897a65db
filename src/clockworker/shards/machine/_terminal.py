"""The terminal, for `breakpoint()`: a server with one shard, started on a terminal and not in its background, hands it on.

A shard is in the process group of its supervisor, and so it may read. What it is told there holds up its loop, as whoever asks
for it wants: while a debugger has the loop, `_watch` neither reports nor kills the shard. With more than one shard nobody
could tell whose prompt it is. A shard without a terminal passes each `breakpoint()` over, and says so: left to itself the
debugger would read an end of file, and end the request by an exception that does not say why.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import termios
import time
from types import FrameType

from clockworker.shards.logs._log_limit import Limiter, more

log = logging.getLogger("clockworker.shard")

_WHY = "this shard has no terminal to read from; start the server on one, with --shards 1"
_DEBUGGERS = ("bdb", "pdb", "code", "_pydevd_bundle", "pydevd")


class Terminal:
    """The supervisor's, if it has one. What a killed debugger has done to it is undone by `restore`."""

    def __init__(self) -> None:
        self.is_here = _may_read()
        if self.is_here:
            self._modes = termios.tcgetattr(0)

    def restore(self) -> None:
        if self.is_here:
            with contextlib.suppress(termios.error):  # it is gone, or others have it by now
                if termios.tcgetattr(0) != self._modes:
                    termios.tcsetattr(0, termios.TCSADRAIN, self._modes)


def set_up_debugging() -> None:
    """In a shard, before the application is imported. What PYTHONBREAKPOINT names is left to whoever has set it."""
    if os.environ.get("PYTHONBREAKPOINT", "") in ("", "pdb.set_trace"):
        sys.breakpointhook = _break
    if not os.isatty(0):
        sys.stdin = _NoTerminal()


def is_debugging(frame: FrameType | None) -> bool:
    """Whether a thread whose innermost frame this is has stopped in a debugger."""
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if isinstance(module, str) and module.partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False


_complaints = Limiter()


def _may_read() -> bool:
    """Whether standard input is a terminal, and we are not in its background, where reading would stop us."""
    try:
        return os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # it is not our session's, and so has no background
        return True


def _break(*, header: str | None = None) -> None:
    """`breakpoint()`."""
    frame = sys._getframe().f_back
    assert frame is not None
    if _may_read():
        from pdb import Pdb

        # nosigint: else the debugger would answer the next Ctrl-C, which is the supervisor's to answer.
        debugger = Pdb(nosigint=True)
        if header is not None:
            debugger.message(header)
        debugger.set_trace(frame)
    else:
        _complain(f"breakpoint() at {frame.f_code.co_filename}:{frame.f_lineno} was passed over")


def _complain(what: str) -> None:
    if (unsaid := _complaints.may_say(time.monotonic())) is not None:
        log.error("%s: %s%s", what, _WHY, more(unsaid))


class _NoTerminal(io.TextIOWrapper):
    """Standard input of a shard without a terminal: at its end, and says why to whoever reads lines."""

    def __init__(self) -> None:
        super().__init__(io.FileIO(0, closefd=False))

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        line = super().readline(size)
        if not line:
            _complain("an end of file was read from standard input")
        return line
