"""Frames out, the backlog, and what the peer is told of, with both ends of the rings in this process."""

from __future__ import annotations

from ends import Ends

from clockworker.ipc.calls._frames import Kind


def test_frames_leave_in_order_through_a_full_ring() -> None:
    ends = Ends()
    for call in range(500):
        ends.ring.send(Kind.REQUEST, 0, 0, call, b"x" * (call % 60))
    assert ends.ring.frames_sent < 500
    seen: list[tuple[int, int, bytes]] = []
    while len(seen) < 500:
        ends.ring.flush()
        assert ends.bell.news() == [0]
        more = ends.received()
        assert more
        seen += more
        assert not ends.ring.backlog or ends.peer.producer_stalled()
    assert seen == [(Kind.REQUEST, call, b"x" * (call % 60)) for call in range(500)]
    assert ends.ring.frames_sent == 500
    ends.close()


def test_of_a_body_larger_than_the_ring_each_part_is_announced() -> None:
    ends = Ends(capacity=1 << 16)
    ends.ring.send(Kind.REQUEST, 0, 0, 1, bytes(300_000))
    ends.ring.send(Kind.CANCEL, 0, 0, 1, b"")
    seen: list[tuple[int, int]] = []
    while len(seen) < 2:
        ends.ring.flush()
        assert ends.bell.news() == [0]
        seen += [(kind, len(body)) for kind, _, body in ends.received()]
    assert seen == [(Kind.REQUEST, 300_000), (Kind.CANCEL, 0)]
    ends.close()


def test_flush_announces_once_and_only_news() -> None:
    ends = Ends()
    ends.ring.flush()
    assert ends.bell.news() is None
    for _ in range(3):
        ends.ring.send(Kind.REQUEST, 0, 0, 1, b"")
    ends.ring.flush()
    assert ends.bell.news() == [0]
    ends.ring.flush()
    assert ends.bell.news() is None
    ends.close()
