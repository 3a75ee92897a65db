"""What every reader of configuration owes whatever it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clockworker import ConfigurationError


@contextmanager
def right_or_told() -> Iterator[None]:
    """It is read, or a `ConfigurationError` says what is wrong with it, in one line; nothing else is raised."""
    try:
        yield
    except ConfigurationError as error:
        told = str(error)
    else:
        return
    assert told
    assert "\n" not in told, told
