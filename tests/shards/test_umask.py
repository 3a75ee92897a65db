from __future__ import annotations

from pathlib import Path

import pytest

from tests.shards.servers import ECHO, Serve

pytestmark = pytest.mark.once  # what is tested is Python in both kinds


def test_new_files_have_the_mode_that_the_umask_leaves(serve: Serve, tmp_path: Path) -> None:
    source = "async def main(shard):\n    open(f'file-{shard.id}', 'w').close()\n    await shard.wait_stopped()\n"
    server = serve(source, "--shards", "2", "--umask", "027", "--pid-file", "pid")
    server.wait_serving()
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("file-0", "file-1", "pid")}
    assert modes == {"file-0": 0o640, "file-1": 0o640, "pid": 0o640}
    assert server.stop() == 0


@pytest.mark.parametrize("mode", ["28", "999", "0o27", "rwx"])
def test_what_is_no_umask(serve: Serve, mode: str) -> None:
    server = serve(ECHO, "--umask", mode)
    assert server.wait_exit() == 2
    assert f"--umask: '{mode}' is no umask; give three octal digits, for example 027" in server.log
