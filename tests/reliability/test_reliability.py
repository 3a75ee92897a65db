"""Every check at CI size, and the command that runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability._checks import Check, Result, Unavailable, check, checks, execute

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("each", [pytest.param(each, id=each.name) for each in checks()])
def test_holds(each: Check) -> None:
    trials = each.trials("ci")
    if trials == 0:
        pytest.skip("says nothing about the pure version")
    try:
        result = each.run(trials)
    except Unavailable as missing:
        pytest.skip(str(missing))
    assert result.trials > 0
    print(f"{each.claim}: {result.figure}")


def test_an_outcome_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    def one(run: object) -> Check:
        return Check("name", "claim", run, ci=3, release=5, pure=3)  # type: ignore[arg-type]

    def fails(trials: int) -> Result:
        raise AssertionError(f"{trials} torn")

    def lacks(trials: int) -> Result:
        raise Unavailable("no such program")

    passed = execute(one(lambda trials: Result(trials, "all")), "release")
    assert (passed.outcome, passed.trials, passed.figure) == ("passed", 5, "all")
    failed = execute(one(fails), "ci")
    assert (failed.outcome, failed.figure) == ("failed", "AssertionError: 3 torn")
    assert "AssertionError: 3 torn" in capsys.readouterr().err
    assert execute(one(lacks), "ci").outcome == "unavailable"


def test_names_are_unique() -> None:
    def again(trials: int) -> Result:
        return Result(trials, "")

    again.__name__ = checks()[0].run.__name__
    with pytest.raises(ValueError, match="both have a check named"):
        check("another", ci=1, release=1)(again)


@pytest.mark.parametrize(("arguments", "status"), [(["--list"], 0), (["nothing-of-the-kind"], 2)])
def test_the_command(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "tests.reliability", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    if status:
        assert "no check is called nothing-of-the-kind" in done.stderr
