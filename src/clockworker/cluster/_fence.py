"""Whether this node owns what its view gives it: the fence. No I/O, no clock of its own; `models/fence.pml` shows what it rests
on.

Each node says twice a second that it is alive, and what it has heard of the others (`Alive`). What it said is confirmed with a
beat of the others', and is up to two beats old until the next is; so with a short node_timeout beats are quicker, or nothing
would be left of `fence_after` for a process that the machine keeps waiting. Three rules:

1.  *I own* while a quorum of my view's members, I among them, have confirmed, each at my epoch, a number that I sent less than
    `fence_after` ago. Who confirms is that very process: a successor under the same name never confirms for the one before,
    since it may read an old copy of the view that the one before had left.
2.  *It is dead* when a quorum says so, by their own word, at my epoch, and lately: for `node_timeout` it has not been heard, or
    has not heard them. Then a member that owns may write it out of the view. A deaf one has nobody's word but its own, and
    writes out nobody.
3.  *What I gain*, over the view before, I serve once the view is settled: every member of the view before has been heard at the
    new epoch, or a quorum of them has, and `node_timeout` has passed since. Nobody writes a view after one that is not settled.

Why no two own at once: who owned in the view before needs a quorum that confirms at that epoch. Those who have been heard at
the new one never do so again, and two quorums have a member in common. So what confirms it was sent before the last of them was
heard, and it stops `fence_after` later by its own clock, which is 0.8 of `node_timeout`: before ours has counted
`node_timeout`, unless the clocks' rates differ by a fifth. Rule 2 has no part in this; it keeps the living in.

That holds within a lineage: what has come of one beginning of the cluster, in one store. A store that is lost counts its
revisions from 1 again, and who comes then begins a second cluster, if it hears nobody of the first. So there is a fourth rule,
which `models/lineages.pml` shows:

4.  *I yield*, and own nothing, while I know of another lineage that is higher than mine, by its epoch, then by its number; or
    of a higher epoch of my own, if the store turned out to have a lower one when it was read after that. Who yields confirms
    nobody.

That a view is settled is true for ever, so it is said in `Alive` and taken from whoever says it; a higher epoch says it as
well, since nobody would have written that.

What the model and simulations made of the rules as they were first written: who is heard and hears nobody is silent too, or it
would stay, and serve nothing; a successor under its name counts for the member before it (the
whole cluster may have been killed, and then nobody else would ever be heard), but only once that one has been silent here for
`node_timeout`; and a node that hears of a higher epoch reads the view at once, but goes on serving meanwhile, since the fence
needs no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from clockworker.cluster._view import View, is_quorum

FENCE_PART = 0.8  # of node_timeout: what a clock's rate may differ by
BEAT_S = 0.5  # of a node_timeout of 5 s and more
BEATS = 10  # in a shorter one
_FIRST_BEATS = 1.5  # of the others', to be waited for
_REMEMBERED = 4  # node_timeouts: what has been heard
VERSION = 1


class Alive(msgspec.Struct, frozen=True, array_like=True):
    """What a node says, with each beat and at each new epoch; whose it is the subject says.

    number: counts the node's own. heard: of each other node the process that was heard, and its highest number. silent: members
    of the view that have not been heard, or have not heard it, for node_timeout. settled: whether this epoch's view is.
    lineage: the view's; 0: it has none, or says nothing of it.
    """

    version: int
    incarnation: int
    epoch: int
    number: int
    heard: dict[str, tuple[int, int]]
    silent: list[str]
    settled: bool
    lineage: int = 0


def beat_s(node_timeout: float) -> float:
    """Seconds between two of what a node says."""
    return min(BEAT_S, node_timeout / BEATS)


class _Peer:
    """The last that one process of a node has said, and when. answered: when the number was sent that it has heard last."""

    def __init__(self, alive: Alive, at: float) -> None:
        self.alive = alive
        self.at = at
        self.answered = float("-inf")


class Fence:
    """name, incarnation: this process of this node. Times are seconds of one clock of this machine's."""

    def __init__(self, name: str, incarnation: int, node_timeout: float, now: float) -> None:
        self.name = name
        self.incarnation = incarnation
        self.node_timeout = node_timeout
        self.fence_after = FENCE_PART * node_timeout
        self.beat_s = beat_s(node_timeout)
        self.epoch = 0
        self.view: View | None = None
        self._began = now
        self._listening = now  # since when, without a break
        self._said = now
        self._number = 0
        self._sent: deque[tuple[int, float]] = deque()  # for node_timeout: number, when
        self._members: dict[tuple[str, int], float] = {}  # of the view: since when
        self._peers: dict[str, dict[int, _Peer]] = {}  # by name and incarnation
        self._is_settled = False
        self._missing = 0  # an epoch that was heard of, and that the store has not
        self._quorum_since: float | None = None  # a quorum of the view before has been heard at this epoch

    # What happens.

    def adopt(self, view: View, epoch: int, now: float) -> None:
        """The view has been read. One that is lower than ours is passed over."""
        if not self.is_news(view, epoch):
            return
        self.view, self.epoch = view, epoch
        self._is_settled = not view.previous
        self._quorum_since = None
        self._members = {
            member: self._members.get(member, now)
            for name, node in view.nodes.items()
            for member in [(name, node.incarnation)]
        }
        self._look(now)

    def is_news(self, view: View, epoch: int) -> bool:
        """Whether it is higher than ours."""
        return epoch > self.epoch or (
            epoch == self.epoch
            and self.view is not None
            and self._is_foreign(view.lineage)
            and view.lineage > self.lineage
        )

    def misses(self, epoch: int) -> None:
        """The store has been read, and has not this epoch, of which we had heard before; 0: it has all."""
        self._missing = epoch

    def listens(self, now: float) -> None:
        """From now on others can be heard: there is a connection, after one was lost or at first. Who comes back a moment later
        than we do was not silent meanwhile."""
        self._listening = now

    def say(self, now: float) -> Alive:
        """The next of our own, to be sent after this: its time counts from now."""
        if now - self._said > self.node_timeout / 2:
            self._listening = now  # we stood still, and what was said meanwhile has not been read
        self._said = now
        self._number += 1
        self._sent.append((self._number, now))
        while self._sent and self._sent[0][1] <= now - self.node_timeout:
            self._sent.popleft()
        self._forget(now)
        self._look(now)
        yields = self.yields_to(now)
        heard = {
            name: (incarnation, peer.alive.number)
            for name in self._peers
            if not yields and (latest := self._latest(name)) is not None
            for incarnation, peer in [latest]
        }
        silent = [name for name in self._others() if self._is_silent(name, now)]
        return Alive(
            VERSION, self.incarnation, self.epoch, self._number, heard, silent, self.is_settled(now), self.lineage
        )

    def heard(self, name: str, alive: Alive, now: float) -> None:
        """`name`: by the subject, never by what is said. Of one that comes late nothing is taken."""
        if name == self.name and alive.incarnation == self.incarnation:
            return
        of_name = self._peers.setdefault(name, {})
        known = of_name.get(alive.incarnation)
        if known is not None and alive.number <= known.alive.number:
            return
        if known is None:
            known = of_name[alive.incarnation] = _Peer(alive, now)
        known.alive, known.at = alive, now
        known.answered = max(known.answered, self._sent_at(alive))
        self._look(now)

    # Rule 1.

    def until(self, now: float) -> float:
        """When we stop owning, unless more is heard before; 0: we do not own."""
        view = self.view
        if view is None or not view.has(self.name, self.incarnation) or self.yields_to(now):
            return 0.0
        times = {name: now if name == self.name else self._confirmed(name) for name in view.nodes}
        # The latest time at which so many had confirmed that they are a quorum.
        for at in sorted(set(times.values()), reverse=True):
            if at + self.fence_after <= now:
                break
            if view.is_quorum({name for name, time in times.items() if time >= at}):
                return at + self.fence_after
        return 0.0

    def owns(self, now: float) -> bool:
        return self.until(now) > now

    def heard_ago(self, now: float) -> dict[str, float | None]:
        """How many seconds ago each other member was heard; None: never."""
        peers = {name: self._member(name) for name in self._others()}
        return {name: None if peer is None else now - peer.at for name, peer in peers.items()}

    # Rule 2.

    def dead(self, now: float) -> list[str]:
        """The members that we may write out."""
        view = self.view
        if view is None or not self.owns(now) or not self.is_settled(now):
            return []
        found = []
        for name in self._others():
            if self._is_silent(name, now):
                say_so = {self.name} | {
                    other for other in self._others() if other != name and self._says_silent(other, name, now)
                }
                if view.is_quorum(say_so):
                    found.append(name)
        return found

    def is_heard(self, now: float) -> bool:
        """Whether another process under our own name has been heard of late."""
        return any(
            incarnation != self.incarnation and now - peer.at < self.node_timeout
            for incarnation, peer in self._peers.get(self.name, {}).items()
        )

    def may_replace(self, now: float) -> bool:
        """Whether the process before us under our name, which the view still has, counts as ended."""
        return self.has_listened(now) and not self.is_heard(now)

    def has_listened(self, now: float) -> bool:
        """For so long that whoever lives has been heard."""
        return now - self._began >= self.node_timeout

    def may_be_first(self, now: float) -> bool:
        """Whether we have listened for so long that whoever lives has probably been heard. A store without a view may be a new
        one, whose cluster has lived on. Who is heard later has one of the two yield: this spares the application that."""
        return now - max(self._began, self._listening) >= _FIRST_BEATS * self.beat_s

    # Rule 3.

    def is_settled(self, now: float) -> bool:
        if not self._is_settled and self._quorum_since is not None:
            self._is_settled = now - self._quorum_since >= self.node_timeout
        return self._is_settled

    def settles_at(self) -> float | None:
        """When it will be, if nothing more is heard; None: not by itself, or it is."""
        if self._is_settled or self._quorum_since is None:
            return None
        return self._quorum_since + self.node_timeout

    def highest_epoch(self) -> int:
        """That has been heard of."""
        return max((peer.alive.epoch for peer in self._all()), default=0)

    # Rule 4.

    @property
    def lineage(self) -> int:
        """Of our view; 0: there is none, or it is of a release that had none."""
        return 0 if self.view is None else self.view.lineage

    def yields_to(self, now: float) -> int:
        """The epoch to which ours yields; 0: to none. Who has not been heard for long is forgotten."""
        if self.view is None:
            return 0
        ours = (self.epoch, self.lineage)
        higher = (
            peer.alive.epoch
            for peer in self._all()
            if now - peer.at <= _REMEMBERED * self.node_timeout
            and self._is_foreign(peer.alive.lineage)
            and (peer.alive.epoch, peer.alive.lineage) > ours
        )
        return max(higher, default=self._missing if self._missing > self.epoch else 0)

    def _is_foreign(self, lineage: int) -> bool:
        return lineage != self.lineage and lineage != 0 and self.lineage != 0

    def _look(self, now: float) -> None:
        """What has been heard at our epoch."""
        if self.view is None or self.is_settled(now):
            return
        before = self.view.previous
        if any(
            not self._is_foreign(peer.alive.lineage)
            and (peer.alive.epoch > self.epoch or (peer.alive.epoch == self.epoch and peer.alive.settled))
            for peer in self._all()
        ):
            self._is_settled = True
            return
        reached = {name for name in before if self._has_reached(name, before[name].incarnation, now)}
        if len(reached) == len(before):
            self._is_settled = True
        elif self._quorum_since is None and is_quorum(before, reached, self.view.two_nodes):
            self._quorum_since = now

    def _has_reached(self, name: str, incarnation: int, now: float) -> bool:
        """Whether this member of the view before is at our epoch, or its successor is and it is over."""
        if name == self.name and incarnation == self.incarnation:
            return True
        of_name = self._peers.get(name, {})
        member = of_name.get(incarnation)
        if member is not None and self._is_at_ours(member):
            return True
        if now - (self._began if member is None else member.at) < self.node_timeout:
            return False
        return name == self.name or any(
            other != incarnation and self._is_at_ours(peer) for other, peer in of_name.items()
        )

    def _is_at_ours(self, peer: _Peer) -> bool:
        """At our epoch, or a later one that has come of it."""
        return peer.alive.epoch >= self.epoch and not self._is_foreign(peer.alive.lineage)

    # What was heard.

    def _all(self) -> Iterator[_Peer]:
        for of_name in self._peers.values():
            yield from of_name.values()

    def _others(self) -> list[str]:
        """Members but we."""
        return [] if self.view is None else [name for name in self.view.nodes if name != self.name]

    def _member(self, name: str) -> _Peer | None:
        """The process that the view means."""
        assert self.view is not None
        return self._peers.get(name, {}).get(self.view.nodes[name].incarnation)

    def _latest(self, name: str) -> tuple[int, _Peer] | None:
        of_name = self._peers[name]
        if not of_name:
            return None
        return max(of_name.items(), key=lambda item: item[1].at)

    def _confirmed(self, name: str) -> float:
        """When the number was sent that it has confirmed at our epoch; long ago if it has none of late."""
        peer = self._member(name)
        if peer is None or peer.alive.epoch != self.epoch or self._is_foreign(peer.alive.lineage):
            return float("-inf")
        return self._sent_at(peer.alive)

    def _sent_at(self, alive: Alive) -> float:
        """When we sent the number that it says was heard of us; long ago if that is none of late."""
        incarnation, number = alive.heard.get(self.name, (0, 0))
        if incarnation != self.incarnation:
            return float("-inf")
        return next((at for sent, at in self._sent if sent == number), float("-inf"))

    def _is_silent(self, name: str, now: float) -> bool:
        """To us, or we to it. One that has just joined is not yet, and nobody is before we have listened for so long."""
        assert self.view is not None
        peer = self._member(name)
        since = max(self._listening, self._members[name, self.view.nodes[name].incarnation])
        return now - max(since, float("-inf") if peer is None else peer.answered) >= self.node_timeout

    def _says_silent(self, other: str, name: str, now: float) -> bool:
        peer = self._member(other)
        return (
            peer is not None
            and now - peer.at < self.fence_after
            and peer.alive.epoch == self.epoch
            and not self._is_foreign(peer.alive.lineage)
            and name in peer.alive.silent
        )

    def _forget(self, now: float) -> None:
        """Processes that have not been heard for long, but those that the view or the one before means."""
        view = self.view
        meant = (
            set()
            if view is None
            else {(name, node.incarnation) for nodes in (view.nodes, view.previous) for name, node in nodes.items()}
        )
        for name, of_name in [*self._peers.items()]:
            for incarnation, peer in [*of_name.items()]:
                if now - peer.at > _REMEMBERED * self.node_timeout and (name, incarnation) not in meant:
                    del of_name[incarnation]
            if not of_name:
                del self._peers[name]
