from __future__ import annotations

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clockworker._errors import ConfigurationError
from clockworker.shards.machine._host import PidFile, check_pid_file, descriptors_needed, remove_own


def test_a_limit_on_open_files_that_is_too_low_is_said_before_any_shard_starts(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("open('imported', 'w')\n")
    command = shlex.join(
        [sys.executable, "-m", "clockworker.shards._cli", "app:main", "--shards", "8", "--no-pin", "--port", "0"]
    )
    result = subprocess.run(
        ["sh", "-c", f"ulimit -n 70; exec {command}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 2
    assert f"8 shards need {descriptors_needed(8, 1)} open files, but the limit is 70" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "imported").exists()


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    program = (
        "import resource; from clockworker.shards.machine._host import raise_descriptor_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "raise_descriptor_limit(2, 1)\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE); print(soft == hard)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"True\n"


def test_the_pid_file_is_there_while_the_block_runs(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--pid-file .* cannot be written"), PidFile(str(tmp_path)):
        pass


def test_a_pid_file_that_was_left_behind_is_taken_over_and_one_of_a_server_that_runs_is_not(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("4194304\n")
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        message = f"is that of a server that runs, pid {os.getpid()}; stop it, or give another path"
        with pytest.raises(ConfigurationError, match=message), PidFile(str(path)):
            pass
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("kind", ["a text", "long", "a link", "a link to nothing", "a FIFO", "a device", "a directory"])
def test_what_is_no_pid_file_is_left_alone(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "pid", tmp_path / "other"
    other.write_text("1\n")
    match kind:
        case "a text":
            path.write_text("precious\n")
        case "long":
            path.write_text("1\n" * 100)
        case "a link":
            path.symlink_to(other)
        case "a link to nothing":
            path.symlink_to(tmp_path / "nothing")
        case "a FIFO":
            os.mkfifo(path)
        case "a device":
            path = Path("/dev/null")
        case "a directory":
            path.mkdir()
    before = path.lstat()
    told = []
    for attempt in (lambda: PidFile(str(path)).__enter__(), lambda: check_pid_file(str(path))):
        with pytest.raises(ConfigurationError, match="--pid-file") as caught:
            attempt()
        told.append(str(caught.value))
    assert told[0] == told[1]
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert other.read_text() == "1\n"
    assert not (tmp_path / "nothing").exists()


def test_the_check_of_a_pid_file_says_what_its_making_would(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    check_pid_file(str(path))
    assert not path.exists()
    with PidFile(str(path)):
        check_pid_file(str(path))  # of the server that is to be replaced
        assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(ConfigurationError, match="make the directory") as checked:
        check_pid_file(str(tmp_path / "no" / "pid"))
    with pytest.raises(ConfigurationError) as made, PidFile(str(tmp_path / "no" / "pid")):
        pass
    assert str(checked.value) == str(made.value)


def test_the_pid_file_of_a_successor_is_left(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(str(path)):
        path.unlink()
        with PidFile(str(path)):
            pass
        path.write_text("2\n")
    assert path.read_text() == "2\n"


def test_a_full_disk_leaves_no_pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: io.FileIO, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "pid"
    monkeypatch.setattr(io, "FileIO", type("Full", (io.FileIO,), {"write": fail}))
    with pytest.raises(ConfigurationError, match="No space left on device; give another path"), PidFile(str(path)):
        pass
    assert not path.exists()


def test_a_file_that_cannot_be_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = tmp_path / "file"
    path.write_text("")
    monkeypatch.setattr(os, "unlink", fail)
    remove_own(path, path.stat())
    assert f"{path} cannot be removed: Read-only file system" in caplog.text
    remove_own(tmp_path / "nothing", path.stat())
