"""The guide's code runs as it stands there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

GUIDE = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs" / "state.md").read_text(), re.DOTALL)
*APP, TEST = GUIDE

# The services beside the first, and what loads, sweeps and follows.
OTHERS = """

async def all_of_it(shard):
    caches, names = await shard.start(Cache), await shard.start(Names)
    directory = {}
    shard.executor.queues()[0].spawn(follow(shard, directory))
    names.local.sessions.append(SessionNow("ann", "en"))
    caches.local.values.update({b"%d" % number: b"value" for number in range(2_500)})
    await main_that_loads(shard)
"""

THEIR_TEST = """
from app import Cache, Names, SessionNow

def test_others():
    with serving("app:all_of_it", shards=2) as server:
        server.replace()
        assert server.call(1, Names.count) == 2
        assert server.call(0, Cache.get, b"2499") == b"value"
        assert "ERROR" not in server.log
"""


@pytest.mark.slow
def test_the_guide(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    assert len(GUIDE) == 7
    app = "import asyncio\n" + "\n\n".join(APP) + OTHERS
    pytester.makepyfile(
        app=app, test_guide=TEST.replace("from clock", "from app import Sessions\nfrom clock") + THEIR_TEST
    )
    result = pytester.runpytest_subprocess("-p", "_clockworker_pytest", "-p", "anyio", "-W", "error")
    result.assert_outcomes(passed=2)
