"""What somebody probably meant who wrote a name that there is not."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    # Here, because a shard that starts well never needs it.
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """For the middle of a message: `did you mean 'shards'? `, or nothing."""
    near = nearest(name, known)
    return "" if near is None else f"did you mean {near!r}? "
