"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.shards.servers import eventually, is_alive

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

pytest_plugins = ["pytester"]

# Warnings are errors in all of them, and no plugin but those that are named is there.
ALONE = ("-p", "_clockworker_pytest", "-W", "error", "-p", "no:cacheprovider")

APP = """
import sys

async def main(shard):
    print(f"shard {shard.id} speaks", file=sys.stderr, flush=True)

    async def handle(reader, writer):
        writer.write(await reader.readline())

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return pytester


def test_it_is_where_pytest_looks_for_it() -> None:
    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    name = project["project"]["entry-points"]["pytest11"]["clockworker"]
    assert name in project["tool"]["setuptools"]["py-modules"]
    assert hasattr(importlib.import_module(name), "serving")


def test_who_does_not_use_it_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_nothing():
            assert "_clockworker_pytest" in sys.modules
            assert not {"clockworker", "uvloop", "msgspec", "psutil", "asyncio"} & set(sys.modules)
    """)
    pytester.runpytest_subprocess(*ALONE).assert_outcomes(passed=1)


def test_coverage_measures_the_import_of_the_package(pytester: pytest.Pytester) -> None:
    """As a plugin that starts when the session does would."""
    pytester.makeconftest("""
        import sys

        def pytest_sessionstart():
            assert "clockworker" not in sys.modules
    """)
    pytester.makepyfile("""
        import sys

        def test_clock(clockworker_clock):
            assert "clockworker" in sys.modules
    """)
    pytester.runpytest_subprocess(*ALONE).assert_outcomes(passed=1)


@pytest.mark.slow
def test_serving(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        app=APP,
        test_app="""
        import asyncio, os
        from pathlib import Path

        def write_pids(name, *servers):
            Path(name).write_text(" ".join(f"{server.supervisor_pid} {server.pid(0)}" for server in servers))

        def test_passes(serving):
            first, second = serving("app:main", shards=1), serving("app:main", shards=1, options=["--log-format=json"])
            assert first.address != second.address
            write_pids("passed", first, second)
            with first.connect() as client:
                client.sendall(b"hello\\n")
                assert client.recv(100) == b"hello\\n"

        def test_nothing_of_the_last_one_is_left():
            assert not any(os.path.exists(f"/proc/{pid}") for pid in Path("passed").read_text().split())

        def test_fails(serving):
            write_pids("failed", serving("app:main", shards=1))
            assert False

        def test_cannot_start(serving):
            serving("app:nothing", shards=1)
        """,
    )
    result = pytester.runpytest_subprocess(*ALONE)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*Captured log of app:main call*", "*shard 0 speaks*"])
    result.stdout.fnmatch_lines(["*ApplicationError: the server ended with status 3:*"])
    assert str(result.stdout).count("Captured log of") == 1
    pids = [int(pid) for name in ("passed", "failed") for pid in (pytester.path / name).read_text().split()]
    assert not any(map(is_alive, pids))


def test_an_interrupted_run_leaves_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        app=APP,
        test_app="""
        from pathlib import Path

        def test_interrupted(serving):
            server = serving("app:main", shards=1)
            Path("pids").write_text(f"{server.supervisor_pid} {server.pid(0)}")
            raise KeyboardInterrupt
        """,
    )
    assert pytester.runpytest_subprocess(*ALONE).ret == pytest.ExitCode.INTERRUPTED
    pids = [int(pid) for pid in (pytester.path / "pids").read_text().split()]
    eventually(lambda: not any(map(is_alive, pids)), "all are gone")


SEEDED = """
    import asyncio
    from clockworker.testing import run

    async def order():
        seen = []

        async def work(number):
            await asyncio.sleep(5)
            seen.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(work(number))
        return seen

    def test_order(clockworker_clock, clockworker_seed):
        clockworker_clock.autojump = True
        print("order", run(order(), clock=clockworker_clock, seed=clockworker_seed), "at", clockworker_clock.now)
        assert not FAILS
"""


def test_a_failing_test_prints_its_seed_and_that_makes_it_again(pytester: pytest.Pytester) -> None:
    def found(pattern: str, *arguments: str) -> str:
        result = pytester.runpytest_subprocess(*ALONE, *arguments)
        result.assert_outcomes(failed=1)
        match = re.search(pattern, str(result.stdout))
        assert match, result.stdout
        return match[0]

    pytester.makepyfile(SEEDED.replace("FAILS", "True"))
    both = r"(?s)--clockworker-seed=\d+|order \[.*\] at 5\.0"
    result = pytester.runpytest_subprocess(*ALONE)
    seed, order = re.findall(r"(?m)--clockworker-seed=\d+$|order \[.*\] at 5\.0", str(result.stdout))
    assert found(r"order \[.*\] at 5\.0", seed) == order
    assert found(r"order \[.*\] at 5\.0", "--clockworker-seed=1") != found(both, "--clockworker-seed=2")


def test_a_passing_test_says_nothing_of_seeds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SEEDED.replace("FAILS", "False"))
    result = pytester.runpytest_subprocess(*ALONE)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*clockworker*seed*")


@pytest.mark.parametrize("wrong", ["-1", "seven", str(1 << 64)])
def test_what_is_no_seed(pytester: pytest.Pytester, wrong: str) -> None:
    result = pytester.runpytest_subprocess(*ALONE, f"--clockworker-seed={wrong}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*'{wrong}' is no seed; one is a whole number from 0 to 2*64 - 1"])


def test_beside_anyio_whose_tests_run_by_the_clock(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import anyio, pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend(clockworker_clock):
            return "asyncio", {"loop_factory": clockworker_clock.new_event_loop}

        async def test_an_hour(clockworker_clock):
            clockworker_clock.autojump = True
            with pytest.raises(TimeoutError):
                with anyio.fail_after(3600):
                    await anyio.sleep_forever()
            assert clockworker_clock.now == 3600
    """)
    pytester.runpytest_subprocess(*ALONE, "-p", "anyio").assert_outcomes(passed=1)


def test_the_kit_is_also_where_it_was() -> None:
    from clockworker import testing
    from clockworker.shards import testing as before

    assert [getattr(testing, name) for name in before.__all__] == [getattr(before, name) for name in before.__all__]
