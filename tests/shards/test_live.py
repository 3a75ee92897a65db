"""The live page, without a browser: what is served, and what it says of a server. `test_live_in_a_browser` looks at it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clockworker.shards.observe import _live
from clockworker.shards.observe._http import Answer
from clockworker.shards.observe._live import FRESH_S, live_pages, summary
from clockworker.shards.protocol._reading import RingReading
from tests.shards.figures import figures

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

LIVE = Path(_live.__file__).with_name("live")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_summary_is_what_the_statistics_are_without_what_grows() -> None:
    stats = figures(shards=3, queues=2)
    whole: dict[str, Any] = json.loads(msgspec.json.encode(stats))
    for shard in whole["shards"]:
        del shard["since_start"], shard["queues"]
    del whole["total"]["since_start"]
    assert json.loads(summary(stats)) == whole


def test_a_summary_of_many_shards_is_small() -> None:
    stats = figures(shards=64, queues=4)
    assert len(summary(stats)) < 100_000 < len(msgspec.json.encode(stats))


def test_however_many_look_it_is_made_twice_a_second() -> None:
    clock, made = Clock(), []

    def stats() -> Any:
        made.append(clock.now)
        return figures(shards=1, queues=1)

    page = live_pages(stats, list, clock)["/stats/summary"]
    for _ in range(10):
        page("")
    clock.now += FRESH_S
    for _ in range(10):
        page("")
    assert made == [100.0, 100.0 + FRESH_S]


def test_the_traffic_of_each_pair() -> None:
    rings = [[RingReading(), RingReading(frames_sent=7)], []]  # the second shard is not there
    answer = live_pages(lambda: figures(1, 1), lambda: rings, Clock())["/stats/rings"]("")
    assert json.loads(answer.body) == {"at_s": 100.0, "frames_sent": [[0, 7], []]}
    assert ("cache-control", "no-store") in answer.headers


@pytest.fixture
def pages() -> dict[str, Callable[[str], Answer]]:
    return live_pages(lambda: figures(1, 1), list)


def test_every_file_is_served_and_nothing_else(pages: dict[str, Callable[[str], Answer]]) -> None:
    served = {("/index.html" if path == "/" else path) for path in pages if not path.startswith("/stats")}
    assert served == {f"/{path.name}" for path in LIVE.iterdir()}
    for path, page in pages.items():
        answer = page("")
        assert answer.status == 200, path
        assert answer.body == ((LIVE / (path[1:] or "index.html")).read_bytes() if "stats" not in path else answer.body)


def test_only_its_own_scripts_run(pages: dict[str, Callable[[str], Answer]]) -> None:
    policy = dict(pages["/"]("").headers)["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; " in policy
    assert "unsafe" not in policy


def test_nothing_comes_from_elsewhere_and_no_text_becomes_html() -> None:
    for path in LIVE.iterdir():
        source = path.read_text()
        elsewhere = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", source)
        assert [url for url in elsewhere if url != "http://www.w3.org/2000/svg"] == [], path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source)
    page = (LIVE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)


def test_tables_have_captions_and_headings_of_columns() -> None:
    page = (LIVE / "index.html").read_text()
    tables = re.findall(r"<table.*?</table>", page, re.DOTALL)
    assert len(tables) == 8
    for table in tables:
        assert re.search(r"<caption[^>]*>\w", table)
        assert all('scope="col"' in head for head in re.findall(r"<th\b[^>]*>", table))
