"""Replacing shards in good order, one at a time, so that nobody notices: not a client, and not a peer.

Each in turn is told to stop. It finishes its own open work; its listening sockets stay open here, so that new connections
wait for its successor. Then its peers are told to hold: they keep new calls to it, and say when those that they had sent
have been answered. When all have said so it may leave, and the successor gets what was kept.

A shard that is starting when all are to be replaced may have read the application as it was before, and is due as well. It is
waited for first: it reads no messages before its application is imported, and meanwhile the others had better serve.

A shard that was told to terminate from outside waits for its turn like the others: of two that hold each other's calls at
once, neither might ever be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from clockworker.shards._control import Hold, Leave, Release
from clockworker.shards._lifecycle import State
from clockworker.shards._member import Member
from clockworker.shards._process import ShardProcess


class Roll:
    """drain: tell a ready shard to stop. done: there is none left to replace."""

    def __init__(self, members: list[Member], drain: Callable[[Member], None], done: Callable[[], None]) -> None:
        self._members = members
        self._drain = drain
        self._done = done
        self._waiting: deque[Member] = deque()
        self._starting: set[ShardProcess] = set()  # due when they are ready
        self._current: Member | None = None
        self._not_held: set[ShardProcess] | None = None  # peers of the current one that may still wait for it

    def replace(self, members: Iterable[Member]) -> None:
        """These are due as well. Those that are not ready when their turn comes have started meanwhile, and are new."""
        for member in members:
            if member.state is State.STARTING and member.process is not None:
                self._starting.add(member.process)
            elif member not in self._waiting:
                self._waiting.append(member)
        self._next()
        self._say_if_done()

    def drained(self, member: Member) -> None:
        """It has finished its own work: the one that we told to stop, or one that somebody else did."""
        member.drained = True
        if member is self._current:
            self._hold(member)
        elif member.state is State.READY:
            self._waiting.appendleft(member)
            self._next()

    def held(self, process: ShardProcess, peer: int) -> None:
        """A peer holds its calls."""
        if self._current is not None and self._current.id == peer:
            self._no_longer(process)

    def started(self, process: ShardProcess) -> None:
        """A peer has started in the middle of it, and has been connected."""
        if self._current is not None and self._not_held is not None and self._current.process is not process:
            self._not_held.add(process)
            process.send(Hold(self._current.id))

    def ended(self, process: ShardProcess) -> None:
        """A peer has died, or the current one has."""
        if process in self._starting:
            self._starting.remove(process)
            self._next()
            self._say_if_done()
        if self._current is not None and self._current.process is process:
            self._not_held = None
        else:
            self._no_longer(process)

    def ready(self, member: Member) -> None:
        """A successor, perhaps not the first, is ready; or another one is."""
        due = self._starting & {member.process}
        if due:
            self._starting -= due
            if member not in self._waiting:
                self._waiting.append(member)
        if member is self._current:
            self._current = None
        elif not due:
            return
        self._next()
        self._say_if_done()

    def abandon(self) -> None:
        """All are told to stop. Calls that were kept go to the old incarnation, or fail: there will be no other."""
        self._waiting.clear()
        self._starting.clear()
        if self._current is not None:
            for peer in self._peers(self._current):
                peer.send(Release(self._current.id))
            self._current = None
            self._not_held = None

    def _next(self) -> None:
        while self._current is None and self._waiting and not self._starting:
            member = self._waiting.popleft()
            if member.state is State.READY:
                self._current = member
                self._drain(member)
                if member.drained:
                    self._hold(member)

    def _say_if_done(self) -> None:
        if self._current is None and not self._starting:
            self._done()

    def _hold(self, member: Member) -> None:
        self._not_held = self._peers(member)
        for peer in self._not_held:
            peer.send(Hold(member.id))
        self._leave_if_held()

    def _no_longer(self, process: ShardProcess) -> None:
        if self._not_held is not None and process in self._not_held:
            self._not_held.discard(process)
            self._leave_if_held()

    def _leave_if_held(self) -> None:
        if self._current is not None and self._not_held is not None and not self._not_held:
            self._current.tell(Leave(serve_first=True))

    def _peers(self, member: Member) -> set[ShardProcess]:
        return {peer.process for peer in self._members if peer is not member and peer.process is not None}
