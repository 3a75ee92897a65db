"""What an option is.

Its name is its first flag's: `--app-dir` is `CLOCKWORKER_APP_DIR` in the environment and `app_dir` in the file.
Texts are read by `read`, wherever they come from, so that a value is right or wrong for one reason only. The file has
types; `takes` are those that make sense, and are turned into the text that `read` expects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

PREFIX = "CLOCKWORKER_"

# The groups of the help, in its order.
GROUPS = ("shards", "queues", "sockets", "application", "http", "cluster", "life", "logs", "operations")


class Option(msgspec.Struct, frozen=True):
    """`read` makes a value of the text, or of all texts if the option may be repeated; a switch has no metavar.

    takes: the types that its value may have in the file. Empty: it is not for the file.
    between: what stands between several values in a variable, as a regular expression.
    """

    group: str
    flags: tuple[str, ...]
    metavar: str
    read: Callable[[Any], object]
    help: str
    takes: tuple[type, ...] = (str,)
    repeat: bool = False
    other_variable: str | None = None
    between: str = r"\s+|,(?!mode=)"  # `unix:PATH,mode=660` is one

    @property
    def name(self) -> str:
        return self.flags[0].lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,) if self.other_variable is None else (self.variable, self.other_variable)
