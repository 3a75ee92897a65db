"""The live page: what the metrics server shows to people, at `/`.

It is a document, a style sheet and a script, as they stand in `live/`, and nothing from elsewhere. The script asks for
`/stats/summary` once a second, while somebody looks: `/stats` without what is counted since the start, and without each shard's
queues, whose histograms are most of it. So an answer of 64 shards has some 50 KB instead of a megabyte, and it is made at most
twice a second, however many look: asking costs the supervisor what one `clockworker-top` does. `/stats/rings` is the traffic of
each pair of shards, which no page of metrics has.

Names of queues, routes, groups and topics are the application's, or even its clients'. The script writes them as text, and the
document's policy (CSP) lets no other script run, whatever they contain.

Rejected: server-sent events. They would save the requests, a few hundred bytes a second, and cost the supervisor a writer for
each connection, which must not stand still when its reader does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from clockworker.shards.observe._http import Answer, Page
from clockworker.shards.observe._view import ServerStats
from clockworker.shards.protocol._reading import RingReading

# How long an answer is as good as a new one.
FRESH_S = 0.5

_DIRECTORY = Path(__file__).with_name("live")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/live.css": ("live.css", "text/css; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/table.js": ("table.js", "text/javascript; charset=utf-8"),
    "/format.js": ("format.js", "text/javascript; charset=utf-8"),
    "/live.svg": ("live.svg", "image/svg+xml"),
}
_HEADERS = (
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-cache"),
)


def live_pages(
    stats: Callable[[], ServerStats],
    rings: Callable[[], list[list[RingReading]]],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Page]:
    """By path. rings: `rings()[i][j]` is what shard i says of its traffic with shard j; empty for one that is not there."""
    pages: dict[str, Page] = {path: _file(*file) for path, file in _FILES.items()}
    pages["/stats/summary"] = _fresh(lambda: summary(stats()), clock)
    pages["/stats/rings"] = _fresh(lambda: matrix(rings(), clock()), clock)
    return pages


def summary(stats: ServerStats) -> bytes:
    """JSON: `ServerStats` without its parts that grow with what has been counted."""
    whole = _without(stats, "shards", "total")
    whole["shards"] = [_without(shard, "queues", "since_start") for shard in stats.shards]
    whole["total"] = _without(stats.total, "since_start")
    return msgspec.json.encode(whole)


def matrix(rings: Sequence[Sequence[RingReading]], at_s: float) -> bytes:
    """JSON: how many frames each shard (by row) has sent to each, since both were there. at_s: of a clock that only grows."""
    return msgspec.json.encode({"at_s": at_s, "frames_sent": [[ring.frames_sent for ring in row] for row in rings]})


def _without(part: msgspec.Struct, *fields: str) -> dict[str, object]:
    return {name: getattr(part, name) for name in part.__struct_fields__ if name not in fields}


def _file(name: str, content_type: str) -> Page:
    read: list[Answer] = []  # once somebody asks for it

    def page(accept: str) -> Answer:
        if not read:
            read.append(Answer(200, content_type, (_DIRECTORY / name).read_bytes(), _HEADERS))
        return read[0]

    return page


def _fresh(make: Callable[[], bytes], clock: Callable[[], float]) -> Page:
    made: tuple[float, Answer] | None = None

    def page(accept: str) -> Answer:
        nonlocal made
        if made is None or clock() - made[0] >= FRESH_S:
            made = clock(), Answer(200, "application/json", make(), (("cache-control", "no-store"),))
        return made[1]

    return page
