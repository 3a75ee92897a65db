"""The sales of each day, computed from every single order: seconds of work for a year, in steps of about a millisecond."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import clockworker as cw

from ._catalogue import CATALOGUE

ORDERS = 1000  # a day


async def sales(days: int) -> AsyncIterator[str]:
    """Lines of a CSV file, a day each. Between two days it gives way if anybody has waited for long enough."""
    yield "day," + ",".join(CATALOGUE) + ",cents\n"
    for day in range(days):
        counts = dict.fromkeys(CATALOGUE, 0)
        for product in orders(day):
            counts[product] += 1
        cents = sum(CATALOGUE[product].cents * count for product, count in counts.items())
        yield f"{day},{','.join(map(str, counts.values()))},{cents}\n"
        await cw.yield_maybe()


def orders(day: int) -> list[str]:
    """Of that day; made up, and the same each time."""
    return random.Random(day).choices([*CATALOGUE], k=ORDERS)
