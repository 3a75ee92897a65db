"""docs/own-loop.md with the real uvicorn: the command of the page, with its files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.docs.reader import DOCS, blocks
from tests.shards.servers import DEADLINE, eventually

pytestmark = [pytest.mark.slow, pytest.mark.once]

PAGE = DOCS / "own-loop.md"


def test_uvicorn_on_a_loop_with_queues(tmp_path: Path) -> None:
    for module in ("uvicorn", "fastapi"):
        pytest.importorskip(module)
    for block in blocks(PAGE):
        if block.kind == "python":
            assert block.file is not None
            (tmp_path / block.file).write_text(block.text)
    (command,) = re.findall(r"^    (uvicorn .*)$", PAGE.read_text(), re.MULTILINE)
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *shlex.split(command), "--port", "0"], cwd=tmp_path, stderr=output
        )
    try:
        (port,) = eventually(
            lambda: re.findall(r"running on http://127\.0\.0\.1:(\d+)", log.read_text()),
            "uvicorn serves",
            shown=log.read_text,
        )
        for path, answer in (("/", b'{"queue":"requests"}'), ("/reports/acme", b'{"rows":4999950000}')):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE) as response:
                assert response.read() == answer
    finally:
        process.terminate()
        process.wait(DEADLINE)
    assert "Traceback" not in log.read_text()
