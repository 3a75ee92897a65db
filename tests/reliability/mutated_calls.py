"""Plain Python against the compiled modules."""

from __future__ import annotations

import os
import random

import clockworker as cw
from tests.reliability._checks import Result, check
from tests.reliability._mutated_calls import run_process

_A_PROCESS = 20_000


@check("plain Python against compiled modules: crashes 0", ci=40_000, release=20_000_000, pure=0, pace=20_000)
def mutated_calls(trials: int) -> Result:
    """Under the debug allocator, which fills freed memory and guards its ends. Under AddressSanitizer: build with
    CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g -O1" and run with LD_PRELOAD=libasan.so, PYTHONMALLOC=malloc and
    ASAN_OPTIONS=detect_leaks=0."""
    environment = {"PYTHONMALLOC": os.environ.get("PYTHONMALLOC", "debug")}
    processes = max(1, trials // _A_PROCESS)
    first = random.randrange(1_000_000)
    for seed in range(first, first + processes):
        run_process(seed, _A_PROCESS, environment)
    return Result(processes * _A_PROCESS, f"0 crashes; seeds {first} to {first + processes - 1}; {cw.__version__}")
