"""EEVDF between groups once more, by the book: fractions, lists, no heap. `FairGroups` and `FairFifo` are compared with it.

Durations and shares are chosen so that nothing in the real one is rounded: see `UNIT_NS`.
"""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction

SLICE_NS = 1_000_000
UNIT_NS = 720_720  # a multiple of all numbers up to 16, which the total of shares must not exceed


class Claim:
    """A group in the eyes of the model."""

    def __init__(self, key: Hashable, share: int, order: int) -> None:
        self.key = key
        self.share = share
        self.order = order
        self.active = False
        self.vruntime = Fraction(0)
        self.deadline = Fraction(0)
        self.lag = Fraction(0)


class FairModel:
    """Who is next, of those who are active."""

    def __init__(self) -> None:
        self.virtual_time = Fraction(0)
        self.claims: list[Claim] = []

    def add(self, key: Hashable, share: int) -> Claim:
        claim = Claim(key, share, len(self.claims))
        self.claims.append(claim)
        return claim

    def active(self) -> list[Claim]:
        return [claim for claim in self.claims if claim.active]

    def activate(self, claim: Claim) -> None:
        span = Fraction(SLICE_NS, claim.share)
        claim.vruntime = self.virtual_time - min(claim.lag, span)
        claim.deadline = claim.vruntime + span
        claim.active = True

    def deactivate(self, claim: Claim) -> None:
        claim.lag = self.virtual_time - claim.vruntime
        claim.active = False

    def pick(self) -> Claim:
        if not any(claim.vruntime <= self.virtual_time for claim in self.active()):
            self.virtual_time = min(claim.vruntime for claim in self.active())
        eligible = [claim for claim in self.active() if claim.vruntime <= self.virtual_time]
        return min(eligible, key=lambda claim: (claim.deadline, claim.order))

    def charge(self, claim: Claim, elapsed_ns: int) -> None:
        self.virtual_time += Fraction(elapsed_ns, sum(each.share for each in self.active()))
        claim.vruntime += Fraction(elapsed_ns, claim.share)
        if claim.vruntime >= claim.deadline:
            claim.deadline = claim.vruntime + Fraction(SLICE_NS, claim.share)
