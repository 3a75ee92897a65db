from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker.http import _routes
from clockworker.http._routes import RouteTable
from clockworker.shards.config._http import Route


def table(*paths: str) -> RouteTable:
    return RouteTable([Route(path, "q") for path in paths])


def test_the_first_that_matches() -> None:
    routes = table("/health", "/reports/{tenant}/*", "/reports/*", "/{page}", "/files/{name}.csv", "/n/{n:int}")
    for path, expected in {
        "/health": 0,
        "/reports/a/": 1,
        "/reports/a/b/c": 1,
        "/reports/a": 2,
        "/reports/a\nb": 2,
        "/reports/": 2,
        "/reports": 3,
        "/": -1,
        "/files/.csv": -1,
        "/files/a.csv": 4,
        "/files/a/b.csv": -1,
        "/n/12": 5,
        "/n/x": -1,
        "/n/12\n": -1,
        "": -1,
        "*": -1,
        "health": -1,
    }.items():
        assert routes.find("GET", path, "h") == expected, path


def test_a_pattern_before_an_exact_path_goes_first() -> None:
    assert table("/items/{id}", "/items/special").find("GET", "/items/special", "") == 0
    assert table("/items/special", "/items/{id}").find("GET", "/items/special", "") == 0
    assert table("/items/special", "/items/{id}").find("GET", "/items/7", "") == 1


@pytest.mark.parametrize("few", [0, 8])
def test_what_begins_otherwise_may_stand_between(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_routes, "FEW", few)
    routes = table("/a/{n:int}", "/{rest:path}", "/a/{x}", "/a/b/{y}")
    found = [routes.find("GET", path, "") for path in ("/a/7", "/a/b", "/a/b/c", "/")]
    assert found == [0, 1, 1, 1]


def test_methods() -> None:
    routes = RouteTable(
        [
            Route("/x", "a", methods=("GET",)),
            Route("/x", "b", methods=("POST", "WEBSOCKET")),
            Route("/{y}", "c", methods=("PURGE",)),
            Route("/*", "d"),
        ]
    )
    found = {
        method: routes.find(method, "/x", "") for method in ("GET", "HEAD", "POST", "WEBSOCKET", "PURGE", "PUT", "get")
    }
    assert found == {"GET": 0, "HEAD": 0, "POST": 1, "WEBSOCKET": 1, "PURGE": 2, "PUT": 3, "get": 3}


def test_hosts() -> None:
    routes = RouteTable([Route("/x", "a", host="API.example.com"), Route("/x", "b", host="[::1]"), Route("/x", "c")])
    assert routes.uses_host
    assert not table("/x").uses_host
    for host, expected in {
        "api.example.com": 0,
        "Api.Example.com:8000": 0,
        "api.example.com.": 0,
        "www.example.com": 2,
        "": 2,
        "[::1]": 1,
        "[::1]:8000": 1,
        "[::2]": 2,
    }.items():
        assert routes.find("GET", "/x", host) == expected, host


def test_what_a_part_of_the_path_is() -> None:
    routes = table("/reports/{tenant}/{year:int}/*", "/f/{rest:path}.csv")
    assert routes.value(0, "/reports/a b/2026/x", "tenant") == "a b"
    assert routes.value(0, "/reports/a b/2026/x", "year") == "2026"
    assert routes.value(1, "/f/a/b.csv", "rest") == "a/b"


PIECES = st.sampled_from(["a", "b", "ab", "", "{x}", "{y:int}", "7", "a{z}", "{w:path}"])
PATHS = st.builds(
    lambda pieces, end: "/" + "/".join(pieces) + end, st.lists(PIECES, max_size=3), st.sampled_from(["", "*"])
)


def may_be(path: str) -> bool:
    names = re.findall(r"\{\w", path)
    return len(set(names)) == len(names) and path.count(":path") + path.count("*") <= 1


ROUTES = st.builds(
    Route,
    path=PATHS.filter(may_be),
    queue=st.just("q"),
    methods=st.sampled_from([(), ("GET",), ("POST",), ("GET", "WEBSOCKET")]),
    host=st.sampled_from([None, "h"]),
)
ASKED = st.lists(st.sampled_from(["a", "b", "ab", "", "7", "ac"]), max_size=4).map(lambda parts: "/" + "/".join(parts))


def slowly(routes: list[Route], method: str, path: str, host: str) -> int:
    """One after the other, as it is described."""
    for number, route in enumerate(routes):
        regex, rest = "", route.path.removesuffix("*")
        for text, name, kind in re.findall(r"([^{]*)(?:\{(\w+):?(\w*)\})?", rest):
            regex += re.escape(text) + ({"int": "[0-9]+", "path": ".*"}.get(kind, "[^/]+") if name else "")
        regex += ".*" if route.path.endswith("*") else ""
        methods = {*route.methods, "HEAD"} if "GET" in route.methods else route.methods
        if re.fullmatch(regex, path, re.DOTALL) and (not methods or method in methods) and route.host in (None, host):
            return number
    return -1


@given(
    st.lists(ROUTES, max_size=8),
    st.sampled_from(["GET", "HEAD", "POST", "WEBSOCKET", "PUT"]),
    ASKED,
    st.sampled_from("hi"),
)
def test_any_table_finds_what_a_search_in_order_does(routes: list[Route], method: str, path: str, host: str) -> None:
    """In one bucket, and in several."""
    for few in (0, len(routes)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_routes, "FEW", few)
            assert RouteTable(routes).find(method, path, host) == slowly(routes, method, path, host)


@pytest.mark.parametrize("few", [0, 8])
def test_no_path_takes_long(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the worst path pays for no more than its length: with two parts of either kind it would be a thousand
    times as much."""
    monkeypatch.setattr(_routes, "FEW", few)
    routes = table("/{a}/{b:int}/{c}.json", "/f/{a:path}/x/{b}.y", "/{a:float}/{b:uuid}/*")

    def takes(path: str) -> float:
        began = time.process_time()
        for _ in range(20):
            routes.find("GET", path, "")
        return time.process_time() - began

    for path in ("/" + "-" * 4_000, "/f" + "/x" * 2_000, "/1/2/" + ".json" * 800 + "/", "/" + "1." * 2_000):
        assert takes(path) < 1.0, path[:9]
