# cython: language_level=3, annotation_typing=False, auto_pickle=False, allow_none_for_extension_args=False
"""What the core polls beside the loop, as the core sees it."""

from __future__ import annotations


class WorkSource:
    """Work that comes from beside the loop, such as the rings of other shards.

    A subclass in Python defines `poll` and `prepare_sleep`. One that is compiled overrides `look` instead of `poll`: the core
    calls it again and again while it waits, and to find a method by its name takes as long as all that it does.
    """

    def look(self) -> bool:
        """`poll`, as the core calls it."""
        return self.poll()

    def poll(self) -> bool:
        """Take in what has come and send off what is waiting. True if there was anything to take in."""
        raise NotImplementedError

    def prepare_sleep(self) -> bool:
        """Called before the core leaves the thread to the loop with nothing runnable. From here on news must come through
        the loop. False if there is news already."""
        raise NotImplementedError

    def turn_failed(self) -> None:
        """Called when a turn ends in an exception: it ended without the look that ends others, and the next may be long in
        coming."""
