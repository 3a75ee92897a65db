from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from clockworker.shards.worker._line import Line


class Call(NamedTuple):
    account: str
    since: float


def test_accounts_of_fewest_places_are_next() -> None:
    line = Line[Call]()
    a, b, c = (Call(name, since) for since, name in enumerate("abc"))
    second = Call("b", 9.0)
    for call in (a, b, c, second):
        line.add(call)
    line.hold("a")
    assert (len(line), bool(line), line.oldest()) == (4, True, a)
    assert line.next() == b
    line.pass_on(b)
    assert line.next() == c  # of as few places, and came before b's next
    line.hold("b")
    line.hold("b")
    line.pass_on(c)
    assert line.next() == a
    line.remove(a)
    line.remove(a)
    assert line.next() == second
    line.give_back("b")
    line.pass_on(second)
    assert not line
    assert len(line) == 0


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.integers(1, 4))
def test_everybody_has_a_turn_and_nobody_holds_much_more(accounts: list[str], places: int) -> None:
    """With calls that never end before others wait: places go round."""
    line = Line[Call]()
    for since, account in enumerate(accounts):
        line.add(Call(account, since))
    held: list[str] = []
    turns: list[Call] = []
    while line:
        if len(held) == places:
            line.give_back(held.pop(0))
        call = line.next()
        least = min(held.count(other) for other in line._waiting)
        assert held.count(call.account) == least
        line.pass_on(call)
        line.hold(call.account)
        held.append(call.account)
        turns.append(call)
    assert sorted(turns) == sorted(Call(account, since) for since, account in enumerate(accounts))
    for account in set(accounts):
        assert [call.since for call in turns if call.account == account] == sorted(
            call.since for call in turns if call.account == account
        )
