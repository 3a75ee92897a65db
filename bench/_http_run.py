"""What `bench http --instructions` runs under cachegrind: `python -m bench._http_run DIRECTORY KEY...`.

A key is a tuple: the server, the set-up, how many connections, and how many requests each has answered.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from bench._cachegrind import in_children, slow_down_clock
from bench.http import in_process


def measure(key: str) -> None:
    in_process(*ast.literal_eval(key))


if __name__ == "__main__":
    slow_down_clock()
    in_children(Path(sys.argv[1]), sys.argv[2:], measure)
