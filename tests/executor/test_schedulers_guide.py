"""What docs/schedulers.md shows runs as it stands there, and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import clockworker as cw
from clockworker.shards.config._schedulers import SCHEDULERS, check_scheduler
from clockworker.shards.config._settings import read_settings
from clockworker.shards.worker._shard_queues import make_queues

pytestmark = pytest.mark.once

GUIDE = (Path(__file__).parents[2] / "docs" / "schedulers.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
((FILE,),) = [re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)]


@pytest.mark.parametrize("number", range(4))
def test_programs(number: int, tmp_path: Path) -> None:
    program = PROGRAMS[number]
    expected = re.findall(r"print\(.*\)  # (.*)", program)
    assert expected
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    if "finish=1.0" in program:  # by the wall clock, on whatever machine
        assert 0.9 <= float(printed[0].removesuffix(" s")) < 5
    else:
        assert printed == expected


def test_there_are_no_other_programs() -> None:
    assert len(PROGRAMS) == 4


def test_the_file(tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text(FILE)
    config = read_settings(["--config", str(tmp_path / "clockworker.toml")], {}).config
    executor = cw.Executor(make_queues(config.queues, (), ".", config.queue_groups))
    assert {key: (group.share, group.outer) for key, group in executor.group_stats().items()} == {
        "tenants": (2, None),
        "small": (1, "tenants"),
    }


def test_the_table_has_every_scheduler() -> None:
    table = GUIDE.partition("## Figures")[0]
    named = set(re.findall(r"`([^`]+)`", table))
    for name, kind in SCHEDULERS.items():
        if name != "runnable-fifo":
            assert any(each.partition(",")[0] == name for each in named), name
        assert any(each.partition("(")[0] == kind.__name__ for each in named), kind
    for each in named:
        if each.partition(",")[0] in SCHEDULERS:
            check_scheduler(each)
