"""The schedulers that a queue may have: those that come with the executor, by a short name, and the application's own, by
an import string. The latter are imported in the shard only; before that nothing but their form is checked.

Some take parameters, after commas: `fair-fifo,limit=4`, `fair-groups,gold=8,silver=2`. So they are one text everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clockworker import executor
from clockworker._errors import ApplicationError, ConfigurationError
from clockworker.executor import Scheduler
from clockworker.shards.config._application import import_attribute
from clockworker.shards.config._config import PREEMPTIVE
from clockworker.shards.config._spelling import did_you_mean

# The command line's name of a scheduler -> the class in clockworker.executor.
SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "fifo": executor.RunnableFifo,
    "runnable-fifo": executor.RunnableFifo,
    "arrival-fifo": executor.ArrivalFifo,
    "las": executor.LAS,
    "qlas": executor.QLAS,
    "fair-fifo": executor.FairFifo,
    "fair-groups": executor.FairGroups,
    "fair-srpt": executor.FairSRPT,
    "edf": executor.EDF,
}

# What the text of each may say more. "": any name, of a group.
PARAMETERS: dict[str, dict[str, tuple[Callable[[str], object], str]]] = {
    "fair-fifo": {"limit": (int, "a whole number")},
    "fair-groups": {"": (int, "a whole number")},
    "fair-srpt": {"slowdown": (float, "a number")},
    "edf": {"within": (float, "seconds")},
}


def check_scheduler(name: str) -> str:
    """Returns `name` if it is a known one, with parameters that it takes, or has the form MODULE:CLASS. Raises
    `ConfigurationError`."""
    module, colon, path = name.partition(":")
    known, comma, _ = name.partition(",")
    if comma and known in SCHEDULERS:
        _make(name)
        return name
    if name in SCHEDULERS or (colon and all(part.isidentifier() for part in (*module.split("."), *path.split(".")))):
        return name
    hint = did_you_mean(known, (*SCHEDULERS, PREEMPTIVE))
    raise ConfigurationError(
        f"unknown scheduler {known!r}; {hint}choose one of {', '.join(SCHEDULERS)}, or give your own as MODULE:CLASS"
    )


def make_scheduler(name: str, app_dir: str) -> Scheduler:
    """A new scheduler. Raises `ApplicationError`, or what the application raises while its own is imported or made."""
    if name.partition(",")[0] in SCHEDULERS:
        return _make(name)
    wanted = "a class derived from clockworker.Scheduler, or a function without arguments that returns one"
    target = import_attribute(name, app_dir, wanted)
    if not callable(target):
        raise ApplicationError(f"scheduler {name} is of type {type(target).__name__}; it should be {wanted}")
    scheduler = target()
    if not isinstance(scheduler, Scheduler):
        raise ApplicationError(f"scheduler {name} made a {type(scheduler).__name__}; it should be {wanted}")
    return scheduler


def _make(text: str) -> Scheduler:
    """One of those that come with the executor. Raises `ConfigurationError`."""
    name, *given = text.split(",")
    takes = PARAMETERS.get(name, {})
    found: dict[str, object] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key or not value:
            raise ConfigurationError(f"{each!r} of scheduler {text!r} is not NAME=VALUE")
        if key not in takes and "" not in takes:
            hint = did_you_mean(key, takes)
            choice = f"it has {', '.join(takes)}" if takes else "it has none"
            raise ConfigurationError(f"scheduler {name} has no parameter {key!r}; {hint}{choice}")
        if key in found:
            raise ConfigurationError(f"{key} of scheduler {text!r} is given twice; give it once")
        parse, right = takes.get(key) or takes[""]
        try:
            found[key] = parse(value)
        except ValueError:
            raise ConfigurationError(f"{key} of scheduler {text!r} is {value!r}; give {right}") from None
    make: Any = SCHEDULERS[name]
    scheduler: Scheduler = make(found) if "" in takes and found else make(**found)
    return scheduler
