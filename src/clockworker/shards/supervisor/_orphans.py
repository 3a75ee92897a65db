"""The duties of PID 1, which a server in a container mostly is: whatever a shard's child leaves behind when it ends becomes
a child of the supervisor's, and stays a zombie until its status is collected. The same holds for a subreaper, and for children
that whoever started the server had before it became one.
"""

from __future__ import annotations

import os
from collections.abc import Container


def reap_orphans(ours: Container[int]) -> None:
    """Collect the ended children whose pids are not ours. To be called when a child has ended, and after each collection of one
    that is ours: the kernel shows the ended ones in an order of its own, and we look no further than to the first of ours."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in ours:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)
