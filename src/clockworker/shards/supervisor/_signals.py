"""What an operator may say to the supervisor by a signal: a method `handle_<name>` for each.

INT, TERM     stop in good order; the second time, at once
QUIT          stop at once
HUP           replace the shards, one at a time
USR1          open the log files anew
USR2          nothing, and say so
TTIN, TTOU    nothing, and say so: the number of shards is fixed

A terminal that is closed sends HUP: the shards are replaced, and the server runs on. CHLD tells of children that are to be
collected (`_orphans`); those that nobody meant for us (`_heritage`) are nothing, too.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import Callable

import msgspec

from clockworker.shards.logs._log_limit import Limiter, more
from clockworker.shards.logs._logging import reopen
from clockworker.shards.machine._heritage import STRAY, name_of
from clockworker.shards.protocol._messages import Reopen
from clockworker.shards.supervisor._member import Members
from clockworker.shards.supervisor._spawn import reap_strangers

log = logging.getLogger("clockworker.supervisor")

# Wrappers (timeout, npm, make) pass a signal on that the terminal or they themselves sent to the whole group: the same
# wish arrives twice. Nobody's second thoughts come this soon.
ECHO_S = 0.1


class Wishes(msgspec.Struct, frozen=True):
    """What the signals ask for. grace: seconds that open requests have."""

    grace: float
    stopping: Callable[[], bool]
    stop: Callable[[], None]
    stop_at_once: Callable[[], None]
    replace_all: Callable[[], None]


class Signals:
    """Handles them from now on, on the running loop."""

    def __init__(self, members: Members, wishes: Wishes) -> None:
        self._members = members
        self._wishes = wishes
        self._loop = asyncio.get_running_loop()
        self._stop_asked = -math.inf  # the loop's time of the signal that asked for it
        for name in ("int", "term", "quit", "hup", "usr1", "usr2", "ttin", "ttou"):
            self._loop.add_signal_handler(getattr(signal, f"SIG{name.upper()}"), getattr(self, f"handle_{name}"))
        self._loop.add_signal_handler(signal.SIGCHLD, reap_strangers)
        reap_strangers()  # those that ended before
        self._strays = Limiter()
        for number in STRAY:
            self._loop.add_signal_handler(number, self.handle_stray, number)

    def handle_int(self) -> None:
        self._stop_or_kill("SIGINT")

    def handle_term(self) -> None:
        self._stop_or_kill("SIGTERM")

    def handle_quit(self) -> None:
        log.info("SIGQUIT: stopping at once")
        self._wishes.stop_at_once()

    def handle_hup(self) -> None:
        if not self._wishes.stopping():
            log.info("SIGHUP: replacing the shards, one at a time (options are read at the start only)")
            self._wishes.replace_all()

    def handle_usr1(self) -> None:
        for member in self._members.everyone():
            member.tell(Reopen())
        if reopen():
            log.info("SIGUSR1: log files opened anew")
        else:
            log.info("SIGUSR1: the log goes to standard error, there is no file to reopen")

    def handle_usr2(self) -> None:
        log.info("SIGUSR2 ignored")

    def handle_ttin(self) -> None:
        log.info("SIGTTIN ignored: the number of shards is fixed")

    def handle_ttou(self) -> None:
        log.info("SIGTTOU ignored: the number of shards is fixed")

    def handle_stray(self, number: int) -> None:
        if (unsaid := self._strays.may_say(self._loop.time())) is not None:
            log.info("%s ignored%s", name_of(number), more(unsaid))

    def _stop_or_kill(self, name: str) -> None:
        if not self._wishes.stopping():
            self._stop_asked = self._loop.time()
            log.info("%s: stopping, open requests have %g s", name, self._wishes.grace)
            self._wishes.stop()
        elif self._loop.time() - self._stop_asked >= ECHO_S:
            log.info("%s again: stopping at once", name)
            self._wishes.stop_at_once()
