"""The way of ordered topics' messages: to the shard that owns the topic, which sends them to all that listen, the publisher's
among them, one after the other. So all see the same order.

A passage is that to one peer, over its incarnations. It has credit of its own, given back for each message when the owner has
passed it on: if a shard is so slow that the owner waits, so does who publishes.

While the owner is replaced, its old incarnation goes on putting messages in order, to its end: the successor has a passage to
it (`Topics.following`). Peers whose calls go to the successor send it their messages once the old one has passed on all that
they had sent it. When the old one leaves it says so, after the last message that it has passed on; what it was sent and had
not taken in by then it never will, and that goes to the successor, before all else. So nothing is lost or sent twice, and no
two incarnations put messages in order at the same time. An owner that dies says nothing: what it had not yet passed on may have
been sent to some, and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clockworker.ipc.calls._frames import Kind
from clockworker.ipc.calls._link_cy import Link
from clockworker.ipc.topics._outlet import Counts, Delivery, Outlet, send_many

_PASS_ON = int(Kind.PASS_ON)

Passed = tuple[int, int, bytes, Counts]  # bytes of the topic's name, what is to be done, name and message, whose counts


class Passage(Outlet):
    """To the peer whose own link this is (`_link_cy`: it knows which of its two incarnations has the place)."""

    def __init__(self, own: Link) -> None:
        super().__init__(own)
        self._own = own
        self._sent_off: dict[int, Passed] = {}  # not passed on yet, in order
        self._when_passed: dict[int, Callable[[], None]] = {}
        self._next = 0

    def is_free(self) -> bool:
        """Whether a message can go at once."""
        if self.link is not self._own.present():
            self.go_on()
        return super().is_free() and self.link is self._own.present()

    def is_open(self) -> bool:
        """Whether there is an owner to send it to."""
        return self._own.present().connection.connected

    def pass_on(
        self, name: bytes, message: bytes, counts: Counts, when_passed: Callable[[], None] | None = None
    ) -> Delivery | None:
        """Send it, or have it wait, as `send_many` does. when_passed: called once that is done, or will not be any more."""
        self._next += 1
        if when_passed is not None:
            self._when_passed[self._next] = when_passed
        if self.link is not self._own.present():
            self.go_on()
        if self.link is not self._own.present():  # the old one still has some of ours to pass on
            delivery = Delivery()
            delivery.outlets.append(self)
            self.line[delivery] = (len(name), self._next, name + message, counts)
            return delivery
        return send_many(((self, self._next),), name + message, counts, len(name))

    def send(self, order: int, topic: int, body: bytes, counts: Counts) -> None:
        """order: of the body's first bytes, how many are the topic's name. topic: the message's number here."""
        self.credit -= 1
        self._sent_off[topic] = (order, topic, body, counts)
        self.connection.send(_PASS_ON, order, 0, 0, body)

    def taken(self, count: int) -> bool:
        """The first so many have been passed on. False if so many were not sent."""
        if count > len(self._sent_off):
            return False
        for number in list(self._sent_off)[:count]:
            del self._sent_off[number]
            self._end(number)
        self.credit += count
        self.go_on()
        return True

    def go_on(self) -> None:
        """Who waits may go, as far as there is credit; to the successor once the old one has passed on what it was sent."""
        present = self._own.present()
        if self.link is not present:
            if self._sent_off:
                return
            self.link = present
            self.connection = present.connection
        super().go_on()

    def take_back(self) -> list[Passed]:
        """The peer's incarnation has left, and passes on no more: all that it has not, in order. Nobody waits any more."""
        taken = [*self._sent_off.values(), *self.line.values()]
        line, self.line = self.line, {}
        self._sent_off = {}
        self.credit = self.limit
        for delivery in line:
            delivery.left(self)
        return taken

    def send_anew(self, messages: Iterable[Passed]) -> None:
        """What was taken back, to the successor."""
        for order, number, body, counts in messages:
            if self.is_open():
                send_many(((self, number),), body, counts, order)
            else:
                counts.dropped += 1
                self._end(number)

    def passed(self, number: int) -> None:
        """What was taken back has gone another way."""
        self._end(number)

    def lose(self) -> None:
        """The incarnation that the messages go to is gone."""
        lost, self._sent_off = self._sent_off, {}
        self.credit = self.limit
        for number, (_, _, _, counts) in lost.items():
            counts.dropped += 1
            self._end(number)
        if self.is_open():
            self.go_on()
        else:
            line, self.line = self.line, {}
            for delivery, (_, number, _, counts) in line.items():
                counts.dropped += 1
                self._end(number)
                delivery.left(self)

    def _end(self, number: int) -> None:
        when_passed = self._when_passed.pop(number, None)
        if when_passed is not None:
            when_passed()
