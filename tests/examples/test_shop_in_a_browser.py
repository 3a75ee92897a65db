"""The shop's page in headless Chromium: its WebSocket, its EventSource, its cart; over HTTP/1.1, and over HTTP/2 with TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from browser import CHROMIUM, Page, chromium

from clockworker.shards.testing import serving
from examples.shop._notices import Notices
from tests.shards.servers import DEADLINE, eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium-headless-shell, or another Chromium"),
]

OPTIONS = ["--spares", "0", "--distribution", "least-connections", "--timeout-graceful-shutdown", "600"]

# A report is begun, and while it goes on the cart is asked for. Then the report is given up.
BESIDE_A_REPORT = """(async () => {
  const leaving = new AbortController();
  const report = await fetch("/reports/sales.csv?days=1000000", {signal: leaving.signal});
  const reader = report.body.getReader();
  await reader.read();
  const cart = await fetch("/cart");
  leaving.abort();
  return [report.headers.get("x-queue"), cart.headers.get("x-queue"), await reader.read().catch(error => error.name)];
})()"""


def say(page: Page, text: str) -> None:
    page.run("document.querySelector('#say input').focus()")
    page.type(text)


@pytest.mark.parametrize(("scheme", "protocol"), [("http", "http/1.1"), ("https", "h2")])
def test_two_browsers_in_the_shop(scheme: str, protocol: str, tmp_path: Path) -> None:
    """Over HTTP/2 the page's event stream and its requests are streams of one connection."""
    tls = []
    if scheme == "https":
        pytest.importorskip("h2")
        certificate = tmp_path / "cert.pem"
        issued = pytest.importorskip("trustme").CA().issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        tls = ["--ssl-certfile", str(certificate)]
    profile = tmp_path / "profile"
    profile.mkdir()
    options = [*OPTIONS, *tls]
    with (
        serving("examples.shop:main", shards=2, options=options, timeout=DEADLINE) as server,
        chromium(profile) as browser,
    ):
        one, other = pages = [browser.open("{}://{}:{}/".format(scheme, *server.address)) for _ in range(2)]
        for page in pages:
            page.wait_text("live-state", "open")
            page.wait_text("events-state", "open")
            page.wait_text("products", "Ruby jewel")
            assert page.run("performance.getEntriesByType('navigation')[0].nextHopProtocol") == protocol
        one.click("put-jewel")
        one.wait_text("cart", "1 x jewel")
        one.click("order")
        one.wait_text("answer", "ordered")
        assert other.text("cart") == "nothing"
        say(other, "is anybody there?")
        for page in pages:
            for list in ("live", "events"):
                page.wait_text(list, "ordered: 1 x Ruby jewel")
                page.wait_text(list, "is anybody there?")
        for _ in range(4):  # two may be computed at once: those that were given up do not count
            assert one.run(BESIDE_A_REPORT) == ["background", "foreground", "AbortError"]
        (tmp_path / "page.png").write_bytes(one.screenshot())

        server.replace()
        eventually(
            lambda: sum(server.call(shard, Notices.listening) for shard in range(2)) == 2 * len(pages),
            "a WebSocket and an event stream of each page",
        )
        for page in pages:
            page.wait_text("live-state", "open")
            page.wait_text("events-state", "open")
        say(other, "we are back")
        for page in pages:
            for list in ("live", "events"):
                page.wait_text(list, "we are back")
        assert browser.errors == []
        assert server.stop() == 0
        assert "Traceback" not in server.log
