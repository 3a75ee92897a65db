"""What the log says of a node that is cut off."""

from __future__ import annotations

import pytest

from clockworker.cluster._outage import Outage
from tests.cluster.test_fence import Other, fence_of, say

TIMEOUT = 5.0


class Watched:
    """A node a of a, b and c, of which b confirms it."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.fence = fence_of()
        self.outage = Outage(self.fence, 0.0)
        self.outage.adopted(0.0, is_member=True)
        self.b = Other("b")

    def beat(self, at: float, *, confirmed: bool) -> None:
        self.outage.beat(at)
        number = say(self.fence, at).number
        if confirmed:
            self.b.says(self.fence, at, confirms=number)
        self.outage.look(at, self.fence.until(at))

    def said(self) -> list[str]:
        found = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return found


def test_who_is_not_confirmed_says_so_once_and_whom_it_has_heard(caplog: pytest.LogCaptureFixture) -> None:
    node = Watched(caplog)
    for beat in range(20):
        node.beat(beat / 2, confirmed=True)
    assert node.said() == []
    for beat in range(20, 40):
        node.beat(beat / 2, confirmed=False)
    assert node.said() == [
        "this node is cut off and serves no keys: most of the cluster has not confirmed it for 4.0 s; heard: b 4.0 s ago, "
        "c never"
    ]
    node.beat(20.0, confirmed=True)
    assert node.said() == ["this node is confirmed again, and serves its keys: it did not for 6.5 s"]


def test_who_stood_still_says_that(caplog: pytest.LogCaptureFixture) -> None:
    node = Watched(caplog)
    node.beat(0.0, confirmed=True)
    node.beat(0.5, confirmed=True)
    node.beat(6.0, confirmed=False)
    assert node.said() == [
        "this process stood still for 5.0 s: its machine is busy, or it was stopped. After 4.0 s of that the node is cut off",
        "this node is cut off and serves no keys: most of the cluster has not confirmed it for 5.5 s; heard: b 5.5 s ago, "
        "c never; this process itself stood still for 5.0 s",
    ]


def test_a_new_view_has_its_time(caplog: pytest.LogCaptureFixture) -> None:
    node = Watched(caplog)
    node.outage.look(3.9, 0.0)
    assert node.said() == []
    node.outage.adopted(3.9, is_member=True)
    node.outage.look(7.8, 0.0)
    assert node.said() == []
    node.outage.look(8.0, 0.0)
    assert len(node.said()) == 1
    node.outage.adopted(9.0, is_member=False)  # it was written out
    node.outage.look(20.0, 0.0)
    assert node.said() == []
