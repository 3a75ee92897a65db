"""Replacing the application under its server, at HUP or when a source file has changed: a rehearsal shows that it can be
imported as it is now (`_rehearsal`), and then the shards are replaced one after the other (`_roll`). If the rehearsal
fails, those that there are serve on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from clockworker.shards._config import ServeConfig
from clockworker.shards._lifecycle import State
from clockworker.shards._member import Member
from clockworker.shards._rehearsal import Rehearsal
from clockworker.shards._roll import Roll
from clockworker.shards._systemd import Notifier

log = logging.getLogger("clockworker.supervisor")


class Renewal:
    """start: a shard that has stopped. done: all have been replaced, or will not be."""

    def __init__(
        self,
        config: ServeConfig,
        members: Sequence[Member],
        roll: Roll,
        notifier: Notifier,
        start: Callable[[Member], None],
        done: Callable[[], None],
    ) -> None:
        self._config = config
        self._members = members
        self._roll = roll
        self._notifier = notifier
        self._start = start
        self._done = done
        self._rehearsal: Rehearsal | None = None
        self._over = False

    def begin(self) -> None:
        """Whatever was rehearsed before has changed since."""
        if self._over:
            return
        if self._rehearsal is not None:
            self._rehearsal.kill()
        self._notifier.reloading("replacing the shards, one at a time")
        try:
            self._rehearsal = Rehearsal(self._config, len(self._members), self._rehearsed)
        except OSError as error:
            self._rehearsed(f"no process can be started: {error}")

    def abandon(self) -> None:
        """All are told to stop."""
        self._over = True
        if self._rehearsal is not None:
            self._rehearsal.kill()
        self._roll.abandon()

    def _rehearsed(self, problem: str) -> None:
        self._rehearsal = None
        if problem:
            log.error("the shards are not replaced: %s", problem)
            self._done()
            return
        self._roll.replace(self._members)
        for member in self._members:
            if member.state is State.STOPPED:  # it had waited for a change
                self._start(member)
