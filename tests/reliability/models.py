"""The Promela models of `models/` hold, and fail with each of their mutations. Checked exhaustively by Spin."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.reliability._checks import Result, Unavailable, check

MODELS = Path(__file__).parents[2] / "models"

# What a mutation must be found out by, in Spin's words.
_TORN, _ASLEEP = "assertion violated", "invalid end state"
RING_MUTATIONS = {
    "TAIL_FIRST": _TORN,
    "NEWS_FIRST": _ASLEEP,
    "NO_FENCE_TURN": _ASLEEP,
    "NO_FENCE_SLEEP": _ASLEEP,
    "NO_FENCE_STALL": _ASLEEP,
    "NO_FENCE_STALLED": _ASLEEP,
    "LOOK_BEFORE_SLEEP": _ASLEEP,
    "DEAD_NOT_TOLD": _ASLEEP,
    "AHEAD_FOR_THE_NEXT": _ASLEEP,
    "ANSWERED_IN_SLEEP": _ASLEEP,
    "SURE_FIRST": _ASLEEP,
    "NOT_AT_THE_END": _ASLEEP,
    "FORGOTTEN_BY_FAILURE": _ASLEEP,
    "NOT_OUTSIDE": _ASLEEP,
    "NOT_AT_CLOSE": _ASLEEP,
    "SELDOM_STALLED": _ASLEEP,
    "ROOM_NOT_SURE": _ASLEEP,
}
INCARNATION_MUTATIONS = {"SKIP_EPOCH": _TORN, "OLD_RINGS": _TORN}
# The mutation, at the size that shows it.
CREDIT_MUTATIONS = {
    "ONE_CLASS": ["ROOTS=1"],
    "STREAM_HOLDS": ["ROOTS=1"],
    "STREAMS_WAIT": ["ROOTS=1", "STREAMS=1"],
    "DEEPEST_WAITS": ["ROOTS=1", "DEEPEST=1", "BUDGET=4"],
    "ONE_POOL": ["ROOTS=1", "BUDGET=5"],
    "THREAD_NOT_DEEPER": ["ROOTS=1"],
}
# The same. Most are found with three nodes and two views.
FENCE_MUTATIONS: dict[str, list[str]] = {
    "NO_FENCE": [],
    "ALONE": [],
    "ANY_EPOCH": ["EPOCHS=2"],
    "NO_MARGIN": [],
    "DRIFT": [],
    "SERVE_AT_ONCE": [],
    "NO_WAIT": [],
    "UNSETTLED_WRITES": [],
    "GAIN_BY_MEMORY": [],
    "SUCCESSOR_CONFIRMS": ["EPOCHS=2", "RESTARTS=1"],
}
LINEAGE_MUTATIONS = ("NO_YIELD", "EPOCHS_ONLY", "BOTH_YIELD", "ANY_VIEW")
SILENCE_MUTATIONS = ("OWN_WORD", "OLD_WORDS", "ONE_WAY")
_MEMORY_MIB = 6_000
# Many processes, of which most are alike.
_FLAGS = {"credit": ["-DCOLLAPSE", "-DVECTORSZ=2048"], "fence": ["-DCOLLAPSE"], "lineages": ["-DCOLLAPSE"]}


@check("model of ring and doorbell holds, with weak memory and death at any store", ci=1, release=4, pure=0)
def model_of_ring_and_doorbell(trials: int) -> Result:
    # WEAK has every behaviour of x86-TSO, and those of aarch64. The larger one is TSO, or it would not fit.
    sizes = [
        ["WEAK", "AHEAD=0"],
        ["WEAK", "FAILURES=0"],
        ["WEAK", "BUFFER=5", "AHEAD=0", "FAILURES=0"],
        ["MSGS=3", "CAP=2", "AHEAD=0", "FAILURES=0"],
    ][:trials]
    states = sum(explore("ring", *size) for size in sizes)
    return Result(states, f"{states:,} states")


@check("model of ring and doorbell fails with each mutation", ci=17, release=17, pure=0)
def mutations_of_ring_and_doorbell(trials: int) -> Result:
    for mutation, finding in RING_MUTATIONS.items():
        expect("ring", mutation, finding)
    return Result(trials, ", ".join(RING_MUTATIONS))


@check("model of incarnations holds: no reply to a successor", ci=2, release=3, pure=0)
def model_of_incarnations(trials: int) -> Result:
    states = explore("incarnations", f"LIVES={trials}")
    return Result(states, f"{states:,} states")


@check("model of incarnations fails with each mutation", ci=2, release=2, pure=0)
def mutations_of_incarnations(trials: int) -> Result:
    for mutation, finding in INCARNATION_MUTATIONS.items():
        expect("incarnations", mutation, finding)
    return Result(trials, ", ".join(INCARNATION_MUTATIONS))


@check("model of credit holds: whatever calls whatever, all of it ends", ci=3, release=5, pure=0)
def model_of_credit(trials: int) -> Result:
    sizes = [
        ["ROOTS=1", "DEEPEST=1"],
        ["ROOTS=3", "BUDGET=2"],
        ["ROOTS=2"],
        ["ROOTS=2", "CREDIT=2", "THREADS=2", "STREAMS=1"],
        ["ROOTS=1", "BUDGET=4"],
    ][:trials]
    states = sum(explore("credit", *size) for size in sizes)
    return Result(states, f"{states:,} states")


@check("model of credit fails with each mutation", ci=6, release=6, pure=0)
def mutations_of_credit(trials: int) -> Result:
    for mutation, size in CREDIT_MUTATIONS.items():
        expect("credit", mutation, _ASLEEP, *size)
    return Result(trials, ", ".join(CREDIT_MUTATIONS))


@check("model of the fence holds: no partition has two owners at once", ci=3, release=5, pure=0)
def model_of_the_fence(trials: int) -> Result:
    sizes = [
        ["EPOCHS=3"],
        ["EPOCHS=2", "RESTARTS=2"],
        ["EPOCHS=3", "NODES=2", "LOWEST", "RESTARTS=1"],
        ["EPOCHS=2", "NODES=4"],
        ["EPOCHS=2", "RESTARTS=3"],
    ][:trials]
    states = sum(explore("fence", *size) for size in sizes)
    return Result(states, f"{states:,} states")


@check("model of the fence fails with each mutation", ci=10, release=10, pure=0)
def mutations_of_the_fence(trials: int) -> Result:
    for mutation, size in FENCE_MUTATIONS.items():
        expect("fence", mutation, _TORN, *size)
    return Result(trials, ", ".join(FENCE_MUTATIONS))


@check("model of silence holds: nobody is written out of a cluster whom most of it hears", ci=2, release=2, pure=0)
def model_of_silence(trials: int) -> Result:
    states = sum(explore("silence", *macros) for macros in ([], ["UNCONFIRMED"])[:trials])
    return Result(states, f"{states:,} states")


@check("model of silence fails with each mutation", ci=3, release=3, pure=0)
def mutations_of_silence(trials: int) -> Result:
    for mutation in SILENCE_MUTATIONS:
        expect("silence", mutation, _TORN)
    return Result(trials, ", ".join(SILENCE_MUTATIONS))


@check(
    "model of lineages holds: of two clusters of which one began in a lost store one goes on", ci=2, release=3, pure=0
)
def model_of_lineages(trials: int) -> Result:
    sizes = [["NODES=2", "WIPES=2"], ["DEATHS=0", "EPOCHS=2"], ["EPOCHS=2"]][:trials]
    states = sum(explore("lineages", *size) for size in sizes)
    return Result(states, f"{states:,} states")


@check("model of lineages fails with each mutation", ci=4, release=4, pure=0)
def mutations_of_lineages(trials: int) -> Result:
    for mutation in LINEAGE_MUTATIONS:
        expect("lineages", mutation, _TORN)
    return Result(trials, ", ".join(LINEAGE_MUTATIONS))


def explore(model: str, *macros: str) -> int:
    """The number of states of the model, in none of which anything is wrong."""
    output = spin(model, *macros)
    if "errors: 0" not in output:
        raise AssertionError(f"{model}.pml {' '.join(macros)}:\n{output}")
    states = re.search(r"(\d+) states, stored", output)
    assert states is not None, output
    return int(states[1])


def expect(model: str, mutation: str, finding: str, *size: str) -> None:
    """Spin must complain of the mutated model in these words."""
    output = spin(model, mutation, *size, compiled="-O0")  # it is found sooner than a better verifier is compiled
    if "errors: 0" in output or finding not in output:
        raise AssertionError(f"{model}.pml with {mutation} should have shown an {finding}:\n{output}")


def spin(model: str, *macros: str, compiled: str = "-O1") -> str:
    """Translate, compile, run; what the verifier printed. compiled: how well."""
    for program in ("spin", "cc"):
        if shutil.which(program) is None:
            raise Unavailable(f"{program} is not installed")
    with tempfile.TemporaryDirectory() as directory:

        def run(*command: str) -> str:
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
            if done.returncode:
                raise AssertionError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
            return done.stdout

        run("spin", "-a", *(f"-D{macro}" for macro in macros), str(MODELS / f"{model}.pml"))
        run("cc", compiled, "-w", "-DSAFETY", f"-DMEMLIM={_MEMORY_MIB}", *_FLAGS.get(model, ()), "-o", "pan", "pan.c")
        output = run("./pan", "-m1000000")
    for incomplete in ("max search depth too small", "out of memory", "memory limit"):
        if incomplete in output:
            raise AssertionError(f"{model}.pml {' '.join(macros)} was not explored to the end:\n{output}")
    return output
