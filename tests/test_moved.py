"""Private modules under the names that they had before packages had rooms."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from clockworker._moved import MovedIntoRooms

MOVED = {
    "clockworker.ipc._frames": "clockworker.ipc.calls._frames",
    "clockworker.ipc._link_cy": "clockworker.ipc.calls._link_cy",
    "clockworker.ipc._ring_cy": "clockworker.ipc.rings._ring_cy",
    "clockworker.shards._slots": "clockworker.shards.protocol._slots",
    "clockworker.shards._streams": "clockworker.shards.worker._streams",
}


@pytest.mark.parametrize(("before", "now"), MOVED.items(), ids=MOVED)
def test_the_module_itself_is_found_with_a_warning(before: str, now: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{before} has moved: it is {now}"):
        found = importlib.import_module(before)
    try:
        assert found is importlib.import_module(now)
        assert found.__spec__ is not None
        assert found.__spec__.name == found.__name__ == now
    finally:
        del sys.modules[before]


@pytest.mark.parametrize("name", ["clockworker.ipc._nothing", "clockworker.nothing._frames", "clockworker.ipc.frames"])
def test_there_is_nothing_else_that_is_found(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


def test_an_import_of_what_is_there_never_comes_so_far() -> None:
    code = "import sys, clockworker; print([type(finder).__name__ for finder in sys.meta_path][-1], sys.meta_path[-1].__name__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert MovedIntoRooms.__name__ in said.stdout
