"""Which route is a request's: the first that matches, found without trying one after the other. Pure.

Routes are compiled into a table for each method and host that any of them names, and one for all others. A table holds only
routes that such a request may have, so nothing but the path is left to compare. Exact paths are found in a dictionary, in which
the patterns that stand before them have been taken into account. The rest is found by one regular expression of all patterns,
each an alternative that is one capturing group: the group that has matched says which. Clients choose neither how many tables
there are nor how long one is searched (`_patterns`).

Rejected: a tree of segments. It is walked in Python, and in tables of a few dozen patterns one regular expression is faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from clockworker.shards.config._http import Route
from clockworker.shards.config._patterns import parse_pattern

# Of one method and host: the routes of exact paths, and a search among the others, with the route of each of its groups.
_Match = Callable[[str], re.Match[str] | None]
_Table = tuple[dict[str, int], _Match | None, tuple[int, ...]]


class RouteTable:
    """routes: in their order. Their numbers are those in the sequence. uses_host: whether any is for one host only."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._patterns = [parse_pattern(route.path) for route in routes]
        self._values: dict[tuple[int, str], _Match] = {}
        # GET includes HEAD, in a route's methods.
        self._methods = [{*route.methods, "HEAD"} if "GET" in route.methods else {*route.methods} for route in routes]
        self._routes = routes
        hosts = {route.host for route in routes if route.host is not None}
        methods = set().union(*self._methods)
        self._of_others = self._tables(None, methods)
        self.uses_host = bool(hosts)
        self._of_host = {host: self._tables(host, methods) for host in hosts}

    def find(self, method: str, path: str, host: str) -> int:
        """The number of the first route that matches, or -1. path: decoded. host: as the header has it, or ""."""
        tables = self._of_others
        if self.uses_host:
            tables = self._of_host.get(_without_port(host), tables)
        by_method, table = tables
        exact, match, numbers = by_method.get(method, table)
        number = exact.get(path)
        if number is not None:
            return number
        if match is None or (found := match(path)) is None:
            return -1
        return numbers[found.lastindex - 1]  # type: ignore[operator]  # one group has matched

    def value(self, number: int, path: str, name: str) -> str:
        """What `{name}` of a route's path is in a path that it matches."""
        match = self._values.get((number, name))
        if match is None:
            match = self._values[number, name] = re.compile(
                self._patterns[number].with_groups or "", re.DOTALL
            ).fullmatch
        found = match(path)
        return "" if found is None else found[name]

    def _tables(self, host: str | None, methods: set[str]) -> tuple[dict[str, _Table], _Table]:
        return {method: self._table(method, host) for method in methods}, self._table(None, host)

    def _table(self, method: str | None, host: str | None) -> _Table:
        """Of requests of this method and host; None: of one that no route names."""
        exact: dict[str, int] = {}
        patterns: dict[int, str] = {}
        for number, route in enumerate(self._routes):
            if (not route.methods or method in self._methods[number]) and route.host in (None, host):
                if (pattern := self._patterns[number].regex) is None:
                    exact.setdefault(route.path, number)
                else:
                    patterns[number] = pattern
        if not patterns:
            return exact, None, ()
        numbers = tuple(patterns)
        match = re.compile("|".join(f"({pattern})" for pattern in patterns.values()), re.DOTALL).fullmatch
        for path, number in exact.items():
            if (found := match(path)) is not None:
                exact[path] = min(number, numbers[found.lastindex - 1])  # type: ignore[operator]
        return exact, match, numbers


def _without_port(host: str) -> str:
    """In small letters, and without the dot at the end of a full name."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].rstrip(".").lower()
