from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clockworker._errors import ConfigurationError
from clockworker.shards._host import PidFile


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
        timeout=30,
    )
    assert result.returncode == 2
    assert "8 shards need 152 open files, but the limit is 70" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "imported").exists()


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    program = (
        "import resource; from clockworker.shards._host import raise_descriptor_limit\n"
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
    path.write_text("1\nand more\n")
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        message = f"is that of a server that runs, pid {os.getpid()}; stop it, or give another path"
        with pytest.raises(ConfigurationError, match=message), PidFile(str(path)):
            pass
        assert path.read_text() == f"{os.getpid()}\n"
