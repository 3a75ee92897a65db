"""What a process inherits over exec from whoever starts it, brought to a known state: signals, and the first three descriptors.

Signals that were blocked are let through, and those that were ignored have their default again (a shell ignores INT for what it
starts in the background, nohup HUP, a careless parent CHLD, and then no child's status could be had). What Python ignores,
SIGPIPE and SIGXFSZ, it ignores for a reason.

Some signals end a process that nobody has prepared for them: alarms (which survive exec), those of a terminal's or a socket's
input, all real-time ones. One that strays to a server, because somebody mistook the pid or started the server under an alarm,
must not end it. They get a handler that does nothing, or says so; whoever wants one sets a handler of his own over it. Not
SIG_IGN, which would be inherited by what the application starts. What only a fault of the program or somebody's intention sends
(SEGV, ABRT, KILL, ...) is left as it is.

Many signals may arrive at once. Handlers of Python and of `faulthandler` run on the alternate signal stack if there is one,
each on top of the one that it interrupts. With AVX-512 a frame takes 3.5 KiB, and faulthandler's stack of about 20 KiB was full
with the sixth signal: the kernel ends such a process with SIGSEGV. `widen_signal_stack` makes room for all that there are.

A descriptor below 3 that is not open would be given to a socket of ours, and then be taken for standard error by someone.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

Handler: TypeAlias = Callable[[int, FrameType | None], object]

_PYTHONS_OWN = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_NEVER = frozenset({signal.SIGKILL, signal.SIGSTOP})

# The first and last of the real-time signals. Where there are none (other systems than Linux) this module is imported, too:
# there the range is empty.
_FIRST_REAL_TIME = getattr(signal, "SIGRTMIN", signal.NSIG)
_LAST_REAL_TIME = getattr(signal, "SIGRTMAX", signal.NSIG - 1)

# Signals that end a process unless it has a handler, and that nothing of ours sends or waits for.
STRAY = frozenset(
    {
        signal.SIGALRM,
        signal.SIGVTALRM,
        signal.SIGPROF,
        signal.SIGIO,
        signal.SIGXCPU,
        *(getattr(signal, name) for name in ("SIGPWR", "SIGSTKFLT") if hasattr(signal, name)),
        *range(_FIRST_REAL_TIME, _LAST_REAL_TIME + 1),
    }
)

# Bytes; touched only as far as it is used. 64 signals with the largest frames of x86 (AMX: 11 KiB).
SIGNAL_STACK = 1 << 20
_SS_DISABLE = 2


class _Stack(ctypes.Structure):
    """stack_t"""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_sigaltstack = ctypes.CDLL(None).sigaltstack


def settle_signals(handlers: dict[int, Handler]) -> None:
    """handlers: for those that are not to have their default. They are in place before anything is let through."""
    widen_signal_stack()
    for number in signal.valid_signals() - _PYTHONS_OWN - _NEVER:
        if number in handlers:
            signal.signal(number, handlers[number])
        elif signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def widen_signal_stack() -> None:
    """Of the calling thread, if it has an alternate one; to be called when `faulthandler` has made its own."""
    now = _Stack()
    _sigaltstack(None, ctypes.byref(now))
    if now.flags & _SS_DISABLE or now.size >= SIGNAL_STACK:
        return
    memory = mmap.mmap(-1, SIGNAL_STACK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    wide = _Stack(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, SIGNAL_STACK)
    if _sigaltstack(ctypes.byref(wide), None) == 0:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # for ever: the kernel keeps the address


def do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def name_of(number: int) -> str:
    """SIGALRM; SIGRTMIN+3 for those that have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - _FIRST_REAL_TIME}"


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
