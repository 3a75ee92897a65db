"""Who knows only FastAPI finds what they look for: by the search of the site, in a real browser, and in the list of guides."""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("websockets")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")

from tests.docs.reader import DOCS, ROOT
from tests.examples.browser import CHROMIUM, Page, chromium
from tests.shards.servers import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium-headless-shell, or another Chromium"),
]

# What is looked for, and the page that answers it on its first screen, or at that heading.
TASKS = {
    "endpoint into a queue": "http/#an-endpoints-queue",
    "read a stall": "stalls/",
    "roll a deployment": "operation/#rolling-a-deployment",
    "limit a tenant": "queues/",
    "publish to all": "topics/",
    "keep state": "state/",
    "call another shard": "calls/",
    "test an application": "testing/",
    "p99 by route": "observing/#p99-of-a-route",
    "shard dies": "promises/#when-a-shard-dies",
}
MOST = 2  # results that are looked at

SEARCH = """(text => {
  document.getElementById("__search").checked = true;
  const field = document.querySelector(".md-search__input");
  field.focus();
  field.value = text;
  for (const event of ["input", "keyup"]) field.dispatchEvent(new Event(event, {bubbles: true}));
})"""
RESULTS = """[...document.querySelectorAll(".md-search-result__list > li")].map(
  found => [...found.querySelectorAll("a")].map(link => new URL(link.href).pathname.slice(1) + new URL(link.href).hash))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Of the site, as it is built."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with chromium(tmp_path_factory.mktemp("profile")) as browser:
            page = browser.open(f"http://127.0.0.1:{server.server_port}/")
            eventually(lambda: page.run("document.querySelector('.md-search__input') !== null"), "the first page")
            yield page
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("task", TASKS)
def test_the_search_finds_it(task: str, page: Page) -> None:
    wanted = TASKS[task]
    found: list[list[str]] = []

    def look() -> bool:
        page.run(f"{SEARCH}({json.dumps(task)})")
        found[:] = page.run(RESULTS)[:MOST]
        return any(wanted in places for places in found)

    eventually(look, f"{wanted} among the first {MOST} that are found", shown=lambda: f": {found}")


@pytest.mark.parametrize("task", TASKS)
def test_the_list_of_guides_has_it(task: str) -> None:
    place, _, heading = TASKS[task].partition("#")
    assert f"({place.rstrip('/')}.md" + (f"#{heading})" if heading else "") in (DOCS / "guides.md").read_text()


def test_wanted_pages_are_there(tmp_path: Path) -> None:
    assert all((DOCS / (place.partition("/")[0] + ".md")).exists() for place in TASKS.values())
