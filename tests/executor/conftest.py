"""What tests of the executor share."""

from tests.executor.slices import by_hand

__all__ = ["by_hand"]
