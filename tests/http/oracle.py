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

Says = Callable[["Raw"], object]


class Theirs(msgspec.Struct, frozen=True):
    """What h11 makes of a stream. starts: where each request begins that it has understood, and the one that it has not.
    heads: how many heads it has understood."""

    outcome: Outcome
    starts: tuple[int, ...]
    heads: int


def ask_h11(data: bytes) -> Theirs:
    """Two things of which h11 takes less than it might are given to it in parts: empty lines before a request, which a server
    should ignore (RFC 9112, 2.2), and what follows on a request of HTTP/1.0 that wants its connection kept."""
    connection = _new_connection(data)
    seen: list[Seen] = []
    starts = [0]
    request: h11.Request | None = None
    heads = 0
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            rest = data[starts[-1] :]
            if heads == len(seen) and rest[:1] in (b"\r", b"\n"):
                rest = rest.lstrip(b"\r\n")
                starts[-1] = len(data) - len(rest)
                connection = _new_connection(rest)
                continue
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
                if _is_kept_of_10(request):
                    connection = _new_connection(data[starts[-1] :])
                    continue
                return Theirs(Outcome(tuple(seen), True), tuple(starts), heads)
            connection.start_next_cycle()
        else:
            return Theirs(Outcome(tuple(seen), False), tuple(starts), heads)


def _is_kept_of_10(request: h11.Request) -> bool:
    """Whether its client asks for what HTTP/1.0 does not have, and h11 does not give."""
    said = b",".join(value for name, value in request.headers if name == b"connection").lower()
    tokens = {token.strip() for token in said.split(b",")}
    return request.http_version == b"1.0" and b"keep-alive" in tokens and b"close" not in tokens


def _new_connection(data: bytes) -> h11.Connection:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65_536)
    connection.receive_data(data)
    return connection


def _as_seen(request: h11.Request, body: bytes) -> Seen:
    """As an application of ours would: an absolute target is split, the fragment dropped."""
    target, headers = bytes(request.target), [(bytes(name), bytes(value)) for name, value in request.headers]
    absolute = re.match(rb"[A-Za-z][A-Za-z0-9+\-.]*://([^/?#]*)", target)
    if absolute:
        target = target[absolute.end() :]
        target = target if target.startswith(b"/") else b"/" + target
        headers = [(b"host", absolute[1]), *(header for header in headers if header[0] != b"host")]
    path, _, query = target.partition(b"#")[0].partition(b"?")
    target = path + b"?" + query if query else path
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
    headers = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in seen.headers]
    return seen.method, seen.target, [header for header in headers if header[0] != b"upgrade"], seen.body


def _difference(kind: str, data: bytes, start: int) -> Difference:
    rest = data[start:]
    request = Raw(data[:start], rest)
    reason = next((reason for reason, says in REASONS[kind].items() if says(request)), None)
    return Difference(kind, reason, rest)


class Raw:
    """The first request of some bytes, as lenient as can be. line: its first one; fields: the others of its head; body: all
    that follows; before: what came before it."""

    def __init__(self, before: bytes, data: bytes) -> None:
        self.before = before
        blank = re.search(rb"\n\r?\n", data)
        self.is_complete = blank is not None
        self.head = data if blank is None else data[: blank.end()]
        self.body = b"" if blank is None else data[blank.end() :]
        self.line, *self.fields = re.split(rb"\r?\n", self.head)
        self.method, _, rest = self.line.partition(b" ")
        self.target, _, self.version = rest.rpartition(b" ")

    def values(self, name: bytes) -> list[bytes]:
        pairs = [field.partition(b":") for field in self.fields]
        return [value.strip(b" \t") for given, _, value in pairs if given.strip().lower() == name]


# Of RFC 9110, and of others that llhttp knows.
_METHODS = frozenset(
    b"DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND "
    b"ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK SOURCE "
    b"QUERY".split()
)
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_TARGET = re.compile(rb"(?:[A-Za-z]+://(?P<authority>[^/?#]*))?(?:[/?][!-~]*)?")


def _has_bad_target(request: Raw) -> bool:
    if request.target == b"*":
        return request.method != b"OPTIONS"
    match = _TARGET.fullmatch(request.target)
    if match is None or not request.target:
        return True
    authority = match["authority"]
    return request.target[:1] != b"/" if authority is None else _AUTHORITY.fullmatch(authority) is None


def _has_bad_host(request: Raw) -> bool:
    return any(host and _AUTHORITY.fullmatch(host) is None for host in request.values(b"host"))


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"[\t !#-\[\]-~\x80-\xff]*"))?)*)\r\n'
)
_TRAILER = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*\r\n")
_TAB = re.compile(rb"\ntransfer-encoding:[ \t]*chunked[ \t]*\t[ \t]*\r", re.I)
_FIELDS = rb"(?:[^\r\n]+\r\n)*"
_LENGTH = re.compile(rb"(?:\A|\n)0+\r\n" + _FIELDS + rb"(?:content-length|transfer-encoding):", re.I)
_CLOSE = re.compile(rb"(?:\A|\n)0+\r\n" + _FIELDS + rb"connection:[ \t]*close[ \t]*\r\n" + _FIELDS + rb"\r\n\Z", re.I)


def _has_bad_chunks(request: Raw) -> bool:
    """By the letter of RFC 9112, 7.1. What is only not whole yet is not bad, but for what can become nothing else."""
    body = request.body
    while (match := _CHUNK.match(body)) is not None:
        size = int(match[1], 16)
        if size == 0:
            body = body[match.end() :]
            while (trailer := _TRAILER.match(body)) is not None:
                body = body[trailer.end() :]
            return not body.startswith(b"\r\n") and body not in (b"", b"\r")
        data = body[match.end() :]
        if len(data) < size + 2:
            return data[size:] not in (b"", b"\r")
        if data[size : size + 2] != b"\r\n":
            return True
        body = data[size + 2 :]
    return body != b""


_STRICTER: dict[str, Says] = {
    "what cannot become a head is refused before it ends": lambda request: not request.is_complete,
    "a method that is not registered": lambda request: request.method not in _METHODS,
    "CONNECT is for proxies": lambda request: request.method == b"CONNECT",
    "a target that has none of the forms, or none that its method has": _has_bad_target,
    "a version that is not spoken": lambda request: request.version not in (b"HTTP/1.0", b"HTTP/1.1"),
    "a line that ends without CR": lambda request: re.search(rb"(?<!\r)\n", request.head),
    "a line that goes on in the next": lambda request: re.search(rb"\n[ \t]", request.head),
    "a Host that is none": _has_bad_host,
    "two lengths": lambda request: len(request.values(b"content-length") + request.values(b"transfer-encoding")) > 1,
    "a list of lengths": lambda request: any(b"," in value for value in request.values(b"content-length")),
    "a control character": lambda request: re.search(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)", request.head),
    "a tab behind chunked": lambda request: _TAB.search(request.head),
    "what is beside the data of chunks": lambda request: (
        request.values(b"transfer-encoding") and _has_bad_chunks(request)
    ),
    "a length among the trailers": lambda request: (
        request.values(b"transfer-encoding") and _LENGTH.search(request.body)
    ),
    "a trailer before it, saying that nothing follows": lambda request: _CLOSE.search(request.before),
    "chunks in HTTP/1.0": lambda request: request.version == b"HTTP/1.0" and request.values(b"transfer-encoding"),
}
_LAXER: dict[str, Says] = {
    "several spaces in the first line": lambda request: b"  " in request.line,
}
REASONS: dict[str, dict[str, Says]] = {"stricter": _STRICTER, "laxer": _LAXER, "otherwise": {}}
