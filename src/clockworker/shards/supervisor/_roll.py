"""Replacing shards in good order, one at a time, so that nobody notices: not a client, and not a peer.

The successor is started beside the shard that it is to replace, which serves on. It imports the application as it is now and
runs `main` up to `ready()`; it can call its peers, and is answered, but nobody calls it yet, and it gets no connections. Then
they change places: the successor gets the sockets and the calls, and the old one is told to stop. That finishes its own open
work, answers what it had been asked, and leaves; the next one's turn comes when it is gone. So at no time are there more
than one shard's processes too many, and no connection or call waits for a start.

Whatever goes wrong with a successor before the change (an exception, an exit, a crash, never being ready), the old one has
noticed nothing and serves on, and the rest of the roll is given up: they would fail in the same way. The first successor of
a roll is looked at for a moment longer, since many a version fails right after it was ready. If one that has changed places
dies while others are still to be replaced, the rest keep the old version. The next HUP tries again.

If the old one dies before its successor is ready, the successor has the place at once, and is a shard that starts.

Where the old one has services whose state moves, the successor takes that over first (`_transfer`), and a successor that cannot
is one that has failed. If such an old one dies, the place is not for a successor that was started to have its state.

A shard that is starting when all are to be replaced may have read the application as it was before, and is due when it is
ready. One that somebody else sends SIGTERM does not stop by itself. It asks, and is replaced like the others.

Rejected: stopping the old one first, as was done. Connections and calls waited for the successor's start, and there was no way
back when that failed. And a rehearsal, a process that only imports the application: most versions that fail do it later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from clockworker.shards.protocol._messages import Change, Leave
from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member, Members
from clockworker.shards.supervisor._process import ShardProcess
from clockworker.shards.supervisor._transfer import Transfer

log = logging.getLogger("clockworker.supervisor")

# How long the first successor of a roll has to live before it changes places.
PROBATION_S = 1.0


class Steps(msgspec.Struct, frozen=True):
    """What a roll asks of the supervisor. start: a member that has no process. changed: the first has the place of the second,
    which is to be told to stop if it is there. done: there is none left to replace."""

    start: Callable[[Member], None]
    changed: Callable[[Member, Member], None]
    done: Callable[[], None]


class Roll:
    """transfer_limit: seconds that state may take to move. `failed`: what a shard would start with now is known not to work,
    and is not what the others run."""

    def __init__(self, members: Members, steps: Steps, transfer_limit: float) -> None:
        self._members = members
        self._steps = steps
        self._transfer_limit = transfer_limit
        self._transfer: Transfer | None = None
        self._waiting: deque[int] = deque()  # shards that are due
        self._starting: set[ShardProcess] = set()  # due when they are ready
        self._coming: Member | None = None  # the successor, before the change
        self._problem = ""  # with it
        self._unwanted = False  # it is: the application has changed since
        self._probation: asyncio.TimerHandle | None = None
        self._early: ShardProcess | None = None  # it had to take the place before it was ready
        self._new: set[ShardProcess] = set()  # that this roll has brought
        self._not_quiet: set[ShardProcess] = set()  # peers that still wait for answers of the one that leaves
        self._going = False
        self._over = False
        self.failed = False

    def replace(self, members: Iterable[Member]) -> None:
        """These are due, with the application as it is now."""
        if self._over:
            return
        self._going = True
        self.failed = False
        self._new.clear()
        if self._coming is not None and self._coming.process is not None:
            self._unwanted = True
            self._coming.process.kill()
        for member in members:
            if member.state is State.READY:
                self._is_due(member)
            elif member.process is not None:
                member.restarts.forget()  # if it dies, the application as it is now has not
                self._starting.add(member.process)
            else:  # it waits for a delay to be over, or for a change
                member.cancel_timer()
                member.restarts.forget()
                self._steps.start(member)
        self._next()

    def replace_one(self, member: Member) -> None:
        """It is due: it was told to terminate."""
        if self._over or (self._coming is not None and self._coming.id == member.id):
            return
        self._going = True
        if member.state is State.READY:
            self._is_due(member)
            self._next()
        elif member.state is State.STARTING and member.process is not None:
            self._starting.add(member.process)

    def abandon(self) -> None:
        """All are told to stop."""
        self._over = True
        self._waiting.clear()
        self._starting.clear()
        self._cancel_probation()
        self._abandon_transfer()

    # What happens to shards.

    def ready(self, member: Member) -> None:
        """A shard is, or a successor."""
        if self._over:
            return
        if member is self._coming:
            seconds = 0.0 if self._new else PROBATION_S
            self._probation = asyncio.get_running_loop().call_later(seconds, self._transfer_to, member)
            return
        if member.process is self._early:
            self._early = None
        if member.process in self._starting:
            self._starting.discard(member.process)
            self._is_due(member)
        self._next()

    def drained(self, member: Member) -> None:
        """It has finished its own work."""
        member.drained = True
        self._leave_if_quiet()

    def quiet(self, process: ShardProcess, shard: int) -> None:
        """A peer has the answers to all that it had asked the one that leaves."""
        if self._members.beside is not None and self._members.beside.id == shard:
            self._not_quiet.discard(process)
            self._leave_if_quiet()

    def held(self, process: ShardProcess) -> None:
        """A shard's calls to the one that is replaced wait."""
        if self._transfer is not None:
            self._transfer.held(process)

    def is_shut(self, process: ShardProcess) -> None:
        """The state of the one that is replaced can be fetched."""
        if self._transfer is not None:
            self._transfer.is_shut(process)

    def running(self, process: ShardProcess, methods: tuple[str, ...]) -> None:
        """The one that is replaced still runs these."""
        if self._transfer is not None:
            self._transfer.running(process, methods)

    def taken(self, process: ShardProcess, size: int) -> None:
        """The successor has the state."""
        if self._transfer is not None:
            self._transfer.taken(process, size)

    def not_taken(self, process: ShardProcess, problem: str) -> None:
        """It cannot have it."""
        if self._transfer is not None:
            self._transfer.not_taken(process, problem)

    def has_problem(self, problem: str) -> None:
        """The successor has, and ends."""
        self._problem = problem

    def ended(self, member: Member, process: ShardProcess) -> None:
        """Its process has. To be told before its peers are."""
        self._starting.discard(process)
        self._not_quiet.discard(process)
        self._leave_if_quiet()
        if self._over:
            return
        if self._transfer is not None:
            self._transfer.ended(process)
        if process is self._early:
            self._early = None
            self._give_up(f"the successor of {member} did not become ready")
        elif process in self._new:
            self._give_up(f"the successor of {member} has died")
        if self._coming is not None and self._coming.id == member.id and member is not self._coming:
            if member.keeps:
                log.error("%s has ended before its successor had its state, which is lost: it starts anew", member)
                self._unwanted = True
                if self._coming.process is not None:
                    self._coming.process.kill()
            else:
                self._change(self._coming)
        self._next()

    def gone(self, member: Member, end: str) -> None:
        """Whoever was beside a shard is: the old one, or a successor that has failed. end: in words."""
        self._members.beside = None
        self._abandon_transfer()
        if member is self._coming:
            self._coming = None
            self._cancel_probation()
            if not self._unwanted:
                self._waiting.appendleft(member.id)
                self._give_up(self._problem or f"the successor of {member} {end}")
        self._next()

    def _is_due(self, member: Member) -> None:
        if member.id not in self._waiting:
            self._waiting.append(member.id)

    def _next(self) -> None:
        if self._over or self._members.beside is not None or self._early is not None:
            return
        while self._waiting:
            member = self._members[self._waiting.popleft()]
            if member.state is State.READY:  # else it has started meanwhile, and is new
                self._problem = ""
                self._unwanted = False
                self._coming = self._members.beside = member.successor()
                self._steps.start(self._coming)
                return
        if self._going and not self._starting:
            self._going = False
            self._new.clear()
            self._steps.done()

    def _transfer_to(self, successor: Member) -> None:
        """It is ready, and is to have the place, and before that the state of the services that have some."""
        self._cancel_probation()
        old = self._members[successor.id]
        if lost := [name for name in old.keeps if name not in successor.services]:
            self._cannot_take_over(
                successor,
                f"the successor of {old} does not start {', '.join(lost)}, whose state would be lost; if it is not wanted, "
                "let the service be there without hand_over() and take_over(), or restart the server",
            )
            return
        if dropped := [name for name in old.keeps if not successor.services[name]]:
            log.warning("the state of %s in %s is dropped: its successor has no take_over()", ", ".join(dropped), old)
        if services := tuple(name for name in old.keeps if successor.services[name]):
            self._transfer = Transfer(
                self._members,
                old,
                successor,
                services,
                self._transfer_limit,
                self._change,
                self._cannot_take_over,
            )
        else:
            self._change(successor)

    def _cannot_take_over(self, successor: Member, problem: str) -> None:
        self.has_problem(problem)
        if successor.process is not None:
            successor.process.kill()

    def _abandon_transfer(self) -> None:
        if self._transfer is not None:
            self._transfer.abandon()
            self._transfer = None

    def _change(self, successor: Member) -> None:
        self._transfer = None
        self._cancel_probation()
        old = self._members[successor.id]
        self._members[successor.id] = successor
        self._members.beside = old
        self._coming = None
        self.failed = False
        assert successor.process is not None
        self._new.add(successor.process)
        if successor.state is State.STARTING:
            self._early = successor.process
        peers = [peer.process for peer in self._members if peer is not successor and peer.process is not None]
        self._not_quiet = {peer for peer in peers if peer.pulse.beat}  # one that has no loop yet has asked nothing
        for peer in peers:
            peer.send(Change(successor.id))
        self._steps.changed(successor, old)

    def _leave_if_quiet(self) -> None:
        beside = self._members.beside
        if beside is not None and beside.state is State.DRAINING and beside.drained and not self._not_quiet:
            beside.tell(Leave(serve_first=True))

    def _give_up(self, problem: str) -> None:
        """The rest keep what they run."""
        rest = [*self._waiting]
        self._waiting.clear()
        if rest:
            self.failed = True
            log.error("%s not replaced: %s", _are(rest, len(self._members)), problem)

    def _cancel_probation(self) -> None:
        if self._probation is not None:
            self._probation.cancel()
            self._probation = None


def _are(shards: list[int], count: int) -> str:
    if len(shards) == count:
        return "the shards are"
    return f"shard {shards[0]} is" if len(shards) == 1 else f"shards {', '.join(map(str, sorted(shards)))} are"
