"""A shard's sleep: the bell that ends it, and a look now and then by itself, should a bell ever not be rung.

What the look finds is a lost wake-up, and counted; it should find nothing (see `_doorbell_cy`). It comes within a second of
falling asleep, then after 4 more, then 16, then every 30: a shard that has slept for a minute is woken twice a minute, and uses
no CPU that anybody could measure. A wake-up that is lost in the first second of a sleep, where callers are most likely to wait
for it, is found within 1.5 s; one that is lost later, within 30.5 s at most, and about four times what the shard had slept.

The half second: a bell may be on its way. So a sleep is only suspected by the first look that finds news, and another, half a
second later, must find the same sleep, news, and still no bell.

Rejected: a look every second for ever (a tenth of a millisecond of each second of an idle machine, and it keeps the core from
its deeper sleep), none at all (a bug would hang for ever, and count as zero), and leaving it to senders, who cannot
know whether their frame waits for a bell or for a link that the other side has not connected yet.
"""

from __future__ import annotations

import asyncio
import contextvars
import os

from clockworker.ipc._traffic_cy import Traffic
from clockworker.ipc.calls._request_cy import logger

_FIRST_LOOK_S = 1.0
_GROWTH = 4
_SELDOM_S = 30.0
_SECOND_LOOK_S = 0.5


def next_delay_s(delay_s: float) -> float:
    """How long to wait after a look that has found nothing, and that was waited `delay_s` for."""
    return min(delay_s * _GROWTH, _SELDOM_S)


def next_look_at(now: float, delay_s: float) -> float:
    """When that is: at whole seconds, when other things are done too, so that a shard at rest wakes up once for all."""
    return (now + 0.05) // 1 + delay_s


class Sleep:
    """Watches over the sleep of the shard whose `traffic` it is. Owns the eventfd."""

    def __init__(self, traffic: Traffic, loop: asyncio.AbstractEventLoop, eventfd: int, shard_id: int) -> None:
        self._traffic = traffic
        self._doorbell = traffic.doorbell
        self._loop = loop
        self._eventfd = eventfd
        self._shard_id = shard_id
        self._suspected = 0  # the sleep that had news and no bell
        self.missed_wakeups = 0
        # In an empty context, as turns are taken that the core has asked for: what starts in them inherits nothing.
        contextvars.Context().run(loop.add_reader, eventfd, traffic.rung)
        self._look_after(_FIRST_LOOK_S)

    def fileno(self) -> int:
        """The eventfd; -1 once it is closed."""
        return self._eventfd

    def close(self) -> None:
        """Watch no longer."""
        self._timer.cancel()
        self._loop.remove_reader(self._eventfd)
        os.close(self._eventfd)
        self._eventfd = -1

    def look_soon(self) -> None:
        """A new sleep begins."""
        self._timer.cancel()
        self._look_after(_FIRST_LOOK_S)

    def _look_after(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._traffic.looks_seldom = delay_s > _FIRST_LOOK_S
        self._timer = self._loop.call_at(next_look_at(self._loop.time(), delay_s), self._look)

    def _look(self) -> None:
        doorbell = self._doorbell
        if doorbell.asleep() and not doorbell.has_news():
            self._look_after(next_delay_s(self._delay_s))
            return
        self._look_after(_FIRST_LOOK_S)
        if not doorbell.asleep():
            return
        if doorbell.answer():
            doorbell.wake()
            self._traffic.core.wake()
        elif self._suspected != doorbell.sleeps:
            self._suspected = doorbell.sleeps
            self._timer.cancel()
            self._timer = self._loop.call_later(_SECOND_LOOK_S, self._look)
        else:
            self.missed_wakeups += 1
            logger.error("shard %d slept on news: a wake-up was lost", self._shard_id)
            self._traffic.core.wake()
