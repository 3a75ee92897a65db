"""A process that sends every frame back, and sleeps while there are none. Not a test: test_doorbell starts it.

Exits with 0 when it has echoed as many as it was told, and with 1 if it slept on for ten seconds.
"""

import select
import sys

from clockworker.ipc.rings._doorbell_cy import Doorbell, PeerDoorbell
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer

count, ring_in, ring_out, peer_memory, peer_eventfd, own_memory, own_eventfd = map(int, sys.argv[1:])
incoming, outgoing = RingConsumer(ring_in), RingProducer(ring_out)
own, peer = Doorbell(own_memory, own_eventfd), PeerDoorbell(peer_memory, peer_eventfd, 1)


def sleep() -> None:
    if own.sleep():
        if not select.select([own_eventfd], [], [], 10)[0]:
            sys.exit(1)
        own.rung = True
        own.wake()


echoed = 0
while echoed < count:
    own.news()
    body = incoming.pop()
    if body is None:
        peer.announce()
        sleep()
        continue
    while not outgoing.push(incoming.kind, 0, 0, incoming.call, body):
        peer.announce()
        own.news()
        if outgoing.push(incoming.kind, 0, 0, incoming.call, body):
            break
        sleep()
    echoed += 1
peer.announce()
