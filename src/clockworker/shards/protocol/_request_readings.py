"""What is known of a shard's HTTP requests, by queue and route, as a part of its reading. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from clockworker.executor import DurationStats
from clockworker.shards.protocol._figures import Family, Section, counter, gauge

MAX_ROUTES = 64
ROUTE_BYTES = 128  # of a route's name; a longer one is cut
OTHER = "other"  # the name of what matches no route, and of routes beyond the first 64

_REQUESTS = Family(
    "http_requests",
    "HTTP requests that are done, by the first digit of their status; 0: the client had left before there was one.",
    "status",
)


class RouteReading(Section, frozen=True):
    """The HTTP requests of one route in one queue.

    status_0 to status_5: by the first digit of what was sent; 0: nothing was. time: from the request's last byte to the
    response's last. refused: with 503, because as many waited as may; they are among the statuses, too.
    """

    status_0: Annotated[int, counter(_REQUESTS, "0")] = 0
    status_1: Annotated[int, counter(_REQUESTS, "1")] = 0
    status_2: Annotated[int, counter(_REQUESTS, "2")] = 0
    status_3: Annotated[int, counter(_REQUESTS, "3")] = 0
    status_4: Annotated[int, counter(_REQUESTS, "4")] = 0
    status_5: Annotated[int, counter(_REQUESTS, "5")] = 0
    refused: Annotated[
        int, counter("http_refused", "HTTP requests refused with 503: as many as may already waited for their route.")
    ] = 0
    running: Annotated[int, gauge()] = 0
    waiting: Annotated[int, gauge("http_requests_waiting", "HTTP requests that wait for their route's limit.")] = 0
    websockets: Annotated[int, gauge("websockets_open", "WebSockets that are open.")] = 0
    time: Annotated[
        DurationStats,
        counter("http_request_seconds", "From the last byte of an HTTP request to the last byte of its response."),
    ] = DurationStats()

    @property
    def statuses(self) -> tuple[int, ...]:
        """By the first digit, from 0 to 5."""
        return self.status_0, self.status_1, self.status_2, self.status_3, self.status_4, self.status_5


class Requests(msgspec.Struct, frozen=True):
    """What the HTTP servers of a shard have done, by queue and route.

    At most `MAX_ROUTES` pairs of a queue and a route have names; what is beyond is `OTHER` in its queue, and beyond as many
    queues, in the first of them.
    """

    by_queue: dict[str, dict[str, RouteReading]] = {}

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, RouteReading]]) -> Requests:
        """Of queues, routes and their figures. Those of one queue and route are added up."""
        return _added_up(_with_others(rows))

    def rows(self) -> Iterator[tuple[str, str, RouteReading]]:
        """Queue, route and figures of each."""
        for queue, routes in self.by_queue.items():
            for route, reading in routes.items():
                yield queue, route, reading

    def get(self, queue: str, route: str) -> RouteReading:
        return self.by_queue.get(queue, _NO_ROUTES).get(route, _NO_ROUTE)

    def then(self, later: Requests) -> Requests:
        """A route that the later incarnation does not have keeps what it has counted, in its name as long as there is room for
        names."""
        if not self.by_queue:
            return later
        rows = [(queue, route, self.get(queue, route).then(now)) for queue, route, now in later.rows()]
        for queue, route, before in self.rows():
            if route not in later.by_queue.get(queue, _NO_ROUTES):
                rows.append((queue, route, before.then(_NO_ROUTE)))
        return Requests.of(rows)

    def since(self, earlier: Requests) -> Requests:
        """What has come since. A route that had no name of its own then was one of the others."""
        before = _added_up(
            (queue, route if route in self.by_queue.get(queue, _NO_ROUTES) else OTHER, reading)
            for queue, route, reading in earlier.rows()
        )
        return Requests(
            {
                queue: {route: now.since(before.get(queue, route)) for route, now in routes.items()}
                for queue, routes in self.by_queue.items()
            }
        )

    @classmethod
    def total(cls, parts: Iterable[Requests]) -> Requests:
        """With all their names: those of two versions, and which of them are others, would change with their order."""
        parts = [part for part in parts if part.by_queue]
        return parts[0] if len(parts) == 1 else _added_up(row for part in parts for row in part.rows())


def _with_others(rows: Iterable[tuple[str, str, RouteReading]]) -> Iterator[tuple[str, str, RouteReading]]:
    named: set[tuple[str, str]] = set()
    others: list[str] = []
    for queue, route, reading in rows:
        if route != OTHER and ((queue, route) in named or len(named) < MAX_ROUTES):
            named.add((queue, route))
            yield queue, route, reading
            continue
        if queue not in others and len(others) < MAX_ROUTES:
            others.append(queue)
        yield queue if queue in others else others[0], OTHER, reading


def _added_up(rows: Iterable[tuple[str, str, RouteReading]]) -> Requests:
    found: dict[tuple[str, str], list[RouteReading]] = {}
    for queue, route, reading in rows:
        found.setdefault((queue, route), []).append(reading)
    by_queue: dict[str, dict[str, RouteReading]] = {}
    for (queue, route), readings in found.items():
        whole = readings[0] if len(readings) == 1 else RouteReading.total(readings)
        by_queue.setdefault(queue, {})[route] = whole
    return Requests(by_queue)


_NO_ROUTE = RouteReading()
_NO_ROUTES: dict[str, RouteReading] = {}
