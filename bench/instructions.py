"""How many instructions does a request cost, beside uvicorn's?

Both protocols are driven in process on uvloop (uvicorn's on httptools; ours with three queues and routes) under valgrind's
cachegrind, which counts the instructions of the process, not those of system calls. Such counts are the same on any day and
under any load, to a thousandth. Runs of n and of 2n requests are subtracted, so imports and start-up drop out. The access log
is off or on for both, and goes to /dev/null. `--check` ends with status 1 if a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bench._cachegrind import count_instructions
from bench._report import columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, PEER = "clockworker", "uvicorn"
# Of uvicorn's instructions, at most: without and with the access log.
LIMITS = {
    "plain": {False: 0.60, True: 0.65},
    "starlette": {False: 0.80, True: 0.85},
    "fastapi": {False: 0.95, True: 0.97},
}
WHAT = {
    "plain": "raw ASGI, plain text",
    "starlette": "Starlette, JSON",
    "fastapi": "FastAPI, POST, pydantic",
}


class Count(msgspec.Struct, frozen=True):
    """Instructions a request."""

    workload: str
    access_log: bool
    uvicorn: float
    clockworker: float
    limit: float

    def ratio(self) -> float:
        return self.clockworker / self.uvicorn


class Instructions(msgspec.Struct, frozen=True):
    requests: int  # in the shorter run
    counts: list[Count]

    def table(self) -> str:
        rows = [["instructions a request", "access log", PEER, OURS, "ratio", "limit"]]
        rows += [
            [
                WHAT[each.workload],
                "on" if each.access_log else "off",
                f"{each.uvicorn:,.0f}",
                f"{each.clockworker:,.0f}",
                f"{each.ratio():.3f}",
                f"{each.limit:.2f}",
            ]
            for each in self.counts
        ]
        return f"{columns(rows)}\n\nruns of {self.requests} and {2 * self.requests} requests"

    def failures(self) -> list[str]:
        return [
            f"{WHAT[each.workload]}, access log {'on' if each.access_log else 'off'}: {each.ratio():.3f} of uvicorn's "
            f"instructions; at most {each.limit:.2f} were wanted"
            for each in self.counts
            if each.ratio() > each.limit
        ]

    def plot(self, figure: Figure) -> None:
        axes = figure.add_subplot(ylabel="thousands of instructions a request")
        for number, side in enumerate((PEER, OURS)):
            figures = [getattr(each, side) / 1e3 for each in self.counts]
            axes.bar([place + 0.4 * number for place in range(len(figures))], figures, 0.4, label=side)
        labels = [f"{WHAT[each.workload]}\nlog {'on' if each.access_log else 'off'}" for each in self.counts]
        axes.set_xticks([place + 0.2 for place in range(len(labels))], labels, fontsize="small")
        axes.legend()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=1_000, help="in the shorter run")
    parser.add_argument("--workloads", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--check", action="store_true", help="end with status 1 if a ratio is above its limit")


def run(options: argparse.Namespace) -> Instructions:
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed (Debian: apt-get install valgrind)")
    with tempfile.TemporaryDirectory() as directory:
        measured = measure(Path(directory), options.requests, options.workloads)
    counts = [
        Count(name, log, measured[name, PEER, log], measured[name, OURS, log], LIMITS[name][log])
        for log in (False, True)
        for name in options.workloads
    ]
    return Instructions(options.requests, counts)


def measure(directory: Path, requests: int, workloads: list[str]) -> dict[tuple[str, str, bool], float]:
    """Instructions a request by workload, side, and whether there is an access log."""
    kinds = [(workload, side, log) for workload in workloads for side in (PEER, OURS) for log in (False, True)]
    keys = [str((*kind, times * requests)) for kind in kinds for times in (1, 2)]
    totals = count_instructions(directory, "bench._instructions_run", keys)
    return {kind: (totals[str((*kind, 2 * requests))] - totals[str((*kind, requests))]) / requests for kind in kinds}
