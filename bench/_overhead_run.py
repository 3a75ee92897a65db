"""What `bench overhead --preempt` runs under cachegrind: python -m bench._overhead_run DIRECTORY COUNT TASKS with|without NAME...

with, without: whether greenlet, which the extra `preempt` installs, can be found. Each measurement is a child that does so many
operations with two queues, none of them preemptive; cachegrind writes a file for each. A child of n operations and one of 2n
differ by n. What each child was is written to DIRECTORY/children.json, by process id.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

from bench import _hidden

SETUP = "two queues"


def main(directory: Path, operations: int, tasks: int, kind: str, names: list[str]) -> None:
    if kind == "without":
        _hidden.hide("greenlet")
    from bench._loops import on_loop
    from bench.overhead import OPERATIONS, queues

    gc.collect()
    gc.freeze()  # or a child's first collection would copy all of the parent's memory, and count
    children: dict[int, tuple[str, int]] = {}
    for name in names:
        measure = OPERATIONS[name]
        for count in (operations, 2 * operations):
            pid = os.fork()
            if pid == 0:
                on_loop(queues(SETUP), lambda spawns: measure(spawns, tasks, count))  # noqa: B023
                sys.exit(0)
            _, status = os.waitpid(pid, 0)
            if status:
                raise SystemExit(f"{name} ended with status {status}")
            children[pid] = (name, count)
    (directory / "children.json").write_text(json.dumps(children))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
