"""gunicorn's raw requests, valid and invalid ones, given to Clockworker's connection: is each accepted, or refused?

    python -m tests.ecosystem.gunicorn_requests [NAME ...]

The requests are those of the installed version, fetched with its sdist and gone after the run (`_sdists`). The verdict on each
must be gunicorn's, but for those of TABLE, which says what it is instead and why that is right; there it must be that. Exit
status: 0 if it is so, 1 if not, 2 if they could not be fetched.

Most of them have no Host, for which all of HTTP/1.1 would be refused, and nothing said of what they are about: they are given
one. Where a limit is set for one of them, our option of that name is set. What is valid is compared: methods, targets, bodies.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from clockworker.shards.config._http import HttpConfig
from tests.ecosystem._sdists import NotFetched, fetch_sdist, installed_version
from tests.http.wire import Recorder, Seen, wire

ACCEPTED, REFUSED, INCOMPLETE = "accepted", "refused", "incomplete"

# Name of a request: our verdict, and why another than gunicorn's is right.
_CODINGS = (
    "of codings a body has chunked or none: another is answered with 501, or with 400 where chunked is not the last"
)
_TOKENS = "a method that is not registered is refused, by httptools"
_FOLDED = "what RFC 9112 wants refused, or made one line; gunicorn is told to take it"
_PROXY = "the PROXY protocol is not spoken"
_UNDERSCORE = "a name with an underscore is a name; that it may pass for another is a matter of WSGI's environment"
TABLE: dict[str, tuple[str, str]] = {
    "valid/013": (REFUSED, "spaces in a chunk's extensions, which nobody sends, are refused by httptools"),
    "valid/025": (REFUSED, _CODINGS),
    "valid/025_line": (REFUSED, _CODINGS),
    "valid/028": (REFUSED, "a space before a header's colon must be refused; gunicorn is told to take it"),
    "valid/029": (REFUSED, _CODINGS),
    "valid/030": (REFUSED, _CODINGS),
    "valid/031": (REFUSED, _TOKENS),
    "valid/031compat": (REFUSED, _TOKENS),
    "valid/031compat2": (REFUSED, _TOKENS),
    "valid/099": (INCOMPLETE, "its body is shorter than its Content-Length, which does not matter to their test"),
    "valid/compat_obs_fold": (REFUSED, _FOLDED),
    "valid/compat_obs_fold_huge": (REFUSED, _FOLDED),
    "valid/pp_01": (REFUSED, _PROXY),
    "valid/pp_02": (REFUSED, _PROXY),
    "valid/pp_04": (REFUSED, _PROXY),
    "valid/pp_05": (REFUSED, _PROXY),
    "valid/rfc9112_smuggle_gzip_chunked_01": (REFUSED, _CODINGS),
    "valid/rfc9112_smuggle_te_identity_chunked_01": (REFUSED, _CODINGS),
    "valid/rfc9112_target_absolute_userinfo_01": (
        REFUSED,
        "user and password in a target are an error (RFC 9110, 4.2.4)",
    ),
    "valid/rfc9112_target_authority_connect_01": (REFUSED, "CONNECT is for proxies"),
    "valid/rfc9112_target_authority_ipv6_01": (REFUSED, "CONNECT is for proxies"),
    "invalid/001": (INCOMPLETE, "there may be more to come; it is ended by the limit of its time"),
    "invalid/019": (ACCEPTED, "only gunicorn's own options make these headers a contradiction"),
    "invalid/040": (ACCEPTED, _UNDERSCORE),
    "invalid/041": (ACCEPTED, "what two Content-Types mean is the application's to say: no length depends on them"),
    "invalid/chunked_07": (ACCEPTED, _UNDERSCORE),
    "invalid/rfc9110_trailer_forbidden_host_01": (ACCEPTED, "all trailers are dropped, whatever they are called"),
    "invalid/rfc9112_chunked_missing_final_crlf_01": (INCOMPLETE, "there may be more to come"),
    "invalid/rfc9112_leading_crlf_02": (
        ACCEPTED,
        "empty lines before a request should be ignored (RFC 9112, 2.2), one or two",
    ),
}

_OPTIONS = {"limit_request_line", "limit_request_fields", "limit_request_field_size"}
_REQUEST_LINE = re.compile(rb"^[^\r\n]+ HTTP/1\.1\r\n", re.M)
_HOST = re.compile(rb"^host[ \t]*:", re.M | re.I)
_ESCAPES = {b"\\r\\n": b"\r\n", b"\\0": b"\0", b"\\n": b"\n", b"\\t": b"\t"}


class Corpus(msgspec.Struct, frozen=True):
    """One of their requests, or several of one connection. expected: (method, target, body) of each, where they are valid.
    options: of gunicorn, that are set for it."""

    name: str
    data: bytes
    options: dict[str, Any]
    expected: list[tuple[str, str, bytes]]


class _Names(dict[str, Any]):
    """Names that their files use, of things that they import: none is needed here."""

    def __missing__(self, name: str) -> Any:
        return None


class _Options:
    """In the place of their configuration."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __call__(self) -> _Options:
        return self

    def set(self, name: str, value: Any) -> None:
        self.values[name] = value


def read(folder: Path) -> Iterator[Corpus]:
    """Those of one folder. Each is a file of bytes with escapes, in lines that mean nothing, and one of Python beside it."""
    for file in sorted(folder.glob("*.http")):
        data = file.read_bytes().replace(b"\n", b"")
        for escape, meant in _ESCAPES.items():
            data = data.replace(escape, meant)
        data = re.sub(rb"\\x([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), data)
        source = ast.parse(file.with_suffix(".py").read_text())
        source.body = [node for node in source.body if not isinstance(node, ast.Import | ast.ImportFrom)]
        options = _Options()
        names = _Names(uri=str, cfg=options, Config=options)
        exec(compile(source, file.name, "exec"), {"__builtins__": {}}, names)  # data, in Python's notation
        given = names["request"]
        requests = given if isinstance(given, list) else [given] if isinstance(given, Mapping) else []
        expected = [(each["method"], each["uri"], each["body"] or b"") for each in requests]
        yield Corpus(f"{folder.name}/{file.stem}", data, options.values, expected)


def with_host(corpus: Corpus) -> bytes:
    """With one in each head of HTTP/1.1 that has none."""
    data = corpus.data
    if any(b" HTTP/1.1" in body for *_, body in corpus.expected):
        return data  # in a body, whose length is known

    def completed(match: re.Match[bytes]) -> bytes:
        head = data[match.end() :].partition(b"\r\n\r\n")[0]
        return match[0] if _HOST.search(head) else match[0] + b"Host: localhost\r\n"

    return _REQUEST_LINE.sub(completed, data)


async def verdict(corpus: Corpus, config: HttpConfig) -> tuple[str, list[Seen], list[int]]:
    """What became of it: the verdict, what the application has seen, the statuses of the responses."""
    application = Recorder()
    async with wire(application, config) as server:
        connection = server.connect()
        connection.feed(with_host(corpus))
        for _ in range(20):  # no request that is still incomplete comes to an end; the others do in a few turns
            await asyncio.sleep(0)
            connection.flow()
        statuses, is_over = connection.statuses, connection.is_over
        connection.lose()
        await server.idle()
    whole = all(seen.body is not None for seen in application.seen)
    if any(status >= 400 for status in statuses):
        return REFUSED, application.seen, statuses
    if is_over and not statuses:
        return REFUSED, application.seen, statuses
    return ACCEPTED if application.seen and whole else INCOMPLETE, application.seen, statuses


def differs(corpus: Corpus, seen: list[Seen]) -> str:
    """How what has been seen differs from what was expected; empty if it does not."""
    found = [(each.method, each.target.decode("latin-1"), each.body) for each in seen]
    wanted = [(method, re.sub(r"^\w+://[^/]*|#.*", "", target), body) for method, target, body in corpus.expected]
    return "" if found == wanted else f"the application has seen {str(found)[:300]}, and {str(wanted)[:300]} was sent"


async def compare(folder: Path, names: list[str]) -> tuple[list[str], dict[str, int]]:
    """A line for each verdict that is another than it should be; and how often there was which."""
    found: list[str] = []
    counts: dict[str, int] = {}
    for kind, theirs in (("valid", ACCEPTED), ("invalid", REFUSED)):
        for corpus in read(folder / kind):
            if names and corpus.name not in names:
                continue
            options = {name: value for name, value in corpus.options.items() if name in _OPTIONS and value}
            config = HttpConfig(date_header=False, server_header=False, **options)
            ours, seen, statuses = await verdict(corpus, config)
            wanted = TABLE[corpus.name][0] if corpus.name in TABLE else theirs
            key = f"{kind} {ours}"
            counts[key] = counts.get(key, 0) + 1
            if names:
                print(corpus.name, ours, statuses, seen, corpus.data[:300], sep="\n  ")
            if ours != wanted:
                found.append(f"{corpus.name} is {ours} {statuses}, and should be {wanted}: {corpus.data[:200]!r}")
            elif corpus.name in TABLE and ours == theirs:
                found.append(f"{corpus.name} is in the table, but its verdict is gunicorn's")
            elif ours == theirs == ACCEPTED and (what := differs(corpus, seen)):
                found.append(f"{corpus.name}: {what}")
    return found, counts


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.ecosystem.gunicorn_requests", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as valid/001, shown in full; all unless given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            folder = fetch_sdist("gunicorn", Path(directory))
        except NotFetched as error:
            print(error, file=sys.stderr)
            return 2
        found, counts = asyncio.run(compare(folder / "tests" / "requests", options.names))
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(*found, f"gunicorn {installed_version('gunicorn')}'s requests: {said}", sep="\n")
    if not options.names:
        print(*(f"  {name} is {ours}: {reason}" for name, (ours, reason) in TABLE.items()), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
