"""A process that pushes numbered frames into a ring until it is killed. Not a test: test_ring starts it."""

import sys

from clockworker.ipc.rings._ring_cy import RingProducer

producer = RingProducer(int(sys.argv[1]))
number = 0
while True:
    body = (number % 251).to_bytes(1, "little") * (number * 37 % (producer.capacity // 4 + 1))
    while not producer.push(number % 5 + 1, 0, 0, number, body):
        pass
    number += 1
