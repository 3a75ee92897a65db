"""State on its way from a shard to its successor, before the two change places (`_roll`).

    holding   everybody has been asked to let new calls to the shard wait
    shutting  all of them do, and what is running there is to end. A call that waits may be what one that is running waits
              for, so those that are made within others are let through again and again, in rounds
    taking    nothing is running, and the successor fetches the state from the old one
    over      it has it, and takes the place; or not

Whatever goes wrong before that is the end of the successor. Calls go on with the old one, and have only waited. If it is the
old one that ends, its state is lost, and so is a successor that would have had it: the shard starts anew, as after any crash,
and is told so (`Shard.came_by`).

Meanwhile the old one may use every CPU of the server: on that of its shard the two would take turns.

How long it takes is bounded by `--timeout-hand-over`: what nothing ends is an outage for all who wait.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Literal

from clockworker.shards.protocol._messages import Hold, Moved, Release, Shut, TakeState
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._process import ShardProcess

log = logging.getLogger("clockworker.supervisor")

# How long a round takes at first, and at most.
ROUND_S = 0.02
MAX_ROUND_S = 0.2

# So much later than the successor, which can say what it was that took so long.
LATE_S = 1.0

Phase = Literal["holding", "shutting", "taking", "over"]


class Transfer:
    """From `old` to `successor`, which both are there. services: those whose state moves. done: the successor has the
    state. failed: it has not, and why."""

    def __init__(
        self,
        members: Members,
        old: Member,
        successor: Member,
        services: tuple[str, ...],
        limit: float,
        done: Callable[[Member], None],
        failed: Callable[[Member, str], None],
    ) -> None:
        self.successor = successor
        self._members = members
        self._old = old
        self._old_process, self._successor_process = old.process, successor.process  # members forget those that end
        self._services = services
        self._limit = limit
        self._done = done
        self._failed = failed
        self._phase: Phase = "holding"
        self._round_s = ROUND_S
        self._not_held: set[ShardProcess] = set()
        self._running: tuple[str, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = self._loop.call_later(limit, self._overdue)
        self._not_held = set(self._peers())
        if old.process is not None:
            self._not_held.add(old.process)
        self._hold(again=False)

    def held(self, process: ShardProcess) -> None:
        """It lets new calls wait. When all do, the old one may shut."""
        self._not_held.discard(process)
        self._shut_if_held()

    def is_shut(self, process: ShardProcess) -> None:
        """The state can be fetched: the successor takes it, in the time that is left."""
        if self._phase == "shutting" and process is self._old.process:
            self._phase = "taking"
            self._cancel_round()
            self._alarm.cancel()
            if self._old.cpu is not None:
                process.run_on(os.sched_getaffinity(0))
            left = max(0.1, self._limit - (self._loop.time() - self._began))
            self._alarm = self._loop.call_later(left + LATE_S, self._overdue)
            self.successor.tell(TakeState(self._services, left))

    def running(self, process: ShardProcess, methods: tuple[str, ...]) -> None:
        """These are what the old one still waits for, to be named if it takes too long."""
        if process is self._old.process:
            self._running = methods

    def taken(self, process: ShardProcess, size: int) -> None:
        """The successor has the state, of so many bytes: it takes the place."""
        if self._phase == "taking" and process is self.successor.process:
            self._over()
            log.info(
                "%s has handed over its state to its successor: %s bytes in %.3f s",
                self._old,
                f"{size:,}",
                self._loop.time() - self._began,
            )
            self._old.tell(Moved())
            self._done(self.successor)

    def not_taken(self, process: ShardProcess, problem: str) -> None:
        """The successor cannot, and the old one goes on."""
        if process is self.successor.process:
            self._fail(problem)

    def ended(self, process: ShardProcess) -> None:
        """A process has, of any shard."""
        self._not_held.discard(process)
        if process in (self._old_process, self._successor_process):
            self.abandon()
        else:
            self._shut_if_held()

    def abandon(self) -> None:
        """The state stays where it is, if that is there."""
        if self._phase != "over":
            self._over()
            for peer in self._peers():
                peer.send(Release(self._old.id))
            self._old.tell(Release(self._old.id))
            if self._old.cpu is not None and self._old.process is not None:
                self._old.process.run_on({self._old.cpu})

    def _shut_if_held(self) -> None:
        if self._phase == "holding" and not self._not_held:
            self._phase = "shutting"
            self._old.tell(Shut())
            self._plan_round()

    def _hold(self, *, again: bool) -> None:
        hold = Hold(self._old.id, again)
        for peer in self._peers():
            peer.send(hold)
        self._old.tell(hold)

    def _plan_round(self) -> None:
        self._timer = self._loop.call_later(self._round_s, self._next_round)
        self._round_s = min(MAX_ROUND_S, 2 * self._round_s)

    def _next_round(self) -> None:
        self._hold(again=True)
        self._plan_round()

    def _peers(self) -> list[ShardProcess]:
        """But those that have no loop yet: they have asked nothing."""
        return [
            member.process
            for member in self._members.everyone()
            if member.id != self._old.id and member.process is not None and member.process.pulse.beat
        ]

    def _overdue(self) -> None:
        after = f"{self._limit:g} s (--timeout-hand-over)"
        if self._phase == "taking":
            self._fail(f"it had not taken over the state after {after}, and did not come to say why")
        elif self._running:
            running = ", ".join(self._running)
            self._fail(f"it could not take over the state, since calls were still running after {after}: {running}")
        else:
            late = sorted(member.id for member in self._members if member.process in self._not_held) or [self._old.id]
            self._fail(f"it could not take over the state, since {_shards(late)} did not come to rest within {after}")

    def _fail(self, problem: str) -> None:
        if self._phase != "over":
            self.abandon()
            self._failed(self.successor, f"the successor of {self._old}: {problem}")

    def _over(self) -> None:
        self._phase = "over"
        self._alarm.cancel()
        self._cancel_round()

    def _cancel_round(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _shards(numbers: list[int]) -> str:
    return f"shard{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}"
