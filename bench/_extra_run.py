"""What `bench overhead --preempt` runs under cachegrind: `python -m bench._extra_run DIRECTORY KEY...`.

A key is a tuple: "with" or "without", whether greenlet can be found, which the extra `preempt` installs; the operation; how
many tasks, and how many operations. Two queues, none of them preemptive.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from bench import _hidden
from bench._cachegrind import in_children, slow_down_clock

SETUP = "two queues"


def measure(key: str) -> None:
    from bench._loops import on_loop
    from bench._operations import OPERATIONS
    from bench.overhead import queues

    _, name, tasks, operations = ast.literal_eval(key)
    on_loop(queues(SETUP), lambda spawns: OPERATIONS[name](spawns, tasks, operations))


if __name__ == "__main__":
    if ast.literal_eval(sys.argv[2])[0] == "without":
        _hidden.hide("greenlet")  # before what asks for it is imported
    slow_down_clock()
    in_children(Path(sys.argv[1]), sys.argv[2:], measure)
