"""A real browser for the tests: headless Chromium, steered by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.shards.servers import DEADLINE, eventually

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """errors: what scripts of its pages have raised, and what they have written to their consoles as errors."""

    def __init__(self, devtools: ClientConnection) -> None:
        self.errors: list[object] = []
        self._devtools = devtools
        self._numbers = itertools.count(1)

    def open(self, url: str) -> Page:
        """In a context of its own: it has no cookies of another page."""
        context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = Page(self, self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        page.command("Runtime.enable")
        page.command("Page.enable")
        page.command("Page.navigate", url=url)
        return page

    def command(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._devtools.send(json.dumps(message if session is None else {**message, "sessionId": session}))
        while True:
            answer = json.loads(self._devtools.recv(DEADLINE))
            if answer.get("id") == number:
                assert "result" in answer, f"{method}: {answer}"
                return answer["result"]  # type: ignore[no-any-return]
            match answer:
                case {"method": "Runtime.exceptionThrown", "params": error}:
                    self.errors.append(error)
                case {"method": "Runtime.consoleAPICalled", "params": {"type": "error"} as error}:
                    self.errors.append(error)


class Page:
    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def command(self, method: str, **parameters: object) -> dict[str, Any]:
        return self._browser.command(method, self._session, **parameters)

    def run(self, script: str) -> Any:
        """The value of an expression, or of what it promises."""
        result = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{script}: {result}"
        return result["result"].get("value")

    def text(self, id: str) -> str:
        text: str = self.run(f"document.getElementById({id!r})?.innerText ?? ''")
        return text

    def wait_text(self, id: str, text: str) -> None:
        """Until it has that text."""
        eventually(lambda: text in self.text(id), f"{text!r} in #{id}", shown=lambda: f": {self.text(id)!r}")

    def click(self, id: str) -> None:
        """As a mouse does: in the middle of it, if it can be seen there."""
        x, y = self.run(
            f"(() => {{ const box = document.getElementById({id!r}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into what has the focus, and Enter."""
        self.command("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.command(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )

    def screenshot(self) -> bytes:
        """A PNG."""
        return base64.b64decode(self.command("Page.captureScreenshot")["data"])


@contextmanager
def chromium(directory: Path) -> Iterator[Browser]:
    """directory: for its profile. It takes any certificate for good."""
    assert CHROMIUM is not None
    # No sandbox: tests may run as root, which Chromium refuses to have one for.
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"]
    command += ["--ignore-certificate-errors"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={directory}", "about:blank"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        announced = directory / "DevToolsActivePort"

        def address() -> list[str] | None:
            assert process.poll() is None, (directory / "log").read_text()
            lines = announced.read_text().split() if announced.exists() else []
            return lines if len(lines) == 2 else None

        port, path = eventually(address, "Chromium's address")
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=DEADLINE) as devtools:
            yield Browser(devtools)
    finally:
        process.terminate()
        process.wait(DEADLINE)
