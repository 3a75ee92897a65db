"""The shop's page in headless Chromium: its WebSocket, its EventSource, its cart."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from browser import CHROMIUM, chromium

from clockworker.shards.testing import serving
from examples.shop._notices import Notices
from tests.shards.servers import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium-headless-shell, or another Chromium"),
]

OPTIONS = ["--spares", "0", "--distribution", "least-connections", "--timeout-graceful-shutdown", "600"]


def test_two_browsers_in_the_shop(tmp_path: Path) -> None:
    with serving("examples.shop:main", shards=2, options=OPTIONS, timeout=60) as server, chromium(tmp_path) as browser:
        pages = [browser.open("http://{}:{}/".format(*server.address)) for _ in range(2)]
        one, other = pages
        for page in pages:
            page.wait_text("live-state", "open")
            page.wait_text("events-state", "open")
            page.wait_text("products", "Ruby jewel")
        one.click("put-jewel")
        one.wait_text("cart", "1 x jewel")
        one.click("order")
        one.wait_text("answer", "ordered")
        assert other.text("cart") == "nothing"
        other.run("document.querySelector('#say input').focus()")
        other.type("is anybody there?")
        for page in pages:
            for list in ("live", "events"):
                page.wait_text(list, "ordered: 1 x Ruby jewel")
                page.wait_text(list, "is anybody there?")
        report = one.run("fetch('/reports/sales.csv?days=3').then(response => response.text())")
        assert len(report.splitlines()) == 4
        (tmp_path / "page.png").write_bytes(one.screenshot())

        # Both come back to the shards' successors.
        server.replace()
        eventually(
            lambda: sum(server.call(shard, Notices.listening) for shard in range(2)) == 2 * len(pages),
            "a WebSocket and an event stream of each page",
        )
        for page in pages:
            page.wait_text("live-state", "open")
            page.wait_text("events-state", "open")
        other.run("document.querySelector('#say input').focus()")
        other.type("we are back")
        for page in pages:
            for list in ("live", "events"):
                page.wait_text(list, "we are back")
        assert browser.errors == []
        assert server.stop() == 0
        assert "Traceback" not in server.log
