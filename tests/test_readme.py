"""The README's code runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shards.servers import Serve, ask

README = Path(__file__).parent.parent / "README.md"
(CONFIGURATION,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
EXECUTOR, SERVICE, TEST = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_executor_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", EXECUTOR], cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (b"42\n", b"", 0)


def test_the_sharded_service(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    try:
        options = re.search(r"clockworker-serve app:main (.*)", README.read_text())
        assert options is not None
        server = serve(SERVICE, *options[1].split())
        server.wait_serving()
        with server.connect() as one, server.connect() as other:
            for number in range(20):
                assert ask(one, b"set key%d value%d" % (number, number)) == b"ok"
            for number in range(20):
                assert ask(other, b"get key%d" % number) == b"value%d" % number
            assert ask(other, b"get nothing") == b"-"
        assert server.stop() == 0
    finally:
        serve.clean_up()


@pytest.mark.parametrize("command", re.findall(r"^    clockworker-serve (--.*)$", README.read_text(), re.MULTILINE))
def test_the_configuration_and_its_commands(command: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SERVICE)
    (tmp_path / "clockworker.toml").write_text(CONFIGURATION)
    cpus = len(os.sched_getaffinity(0))
    arguments = [sys.executable, "-m", "clockworker.shards._cli", *command.split(), *["--no-pin"][: cpus < 2]]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "app:main" in done.stdout


def test_the_configuration_serves(tmp_path: Path) -> None:
    serve = Serve(tmp_path)
    try:
        (tmp_path / "clockworker.toml").write_text(CONFIGURATION)
        server = serve(SERVICE, "--shards", "2", app=None)
        server.wait_serving()
        with server.connect() as client:
            assert ask(client, b"set key value") == b"ok"
        server.wait_log('bytes received","shard":[01],"queue":"foreground"')
        assert server.stop() == 0
    finally:
        serve.clean_up()


def test_the_test_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SERVICE)
    (tmp_path / "test_app.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_app.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
