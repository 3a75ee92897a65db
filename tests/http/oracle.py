"""h11 says what a stream of requests is, by rules written down apart from ours; and where another verdict of ours is right.

h11 takes more than RFC 9112 has a server take, on purpose, and so do we, in other places. A difference is one of three kinds,
at the first request about which the two differ:

    stricter    we refuse what h11 takes. It costs a client that is wrong its request.
    laxer       we take what h11 refuses.
    otherwise   both take it, and have understood another thing. That is what smuggling is made of: there is no reason for it.

Each difference must have a reason of its kind from the tables, which looks at the bytes of that request.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import h11
import msgspec

from tests.http.streams import Outcome
from tests.http.wire import Seen

Says = Callable[[bytes], object]


class Theirs(msgspec.Struct, frozen=True):
    """What h11 makes of a stream. starts: where each request begins that it has understood, and the one that it has not.
    heads: how many heads it has understood."""

    outcome: Outcome
    starts: tuple[int, ...]
    heads: int


def ask_h11(data: bytes) -> Theirs:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65_536)
    connection.receive_data(data)
    seen: list[Seen] = []
    starts = [0]
    request: h11.Request | None = None
    heads = 0
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return Theirs(Outcome(tuple(seen), True), tuple(starts), heads)
        if isinstance(event, h11.Request):
            request, body = event, b""
            heads += 1
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            seen.append(_as_seen(request, body))
            connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            starts.append(len(data) - len(connection.trailing_data[0]))
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return Theirs(Outcome(tuple(seen), True), tuple(starts), heads)
            connection.start_next_cycle()
        else:
            return Theirs(Outcome(tuple(seen), False), tuple(starts), heads)


def _as_seen(request: h11.Request, body: bytes) -> Seen:
    """As an application of ours would: an absolute target is split, the fragment dropped."""
    target, headers = bytes(request.target), [(bytes(name), bytes(value)) for name, value in request.headers]
    absolute = re.match(rb"[A-Za-z][A-Za-z0-9+\-.]*://([^/?#]*)", target)
    if absolute:
        target = target[absolute.end() :]
        target = target if target.startswith(b"/") else b"/" + target
        headers = [(b"host", absolute[1]), *(header for header in headers if header[0] != b"host")]
    target = target.partition(b"#")[0]
    if target.endswith(b"?"):
        target = target[:-1]
    return Seen(request.method.decode(), target, tuple(headers), body)


class Difference(msgspec.Struct, frozen=True):
    """kind: of the three. reason: why it is right; None: for no reason that is known. data: the request, and what follows."""

    kind: str
    reason: str | None
    data: bytes


def compare(data: bytes, ours: Outcome, theirs: Theirs) -> Difference | None:
    """The first difference; None if there is none."""
    at = 0
    for mine, other in zip(ours.seen, theirs.outcome.seen, strict=False):
        if _sorted(mine) != _sorted(other):
            return _difference("otherwise", data, theirs.starts[at])
        at += 1
    if at < len(theirs.outcome.seen):
        return _difference("stricter", data, theirs.starts[at])
    if at < len(ours.seen):
        return _difference("laxer", data, theirs.starts[at])
    if ours.ends != theirs.outcome.ends:
        return _difference("stricter" if ours.ends else "laxer", data, theirs.starts[min(at, len(theirs.starts) - 1)])
    return None


def _sorted(seen: Seen) -> tuple[str, bytes, list[tuple[bytes, bytes]], bytes | None]:
    return seen.method, seen.target, [header for header in seen.headers if header[0] != b"upgrade"], seen.body


def _difference(kind: str, data: bytes, start: int) -> Difference:
    rest = data[start:]
    reason = next((reason for reason, says in REASONS[kind].items() if says(rest)), None)
    return Difference(kind, reason, rest)


REASONS: dict[str, dict[str, Says]] = {"stricter": {}, "laxer": {}, "otherwise": {}}
