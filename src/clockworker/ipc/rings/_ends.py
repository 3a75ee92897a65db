"""The ends of a link, from the descriptors that the supervisor passed."""

from __future__ import annotations

import os

from clockworker.ipc.rings._doorbell_cy import PeerDoorbell
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer


def open_link_ends(
    incoming: int, outgoing: int, doorbell: tuple[int, int], own: int, max_message: int
) -> tuple[RingConsumer, RingProducer, PeerDoorbell]:
    """Map what the supervisor passed for one peer, and close the descriptors that are not needed any more."""
    memory, eventfd = doorbell
    opened: list[RingConsumer | RingProducer] = []
    try:
        opened.append(consumer := RingConsumer(incoming, max_message))
        opened.append(producer := RingProducer(outgoing))
        return consumer, producer, PeerDoorbell(memory, eventfd, own)
    except BaseException:
        for end in opened:
            end.close()
        os.close(eventfd)
        raise
    finally:
        for descriptor in (incoming, outgoing, memory):
            os.close(descriptor)
