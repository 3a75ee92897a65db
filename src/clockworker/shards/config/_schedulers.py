"""The schedulers that a queue may have: those that come with the executor, by a short name, and the application's own, by
an import string. The latter are imported in the shard only; before that nothing but their form is checked."""

from __future__ import annotations

from collections.abc import Callable

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
}


def check_scheduler(name: str) -> str:
    """Returns `name` if it is a known one or has the form MODULE:CLASS. Raises `ConfigurationError`."""
    module, colon, path = name.partition(":")
    if name in SCHEDULERS or (colon and all(part.isidentifier() for part in (*module.split("."), *path.split(".")))):
        return name
    hint = did_you_mean(name, (*SCHEDULERS, PREEMPTIVE))
    raise ConfigurationError(
        f"unknown scheduler {name!r}; {hint}choose one of {', '.join(SCHEDULERS)}, or give your own as MODULE:CLASS"
    )


def make_scheduler(name: str, app_dir: str) -> Scheduler:
    """A new scheduler. Raises `ApplicationError`, or what the application raises while its own is imported or made."""
    make = SCHEDULERS.get(name)
    if make is not None:
        return make()
    wanted = "a class derived from clockworker.Scheduler, or a function without arguments that returns one"
    target = import_attribute(name, app_dir, wanted)
    if not callable(target):
        raise ApplicationError(f"scheduler {name} is of type {type(target).__name__}; it should be {wanted}")
    scheduler = target()
    if not isinstance(scheduler, Scheduler):
        raise ApplicationError(f"scheduler {name} made a {type(scheduler).__name__}; it should be {wanted}")
    return scheduler
