"""Draining: shards that were told to stop finish their open work, and those that do not are killed.

It has two steps. `Stop` goes to a shard; it finishes its open work and reports `Drained`, but still answers its peers,
whose open work may need it. Where all stop together, `Leave` lets them go when all of them have drained; where one alone is
replaced, `_roll` says when. The grace covers both; then comes SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Sequence

from clockworker.shards.protocol._messages import Leave, Stop
from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member, Members

log = logging.getLogger("clockworker.supervisor")

# How long a drained shard may take to end once the last of the others has.
LEAVE_S = 1.0


class Drain:
    """grace: seconds that open work has, until SIGKILL. together: whether all stop and leave together. spent: seconds of the
    grace that had gone by before they could be told."""

    def __init__(self, members: Members, grace: float) -> None:
        self._members = members
        self._grace = grace
        self.together = False
        self.spent = 0.0

    def begin(self, member: Member, orphaned: Sequence[tuple[str, socket.socket]] = ()) -> None:
        """Tell it to stop, if it is there and has not been told. orphaned: whose queues it is to serve, too, with their binds.
        Raises `OSError` if it could be told, but not of them."""
        if member.process is None or member.state is State.DRAINING:
            return
        importing = member.state is State.STARTING and not member.process.pulse.beat
        member.cancel_timer()
        member.lifecycle.to(State.DRAINING)
        grace = max(0.0, self._grace - self.spent)
        self._set_timer(member, grace)
        stop = Stop(for_good=self.together, grace=grace, binds=tuple(bind for bind, _ in orphaned))
        try:
            member.tell(stop, [sock.fileno() for _, sock in orphaned])
        except OSError:
            member.tell(Stop(for_good=self.together, grace=grace))
            raise
        if importing:  # it reads nothing before its loop runs, and has nothing to finish
            member.process.send_signal(signal.SIGTERM)

    def drained(self, member: Member) -> None:
        """It has finished what was open."""
        member.drained = True
        self.let_go()

    def let_go(self) -> None:
        """Where all stop together: let the drained leave, if nobody still draining may need them."""
        if self.together and self._all_drained():
            for member in self._members.everyone():
                if member.state is State.DRAINING:
                    member.tell(Leave())

    def _all_drained(self) -> bool:
        return all(member.drained for member in self._members.everyone() if member.state is State.DRAINING)

    def _set_timer(self, member: Member, seconds: float) -> None:
        member.timer = asyncio.get_running_loop().call_later(seconds, self._grace_over, member)

    def _grace_over(self, member: Member) -> None:
        if member.drained and self.together and not self._all_drained():
            # It waits for the others only. Their grace ends now, and then it leaves.
            self._set_timer(member, LEAVE_S)
            return
        what = "still had work"
        if member.drained:
            what = "did not end" if self.together else "was still waited for by its peers"
        log.warning("%s %s %g s after it was told to stop: killed", member, what, self._grace)
        assert member.process is not None
        member.process.kill()
