"""Draining: who is told what, and how long each has."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from clockworker.shards.protocol._messages import Leave, Stop, ToShard
from clockworker.shards.supervisor._drain import Drain
from clockworker.shards.supervisor._lifecycle import State
from clockworker.shards.supervisor._member import Member, Members


class Pulse:
    beat = 1.0


class Process:
    """What a drain sees of one."""

    pulse = Pulse()

    def __init__(self) -> None:
        self.told: list[ToShard] = []
        self.killed = False

    def send(self, message: ToShard, descriptors: Sequence[int] = ()) -> None:
        self.told.append(message)

    def kill(self) -> None:
        self.killed = True


def ready(shard: int) -> tuple[Member, Process]:
    member, process = Member(shard, None), Process()
    member.process = cast(Any, process)
    member.lifecycle.state = State.READY
    return member, process


@pytest.mark.parametrize(("spent", "left"), [(0.0, 10.0), (3.0, 7.0), (11.0, 0.0)])
def test_what_was_spent_before_is_no_part_of_the_grace(spent: float, left: float) -> None:
    async def main() -> None:
        member, process = ready(0)
        drain = Drain(Members([member]), grace=10.0)
        drain.spent = spent
        drain.begin(member)
        assert member.state is State.DRAINING
        assert process.told == [Stop(for_good=False, grace=left)]
        assert member.timer is not None
        assert member.timer.when() - asyncio.get_running_loop().time() == pytest.approx(left, abs=1.0)
        member.cancel_timer()

    asyncio.run(main())


def test_all_leave_together_those_beside_a_shard_too() -> None:
    async def main() -> None:
        (one, first), (two, second), (old, third) = ready(0), ready(1), ready(0)
        members = Members([one, two])
        members.beside = old
        drain = Drain(members, grace=10.0)
        drain.begin(old)
        drain.drained(old)
        drain.together = True
        drain.begin(one)
        drain.begin(two)
        drain.begin(two)
        drain.drained(one)
        assert Leave() not in first.told + second.told + third.told
        drain.drained(two)
        assert first.told == second.told == [Stop(for_good=True, grace=10.0), Leave()]
        assert third.told == [Stop(for_good=False, grace=10.0), Leave()]
        for member in members.everyone():
            member.cancel_timer()

    asyncio.run(main())
