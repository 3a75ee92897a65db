"""Random graphs of calls over three shards: whatever calls whatever, all of it ends, and nothing is left of it."""

from __future__ import annotations

import os

from tests.reliability._call_graphs import Standstill, run_graphs
from tests.reliability._checks import Result, check

_CREDITS = (1, 2, 3, 4)


@check(
    "random graphs of calls, streams, one-way requests and threads: standstills 0",
    ci=4_000,
    release=1_000_000,
    pure=400,
)
def call_graphs(trials: int) -> Result:
    first = int(os.environ.get("CALL_GRAPHS_SEED", 0)) or int.from_bytes(os.urandom(5))
    print(f"seeds from {first:,}; CALL_GRAPHS_SEED={first} repeats them", flush=True)
    each = -(-trials // len(_CREDITS))
    errors = 0
    for number, credit in enumerate(_CREDITS):
        errors += run_graphs(range(first + number * each, first + (number + 1) * each), credit)
    return Result(each * len(_CREDITS), f"0 standstills, {errors:,} calls in errors, seeds from {first:,}")


@check("the same graphs stand still where requests do not know that they are served", ci=4, release=4)
def call_graphs_without_depth(trials: int) -> Result:
    found = 0
    for credit in _CREDITS[:trials]:
        for seed in range(1_000):
            try:
                run_graphs(range(seed, seed + 1), credit, blind=True)
            except Standstill:
                found += 1
                break
        else:
            raise AssertionError(f"none of 1,000 graphs stands still with credit {credit}")
    return Result(trials, f"{found} found")
