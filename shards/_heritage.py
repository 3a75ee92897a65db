"""What a process inherits over exec from whoever starts it, brought to a known state: signals, and the first three descriptors.

Signals that were blocked are let through, and those that were ignored have their default again (a shell ignores INT for what it
starts in the background, nohup HUP, a careless parent CHLD, and then no child's status could be had). What Python ignores,
SIGPIPE and SIGXFSZ, it ignores for a reason.

Some signals end a process that nobody has prepared for them: alarms (which survive exec), those of a terminal's or a socket's
input, all real-time ones. One that strays to a server, because somebody mistook the pid or started the server under an alarm,
must not end it. They get a handler that does nothing, or says so; whoever wants one sets a handler of his own over it. Not
SIG_IGN, which would be inherited by what the application starts. What only a fault of the program or somebody's intention sends
(SEGV, ABRT, KILL, ...) is left as it is.

A descriptor below 3 that is not open would be given to a socket of ours, and then be taken for standard error by someone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], object]

_PYTHONS_OWN = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_NEVER = frozenset({signal.SIGKILL, signal.SIGSTOP})

# Signals that end a process unless it has a handler, and that nothing of ours sends or waits for.
STRAY = frozenset(
    {
        signal.SIGALRM,
        signal.SIGVTALRM,
        signal.SIGPROF,
        signal.SIGIO,
        signal.SIGPWR,
        signal.SIGXCPU,
        *(getattr(signal, name) for name in ("SIGSTKFLT",) if hasattr(signal, name)),
        *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
    }
)

_ours: dict[int, Handler] = {}


def settle_signals(handlers: dict[int, Handler]) -> None:
    """handlers: for those that are not to have their default. They are in place before anything is let through."""
    for number in signal.valid_signals() - _PYTHONS_OWN - _NEVER:
        if number in handlers:
            signal.signal(number, handlers[number])
        elif signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    _ours.update(handlers)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def name_of(number: int) -> str:
    """SIGALRM; SIGRTMIN+3 for those that have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _give_defaults_back() -> None:
    """A forked child is no server, and what is sent to it is meant."""
    for number, handler in _ours.items():
        if signal.getsignal(number) is handler:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_give_defaults_back)


def fill_standard_descriptors() -> None:
    """Open /dev/null as those of 0, 1 and 2 that are closed. Where there is none, they stay closed."""
    for number in range(3):
        with contextlib.suppress(OSError):
            try:
                os.fstat(number)
            except OSError:
                found = os.open(os.devnull, os.O_RDWR)  # the lowest one that is free
                os.set_inheritable(found, True)
                if found != number:  # cannot be: those below are open
                    os.close(found)
