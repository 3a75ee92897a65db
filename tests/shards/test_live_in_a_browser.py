"""The live page in headless Chromium: of a server under load, and of figures that are worse than any server's."""

from __future__ import annotations

import asyncio
import functools
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("websockets")

from clockworker.shards.observe._http import PageServer
from clockworker.shards.observe._live import live_pages
from clockworker.shards.observe._view import ClusterStats, ServerStats
from clockworker.shards.protocol._reading import RingReading
from clockworker.shards.tools._screen import _count, _duration, _rate
from tests.examples.browser import CHROMIUM, Browser, Page, chromium
from tests.shards.figures import EVIL, EVIL_IMAGE, figures
from tests.shards.servers import DEADLINE, Serve, eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium-headless-shell, or another Chromium"),
]

ROOT = Path(__file__).parents[2]

# The cells of a table, by the name of its row and the heading of their column.
READ_TABLE = """(id => {
  const [head, ...lines] = document.getElementById(id).rows;
  const names = [...head.cells].map(cell => cell.textContent);
  return Object.fromEntries(lines.map(line => [
    line.cells[0].title || line.cells[0].textContent,
    Object.fromEntries([...line.cells].map((cell, index) => [names[index], cell.textContent])),
  ]));
})"""
IMPRESSIONS = {
    "light": (1280, "light"),
    "dark": (1280, "dark"),
    "phone": (390, "light"),
    "phone-dark": (390, "dark"),
}


def table(page: Page, id: str) -> dict[str, dict[str, str]]:
    return page.run(f"{READ_TABLE}({id!r})")  # type: ignore[no-any-return]


def leave(page: Page) -> None:
    """It asks for nothing any more."""
    page.command("Page.navigate", url="about:blank")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@contextmanager
def pages_of(stats: ServerStats) -> Iterator[str]:
    """The URL of a live page that shows these, from a thread."""
    loop = asyncio.new_event_loop()
    sock = socket.create_server(("127.0.0.1", 0))
    count = len(stats.shards)
    readings = iter(range(10**6))

    def rings() -> list[list[RingReading]]:
        frames = 1_000 * next(readings)
        return [
            [RingReading(frames_sent=frames * (one + 1) if one != other else 0) for other in range(count)]
            for one in range(count)
        ]

    server = PageServer([sock], live_pages(lambda: stats, rings))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(DEADLINE)
        yield "http://{}:{}/".format(*sock.getsockname())
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(DEADLINE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def wait_shown(page: Page) -> None:
    page.wait_text("app", "shop:main")
    eventually(lambda: table(page, "shards-table"), "the shards")


def look(page: Page, width: int, scheme: str, height: int = 900) -> None:
    page.command(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
    )
    page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


@pytest.mark.parametrize(("shards", "queues"), [(3, 3), (64, 40)])
def test_it_shows_what_the_statistics_say(shards: int, queues: int, browser: Browser, tmp_path: Path) -> None:
    stats = figures(shards, queues)
    with pages_of(stats) as url:
        page = browser.open(url)
        wait_shown(page)
        shown = table(page, "shards-table")
        assert len(shown) == shards
        for shard in stats.shards:
            cells = shown[str(shard.id)]
            assert cells["State"] == shard.state
            assert cells["CPU"] == f"{100 * shard.rates.cpu:.1f} %"
            assert cells["Conns"] == str(shard.connections_open)
            assert cells["Lag"].replace(" ", "").replace("µ", "u") == _duration(shard.lag.p99_ns)
            assert cells["Req/s"] == _rate(shard.rates.requests_per_s)
            assert cells["Calls/s"] == _rate(shard.rates.calls_per_s)
            assert cells["Restarts"] == str(shard.restarts)
            assert cells["PID"] == ("\N{EN DASH}" if shard.pid is None else str(shard.pid))
        shown = table(page, "queues-table")
        assert [*shown] == [queue.name for queue in stats.queues]
        for queue in stats.queues:
            cells = shown[queue.name]
            assert cells["Share"] == str(queue.share)
            assert cells["Wanted"] == f"{100 * queue.wanted:.1f} %"
            assert cells["Got"] == f"{100 * queue.got:.1f} %"
            assert cells["Steps/s"] == _count(queue.polls_per_s)
            for head, ns in (
                ("Wait 50", queue.wait.p50_ns),
                ("Wait 99", queue.wait.p99_ns),
                ("Step 99", queue.poll_time.p99_ns),
            ):
                assert cells[head].replace(" ", "").replace("µ", "u") == _duration(ns), head
        shown = table(page, "routes-table")
        for row in stats.routes:
            assert shown[row.route]["Req/s"] == _rate(row.requests.per_s)
            assert shown[row.route]["5xx/s"] == _rate(row.requests.statuses_per_s[5])
        assert {*table(page, "topics-table")} == {topic.topic for topic in stats.topics}
        assert [*table(page, "preemption-table")] == [EVIL]
        assert page.run("[...document.querySelectorAll('#events-list .kind')].map(kind => kind.textContent)") == [
            "Replaced",
            "Crash",
            "Stall",
        ]
        matrix = page.run("document.querySelectorAll('#calls-table tbody td').length")
        if shards <= 24:
            eventually(
                lambda: page.run("document.querySelectorAll('#calls-table tbody td').length") == shards**2, "the matrix"
            )
            eventually(
                lambda: page.run("document.querySelector('#calls-table tbody').rows[0].cells[2].textContent") != "",
                "calls",
            )
        else:
            assert matrix == 0
            assert "64 by 64" in page.text("calls-many")
        # Nobody's name has become a part of the document.
        assert page.run("window.evil") is None
        assert page.run("document.querySelectorAll('body script, body img').length") == 0
        assert EVIL_IMAGE in page.text("groups-table")
        for name, (width, scheme) in IMPRESSIONS.items():
            look(page, width, scheme)
            assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
            (tmp_path / f"{name}.png").write_bytes(page.screenshot())
        leave(page)
    assert browser.errors == []


def test_a_server_that_does_not_answer_any_more_is_said_to_be_so(browser: Browser) -> None:
    with pages_of(figures(2, 2)) as url:
        page = browser.open(url)
        wait_shown(page)
    page.wait_text("state", "no answer since")
    leave(page)
    assert browser.errors == []


def test_a_node_of_a_cluster_shows_the_others(browser: Browser) -> None:
    cluster = {
        "name": "shop",
        "node": "a",
        "epoch": 7,
        "joined": True,
        "owns": True,
        "settled": True,
        "connected": False,
        "problem": "connection refused",
        "reconnects": 2,
        "nodes": [
            {"name": name, "slot": slot, "shards": 4, "silent": name == EVIL, "since": 1_700_000_000.0}
            for slot, name in enumerate(("a", EVIL))
        ],
        "calls_per_s": 12.5,
        "calls": 1000,
        "sessions": 3,
        "sessions_ended": {},
        "window_waits": 0,
    }
    stats = msgspec.structs.replace(figures(2, 2), cluster=msgspec.convert(cluster, ClusterStats))
    with pages_of(stats) as url:
        page = browser.open(url)
        wait_shown(page)
        shown = table(page, "nodes-table")
        assert {name: cells["State"] for name, cells in shown.items()} == {"a": "this one", EVIL: "silent"}
        assert (shown["a"]["Slot"], shown[EVIL]["Slot"], shown["a"]["Shards"]) == ("0", "1", "4")
        said = page.text("cluster")
        assert "epoch 7: this node, a, serves its keys. Broker: connection refused, 2 reconnects." in said
        assert "13 calls a second" in said or "12.5 calls" in said
        assert page.run("window.evil") is None
        leave(page)
    assert browser.errors == []


def test_it_is_read_by_keyboard(browser: Browser) -> None:
    def press(key: str, **parameters: object) -> None:
        for kind in ("keyDown", "keyUp"):
            page.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, **parameters)

    def focused() -> str:
        return page.run("document.activeElement.id || document.activeElement.textContent")  # type: ignore[no-any-return]

    with pages_of(figures(3, 3)) as url:
        page = browser.open(url)
        wait_shown(page)
        seen = []
        for _ in range(60):
            press("Tab", windowsVirtualKeyCode=9)
            seen.append(focused())
            if seen[-1] == "CPU":
                break
        assert seen[0] == "Skip to the figures"
        assert "pause" in seen
        press("Enter", text="\r", windowsVirtualKeyCode=13)  # on the heading of CPU: the busiest first
        order = [
            *page.run("[...document.querySelectorAll('#shards-table tbody tr')].map(line => line.cells[0].textContent)")
        ]
        assert order == ["2", "1", "0"]
        assert page.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
        press("Enter", text="\r", windowsVirtualKeyCode=13)
        assert page.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
        page.run("document.getElementById('pause').focus()")
        press("Enter", text="\r", windowsVirtualKeyCode=13)
        page.wait_text("state", "paused")
        assert page.text("pause") == "Resume"
        leave(page)
    assert browser.errors == []


@functools.cache
def axe() -> str | None:
    """The source of axe-core, if npm has installed it here, or for all."""
    places = [ROOT / "node_modules"]
    if (npm := shutil.which("npm")) is not None:
        found = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False).stdout.strip()
        places.append(Path(found or "/nowhere"))
    path = next((place / "axe-core/axe.min.js" for place in places if (place / "axe-core/axe.min.js").exists()), None)
    return None if path is None else path.read_text()


@pytest.mark.parametrize("name", IMPRESSIONS)
def test_a_checker_of_accessibility_finds_no_fault(name: str, browser: Browser) -> None:
    if (source := axe()) is None:
        pytest.skip("needs axe-core: npm install --no-save axe-core")
    with pages_of(figures(3, 3)) as url:
        page = browser.open(url)
        wait_shown(page)
        look(page, *IMPRESSIONS[name])
        page.run(source + ";0")
        found: list[dict[str, Any]] = page.run(
            "axe.run().then(({violations}) => violations.map(({id, impact, nodes}) =>"
            " ({id, impact, where: nodes.map(node => node.html + ' ' + node.failureSummary)})))"
        )
        leave(page)
    assert found == []


# A server under load.

LOADED = """
import asyncio, os, signal, time

import clockworker as cw

class Echo:
    def __init__(self, shard):
        pass

    @cw.remote
    async def echo(self, text: str) -> str:
        return text

    @cw.remote
    async def hurt(self, how: str) -> None:
        if how == "stall":
            time.sleep(1)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

@cw.application(queues=[cw.Queue("foreground", share=8), cw.Queue(EVIL, share=2)])
async def main(shard):
    echo = await shard.start(Echo)
    topic = shard.topic(EVIL_IMAGE, str)

    async def call():
        while not shard.stopping:
            try:
                await echo.on(1 - shard.id).echo("x" * 100)
            except cw.CallError:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.0005)

    async def publish():
        while not shard.stopping:
            await topic.publish("hello")
            await asyncio.sleep(0.01)

    async def hear():
        async with topic.subscribe() as messages:
            async for message in messages:
                pass

    async def spin():
        while not shard.stopping:
            end = time.monotonic() + 0.0003
            while time.monotonic() < end:
                pass
            await asyncio.sleep(0.002)

    async def handle(reader, writer):
        how = (await reader.readline()).decode().strip()
        writer.close()
        await echo.on(1).hurt(how)

    shard.queue("foreground").spawn(call(), name="call")
    shard.queue("foreground").spawn(publish(), name="publish")
    shard.queue("foreground").spawn(hear(), name="hear")
    shard.queue(EVIL).group("tenant-1").spawn(spin(), name="spin")
    await shard.start_server(handle)
    await shard.wait_stopped()
"""


def test_under_load_it_agrees_with_the_statistics(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    source = LOADED.replace("EVIL_IMAGE", repr(EVIL_IMAGE)).replace("EVIL", repr(EVIL))
    server = serve(source, "--shards", "2", "--metrics", "127.0.0.1:0")
    server.wait_serving()
    url = server.wait_log(r"live page on (http://\S+/)")[0][1]
    page = browser.open(url)
    page.wait_text("app", "app:main")

    def hurt(how: str) -> None:
        with server.connect() as client:
            client.sendall(how.encode() + b"\n")
            client.recv(1)

    hurt("stall")
    page.wait_text("events-list", "Stall")
    hurt("crash")
    page.wait_text("events-list", "Crash")
    eventually(lambda: table(page, "shards-table")["1"]["State"] == "ready", "shard 1")

    def agrees() -> bool:
        """What is shown lies between what the server says before and after, or as good as."""
        before = page.run("fetch('stats').then(answer => answer.json())")
        page.run("new Promise(done => setTimeout(done, 1200))")
        shards, queues = table(page, "shards-table"), table(page, "queues-table")
        topics = table(page, "topics-table")
        after = page.run("fetch('stats').then(answer => answer.json())")
        pairs: list[tuple[float, float, float]] = []
        for one, other in zip(before["shards"], after["shards"], strict=True):
            cells = shards[str(one["id"])]
            assert cells["PID"] == str(other["pid"])
            assert int(cells["Restarts"]) == other["restarts"]
            assert one["stalls"] <= int(cells["Stalls"]) <= other["stalls"]
            for head, name in (("Calls/s", "calls_per_s"),):
                pairs.append((one["rates"][name], number(cells[head]), other["rates"][name]))
            pairs.append((one["rates"]["busy"] * 100, number(cells["Busy"]), other["rates"]["busy"] * 100))
        for one, other in zip(before["queues"], after["queues"], strict=True):
            cells = queues[one["name"]]
            assert cells["Wanted"] == f"{100 * one['wanted']:.1f} %"
            pairs.append((one["polls_per_s"], number(cells["Steps/s"]), other["polls_per_s"]))
            pairs.append((one["got"] * 100, number(cells["Got"]), other["got"] * 100))
        for one, other in zip(before["topics"], after["topics"], strict=True):
            cells = topics[one["topic"]]
            assert int(cells["Subscribers"]) == other["subscribers"]
            pairs.append((one["published_per_s"], number(cells["Published/s"]), other["published_per_s"]))
        assert all(shown > 0 for _, shown, _ in pairs)
        return all(0.8 * min(one, other) - 1 <= shown <= 1.25 * max(one, other) + 1 for one, shown, other in pairs)

    eventually(agrees, "agreement")
    assert "tenant-1" in page.text("groups-table")
    eventually(lambda: re.search(r"\d", page.text("calls-table").partition("\n")[2]), "calls of each pair")
    assert page.run("window.evil") is None
    (tmp_path / "loaded.png").write_bytes(page.screenshot())
    leave(page)
    assert browser.errors == []
    assert server.stop() == 0


def number(text: str) -> float:
    match = re.match(r"([\d.]+)\s*([kMG%]?)", text)
    assert match is not None, text
    return float(match[1]) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(match[2], 1.0)
