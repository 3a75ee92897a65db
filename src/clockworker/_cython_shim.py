"""Stands in for the `cython` module where Cython is not installed, so that it is never a run-time dependency.

The types of the compiled modules are in their .pxd files; the sources only ask whether they are compiled, and say of classes
what Cython overlooks in a .pxd.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

compiled = False


def cclass(of_class: type[T]) -> type[T]:
    """Is a C struct, as its .pxd says. The others below want it to be said here too."""
    return of_class


def final(of_class: type[T]) -> type[T]:
    """Has no subclasses: methods are called directly, not through a table."""
    return of_class


def no_gc_clear(of_class: type[T]) -> type[T]:
    """The collector of cycles looks into instances, and empties none."""
    return of_class


def freelist(size: int) -> Callable[[type[T]], type[T]]:
    """Keeps the memory of so many instances for the next ones. Above `cclass`, which Cython must have seen before."""
    return lambda of_class: of_class


def cast(to: object, value: T) -> T:
    """Takes the value for one of that type, and does not look."""
    return value
