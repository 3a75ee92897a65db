"""What the tests of a cluster take from those of one machine: `tests/ipc` has no package, its modules are found by a path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.with_name("ipc")))
