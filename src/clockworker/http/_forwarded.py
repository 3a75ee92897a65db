"""`Forwarded` (RFC 7239): what X-Forwarded-For and -Proto say, in one header, an element for each proxy. Pure.

    Forwarded: for=192.0.2.60;proto=https;by=203.0.113.43, for="[2001:db8::1]:4711"

Each proxy appends an element, and a client can send any text before them, quotes that are never closed among it. So elements
are read from the right, where those of the proxies that are trusted stand, and what is left of the first that is not trusted is
not read at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_PAIR = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[!#$%&\'*+.^_`|~0-9A-Za-z:-]*)\s*(?:;|$)')
_ESCAPED = re.compile(r"\\(.)")


class Element(NamedTuple):
    """node: of `for=`, without quotes; the whole text of what is no element, which names nobody that is trusted. proto: if it
    is said."""

    node: str
    proto: str | None


def elements_from_the_right(value: str) -> Iterator[Element]:
    """Of a header `Forwarded`, the last first: the nearest proxy has added that. A comma in quotes parts nothing."""
    parts = value.split(",")
    while parts:
        pieces = [parts.pop()]
        quotes = pieces[0].count('"')
        while parts and quotes % 2:  # a comma in quotes
            pieces.append(parts.pop())
            quotes += pieces[-1].count('"')
        if text := ",".join(reversed(pieces)).strip():
            yield _element(text)


def _element(text: str) -> Element:
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            return Element(text, None)
        name, value = pair[1].lower(), pair[2]
        if name in found:
            return Element(text, None)
        found[name] = _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value
        at = pair.end()
    return Element(found.get("for", "unknown"), found.get("proto"))
