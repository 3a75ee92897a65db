"""Which route is a request's: the first that matches, found without trying one after the other. Pure.

Routes are put into a table for each method and host that any of them names, and one for all others. A table holds only routes
that such a request may have, so nothing but the path is left to compare. Exact paths are found in a dictionary, in which the
patterns that stand before them have been taken into account. Patterns are in buckets, by the segments that they begin with. A
bucket has one regular expression for what follows, in which each pattern is an alternative, and one capturing group: the group
that has matched says which. At some slashes of a path its beginning is looked up among the buckets. Clients choose neither how
many tables there are, nor at how many slashes is looked, nor how long a search is (`_patterns`).

Rejected: one regular expression of all patterns. It tries them one by one, so that with a hundred endpoints of one beginning a
search takes 4 times as long as with buckets, though with a few it takes half: then all are in one bucket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from clockworker.shards.config._http import Route
from clockworker.shards.config._patterns import Pattern, parse_pattern

FEW = 8  # patterns that are in one bucket

_Match: TypeAlias = Callable[[str, int], re.Match[str] | None]
# The first pattern's number, a search among all, and their numbers.
_Bucket: TypeAlias = tuple[int, _Match, tuple[int, ...]]
# Of the requests of one method and host: routes of exact paths; the only bucket, if all patterns are in it; whether there are
# buckets for beginnings with one slash, two, and so on; and these.
_Table: TypeAlias = tuple[dict[str, int], _Bucket | None, tuple[bool, ...], dict[str, _Bucket]]


class RouteTable:
    """routes: in their order. Their numbers are those in the sequence. uses_host: whether any is for one host only."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._patterns = [parse_pattern(route.path) for route in routes]
        # GET includes HEAD, in a route's methods.
        self._methods = [{*route.methods, "HEAD"} if "GET" in route.methods else {*route.methods} for route in routes]
        self._values: dict[tuple[int, str], _Match] = {}
        self._compiled: dict[str, _Match] = {}  # most are in the tables of several methods
        hosts = {route.host for route in routes if route.host is not None}
        methods = set().union(*self._methods)
        self.uses_host = bool(hosts)
        self._of_others = self._tables(None, methods)
        self._of_host = {host: self._tables(host, methods) for host in hosts}

    def find(self, method: str, path: str, host: str) -> int:
        """The number of the first route that matches, or -1. path: decoded. host: as the header has it, or ""."""
        by_method, table = self._of_others
        if self.uses_host:
            by_method, table = self._of_host.get(_without_port(host), self._of_others)
        table = by_method.get(method, table)
        number = table[0].get(path)
        return _find_pattern(path, table) if number is None else number

    def value(self, number: int, path: str, name: str) -> str:
        """What `{name}` of a route's path is in a path that it matches."""
        match = self._values.get((number, name))
        if match is None:
            whole = re.compile(self._patterns[number].with_groups or "", re.DOTALL)
            match = self._values[number, name] = whole.fullmatch
        found = match(path, 0)
        return "" if found is None else found[name]

    def _tables(self, host: str | None, methods: set[str]) -> tuple[dict[str, _Table], _Table]:
        return {method: self._table(method, host) for method in methods}, self._table(None, host)

    def _table(self, method: str | None, host: str | None) -> _Table:
        """Of requests of this method and host; None: of one that no route names."""
        exact: dict[str, int] = {}
        by_prefix: dict[str, list[tuple[int, Pattern]]] = {}
        for number, (route, pattern) in enumerate(zip(self._routes, self._patterns, strict=True)):
            if (not route.methods or method in self._methods[number]) and route.host in (None, host):
                if pattern.regex is None:
                    exact.setdefault(route.path, number)
                else:
                    by_prefix.setdefault(pattern.prefix, []).append((number, pattern))
        only = None
        if sum(map(len, by_prefix.values())) <= FEW:
            if by_prefix:
                only = self._bucket("", sorted(each for patterns in by_prefix.values() for each in patterns))
            by_prefix.clear()
        buckets = {prefix: self._bucket(prefix, patterns) for prefix, patterns in by_prefix.items()}
        slashes = {prefix.count("/") for prefix in buckets}
        looks = tuple(count in slashes for count in range(1, max(slashes, default=0) + 1))
        table = exact, only, looks, buckets
        for path, number in exact.items():
            if 0 <= (earlier := _find_pattern(path, table)) < number:
                exact[path] = earlier
        return table

    def _bucket(self, prefix: str, patterns: Sequence[tuple[int, Pattern]]) -> _Bucket:
        numbers = tuple(number for number, _ in patterns)
        text = "|".join(f"({re.escape(each.prefix.removeprefix(prefix))}{each.regex})" for _, each in patterns)
        if text not in self._compiled:
            self._compiled[text] = re.compile(text, re.DOTALL).fullmatch
        return numbers[0], self._compiled[text], numbers


def _find_pattern(path: str, table: _Table) -> int:
    """The number of the first pattern that matches, or -1."""
    _, only, looks, buckets = table
    if only is not None:
        _, match, numbers = only
        found = match(path, 0)
        return -1 if found is None else numbers[found.lastindex - 1]  # type: ignore[operator]  # one group has matched
    best, at = -1, 0
    for look in looks:
        if look and (bucket := buckets.get(path[: at + 1])) is not None:
            first, match, numbers = bucket
            if (best < 0 or first < best) and (found := match(path, at + 1)) is not None:
                number = numbers[found.lastindex - 1]  # type: ignore[operator]
                if best < 0 or number < best:
                    best = number
        at = path.find("/", at + 1)
        if at < 0:
            break
    return best


def _without_port(host: str) -> str:
    """In small letters, and without the dot at the end of a full name."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].rstrip(".").lower()
