"""Routes as operators write them, and what they may say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clockworker._errors import ConfigurationError
from clockworker.shards.config._http import HttpConfig, Route
from clockworker.shards.config._routes import (
    lacking_for_application,
    lacking_for_options,
    parse_route,
    parse_routes,
    routes_of_file,
)
from tests.shards.mistakes import right_or_told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/reports/*=background", Route("/reports/*", "background")),
        ("/reports/*=background:header:x-tenant", Route("/reports/*", "background", group="header:x-tenant")),
        ("/reports/{tenant}=bg:path:tenant", Route("/reports/{tenant}", "bg", group="path:tenant")),
        ("/a=b=c:client", Route("/a=b", "c", group="client")),
        ("/{id:int}/{rest:path}=q", Route("/{id:int}/{rest:path}", "q")),
        ("/café=q", Route("/café", "q")),
    ],
)
def test_text(text: str, expected: Route) -> None:
    assert parse_route(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/reports/*", "is not PATH=QUEUE[:GROUP], for example /reports/*=background"),
        ("=background", "is not PATH=QUEUE"),
        ("/x=", "is not PATH=QUEUE"),
        ("/x=q:", "is not PATH=QUEUE"),
        ("reports=q", "'reports' is no path, which begins with /; give a path such as /reports, /reports/{tenant} or"),
        ("/x?a=q", "says nothing of what follows a ? or #"),
        ("/caf%C3%A9=q", "paths are compared decoded; give the character that %C3 stands for"),
        ("/*/x=q", "a * stands at the end only"),
        ("/{x=q", "its { has no other"),
        ("/{x}}=q", "its } has no other"),
        ("/{}=q", "'' is no name; give letters, digits and _, for example {tenant}"),
        ("/{a-b}=q", "'a-b' is no name"),
        ("/{a}/{a}=q", "'a' is there twice"),
        ("/{a:date}=q", "'date' is no kind of text; give one of str, int, float, uuid, path, or none"),
        ("/{a}-{b}=q", "{b} is the second in its segment"),
        ("/{a:path}/*=q", "only one part may contain a slash"),
        ("/{a:path}/{b:path}=q", "only one part may contain a slash"),
        ("/x=q:tenant", 'group is \'tenant\'; give "client", "host", "route", "header:NAME" or "path:NAME"'),
        ("/x=q:header:", "group is 'header:'"),
        ("/x=q:header:a b", "group is 'header:a b'"),
        ("/{a}=q:path:b", "group is 'path:b'; give \"path:a\""),
        ("/x=q:path:b", "group is 'path:b'; give a path that has it, with {b} in it"),
        ("/x=" + "q" * 61, "has 61 bytes; give one of at most 60"),
    ],
)
def test_wrong_text(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_route(text)
    assert message in str(caught.value)


def test_what_is_given_twice_is_refused_unless_it_is_for_others() -> None:
    with pytest.raises(ConfigurationError, match="route '/x' is given twice, and the first decides; give it once"):
        parse_routes(["/x=a", "/x=b"])
    tables = [
        {"path": "/x", "queue": "a", "methods": ["GET"]},
        {"path": "/x", "queue": "a", "host": "h"},
        {"path": "/x", "queue": "a"},
    ]
    assert len(routes_of_file(tables)) == 3


def test_tables() -> None:
    table: dict[str, Any] = {
        "path": "/reports/{tenant}/*",
        "methods": ["GET", "POST"],
        "host": "API.example.com",
        "queue": "background",
        "group": "path:tenant",
        "after": "later",
        "limit": 4,
        "waiting": 0,
    }
    assert routes_of_file([table]) == (
        Route(
            "/reports/{tenant}/*",
            "background",
            ("GET", "POST"),
            "api.example.com",
            "path:tenant",
            "later",
            limit=4,
            waiting=0,
        ),
    )
    assert routes_of_file(["/x=q"]) == (Route("/x", "q"),)
    assert routes_of_file([{"path": "/x", "limit": 1}]) == (Route("/x", limit=1),)
    assert routes_of_file([]) == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"queue": "q"}, '[[route]]: there is no path; give one, for example path = "/reports/*"'),
        (
            {"path": "/x", "qeue": "q"},
            "[[route]] '/x': unknown key 'qeue'; did you mean 'queue'? a route has path, queue, ",
        ),
        ({"path": 1}, "[[route]]: path is 1; give a string"),
        ({"path": "/x", "queue": ""}, "a queue has no name"),
        ({"path": "/x", "methods": "GET"}, "[[route]] '/x': methods is 'GET'; give a list such as [\"GET\", \"POST\"]"),
        ({"path": "/x", "methods": ["get"]}, "route '/x': methods is ['get']; give names in capitals"),
        ({"path": "/x", "methods": [1]}, "route '/x': methods is [1]"),
        ({"path": "/x", "host": "h:80"}, "route '/x': host is 'h:80'; give a host without its port"),
        ({"path": "/x", "host": "http://h"}, "route '/x': host is 'http://h'"),
        ({"path": "/x", "limit": 0}, "route '/x': limit is 0; give how many requests run at once in each shard, 1 to"),
        ({"path": "/x", "limit": True}, "limit is True; give a whole number from 1 to"),
        ({"path": "/x", "limit": 1, "waiting": -1}, "waiting is -1; give how many requests may wait"),
        ({"path": "/x", "waiting": 1}, "waiting is 1, but without a limit none waits; give limit, too"),
        ({"path": "/x", "group": "y"}, "route '/x': group is 'y'; give"),
    ],
)
def test_wrong_tables(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        routes_of_file([table])
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [1, "x", {}, [1], [{}, "x"]])
def test_what_is_no_tables(value: object) -> None:
    with pytest.raises(
        ConfigurationError, match=r"route is .*; give tables \[\[route\]\], each with a path|there is no path"
    ):
        routes_of_file(value)


def test_a_route_in_code_is_looked_at_as_well() -> None:
    assert Route("/x", "q", ["GET"]).methods == ("GET",)  # type: ignore[arg-type]
    for wrong in (
        {"queue": ""},
        {"queue": 1},
        {"methods": "GET"},
        {"methods": 1},
        {"group": 1},
        {"after": ""},
        {"host": 1},
    ):
        with pytest.raises(ConfigurationError, match=f"route '/x': {next(iter(wrong))} is "):
            Route("/x", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="1 is no path"):
        Route(1)  # type: ignore[arg-type]


def test_queues_that_a_shard_does_not_have() -> None:
    queues = ["web", "background"]
    http = HttpConfig(routes=(Route("/a", "web"), Route("/b"), Route("/c", "web", after="bakground")))
    assert lacking_for_options(http, queues, 1) == (
        "--route /c: after is 'bakground', which shard 1 does not have, only 'web', 'background'; "
        "did you mean 'background'? give one of them, or add --queue bakground:1"
    )
    # To add the one alone would put all requests into it.
    assert lacking_for_application([Route("/c", "background")], ["default"], 0) == (
        "the application's route /c: queue is 'background', which shard 0 does not have, only 'default'; "
        "add --queue default:8 --queue background:1, the first for requests that no route names"
    )
    assert lacking_for_options(HttpConfig(routes=http.routes[:2], lifespan_queue="web"), queues, 1) is None
    assert (lacking_for_options(HttpConfig(lifespan_queue="x"), queues, 0) or "").startswith(
        "--lifespan-queue is 'x', which"
    )
    assert (lacking_for_options(http, ["default"], 0) or "").endswith(
        "only 'default'; add --queue default:8 --queue web:1, the first for requests that no route names"
    )
    assert lacking_for_application(http.routes[:2], queues, 0) is None
    assert (lacking_for_application([Route("/", "x")], queues, 0) or "").startswith(
        "the application's route /: queue is 'x'"
    )


@given(st.text(max_size=20) | st.text("/{}*=:abpathint", max_size=20))
def test_no_text_is_worse_than_a_configuration_error(text: str) -> None:
    with right_or_told():
        parse_route(text)
