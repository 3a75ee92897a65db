"""Log lines of supervisor and shards: text on standard error, each with the name of the process that wrote it."""

from __future__ import annotations

import logging


def set_up_logging(process: str, level: str) -> None:
    """`process` is `supervisor` or `shard N`; a record is one write, so that lines of several processes don't mix."""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname)-7s [{process}] %(message)s",
        force=True,
    )
