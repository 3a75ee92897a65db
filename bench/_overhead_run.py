"""What `bench overhead --schedulers --instructions` runs under cachegrind: `python -m bench._overhead_run DIRECTORY KEY...`.

A key is a tuple: the row, the set-up, and how many operations.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from bench import _overhead_schedulers
from bench._cachegrind import in_children, slow_down_clock


def measure(key: str) -> None:
    row, setup, operations = ast.literal_eval(key)
    _overhead_schedulers.measure(row, setup, operations)


if __name__ == "__main__":
    slow_down_clock()
    in_children(Path(sys.argv[1]), sys.argv[2:], measure)
