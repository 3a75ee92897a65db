"""Reload on a change of the source: what a developer who saves a file expects."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from clockworker._errors import ConfigurationError
from clockworker.shards.supervisor._reload import check_reload
from tests.shards.servers import ECHO, Serve, ask, eventually

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

pytest.importorskip("watchfiles")


def save(path: Path, text: str) -> None:
    """As editors do: a new file in the place of the old."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_a_change_replaces_the_shards_and_a_broken_one_does_not(serve: Serve, tmp_path: Path) -> None:
    server = serve(ECHO, "--shards", "2", "--reload")
    server.wait_serving()
    server.wait_log("watching")
    pids = server.shard_pids()
    save(tmp_path / "app.py", "def main(:\n")
    server.wait_log(r"app\.py changed")
    server.wait_log(r"the shards are not replaced: app:main cannot be imported\n(.*\n)+SyntaxError")
    with server.connect() as client:
        assert ask(client, b"hello").endswith(b" hello")
    assert server.shard_pids() == pids
    save(tmp_path / "app.py", ECHO.replace("%d %s", "%d new %s"))
    server.wait_log("shard . ready", 4)

    def answer() -> bytes:
        with server.connect() as client:
            return ask(client, b"hello")

    eventually(lambda: answer().endswith(b" new hello"), "the successor has the connections")
    assert server.stop() == 0


def test_an_application_that_cannot_be_started_is_waited_for(serve: Serve, tmp_path: Path) -> None:
    server = serve("1 / 0\n", "--shards", "2", "--reload")
    server.wait_log("waits for a change of the source", 2)
    server.wait_log("watching")
    save(tmp_path / "app.py", ECHO)
    server.wait_serving()
    with server.connect() as client:
        assert ask(client, b"hello").endswith(b" hello")
    assert server.stop() == 0


def test_a_stop_while_it_waits_for_a_change(serve: Serve) -> None:
    server = serve("1 / 0\n", "--shards", "2", "--reload")
    server.wait_log("waits for a change of the source", 2)
    assert server.stop(signal.SIGINT) == 0


def test_another_directory(serve: Serve, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    server = serve(ECHO, "--shards", "1", "--reload", "--reload-dir", str(library))
    server.wait_serving()
    server.wait_log(f"watching {library}")
    (tmp_path / "app.py").write_text(ECHO + "\n")
    save(library / "helper.py", "")
    server.wait_log("shard 0 ready", 2)
    assert server.log.count(" changed") == 1
    assert "helper.py changed" in server.log
    assert "change detected" not in server.log  # which is watchfiles' way to say the same


def test_other_files_and_what_is_not_to_be_watched(serve: Serve, tmp_path: Path) -> None:
    for name in ("templates", "generated"):
        (tmp_path / name).mkdir()
    include = ("--reload-include", "*.html", "--reload-include", "templates/*.txt")
    server = serve(
        ECHO, "--shards", "1", "--reload", *include, "--reload-exclude", "generated", "--reload-exclude", "x_*.py"
    )
    server.wait_serving()
    server.wait_log("watching")
    for quiet in ("generated/a.py", "generated/b.html", "x_1.py", "other.txt"):
        save(tmp_path / quiet, "")
    save(tmp_path / "templates" / "page.html", "")
    server.wait_log(r"templates/page\.html changed")
    server.wait_log("shard 0 ready", 2)
    save(tmp_path / "templates" / "mail.txt", "")
    server.wait_log(r"templates/mail\.txt changed")
    server.wait_log("shard 0 ready", 3)
    assert server.log.count(" changed") == 2
    assert server.stop() == 0


def test_without_watchfiles_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'clockworker\[reload\]'"):
        check_reload()
