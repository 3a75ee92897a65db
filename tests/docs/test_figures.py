"""What the pictures show is what the pages say that was measured."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.docs.reader import DOCS, ROOT

pytestmark = pytest.mark.once

PANELS: list[dict[str, Any]] = json.loads((DOCS / "figures" / "latency.json").read_text())["panels"]
MIXED, HOGS = PANELS


def rows_of(page: str, head: str) -> dict[str, list[str]]:
    """A table's, by their first cell."""
    table = (DOCS / page).read_text().partition(f"\n{head}\n")[2].partition("\n\n")[0]
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    return {row[0]: row[1:] for row in rows}


def p99_of(cell: str) -> float:
    """Of `p50 / p99`."""
    return float(cell.split("/")[1].split()[0])


def test_light_requests_beside_heavy_ones() -> None:
    table = rows_of(MIXED["page"], "| | alone | beside 8 heavy, 1 worker | beside 8 heavy, 2 workers |")
    for row in MIXED["rows"]:
        alone, beside, _ = table[row["name"]]
        assert row["values"] == [p99_of(alone), p99_of(beside)], row["name"]


# A row of the picture, and of the page.
OF_HOGS = {
    "hogs in a preemptive queue": "in a preemptive queue",
    "hogs in threads, switch interval 0.5 ms": "in threads, switch interval 0.5 ms",
    "hogs in threads, switch interval 5 ms": "in threads, switch interval 5 ms",
    "plain uvloop": "plain uvloop",
}


def test_requests_beside_hogs() -> None:
    table = rows_of(HOGS["page"], "| | timer | request |")
    assert len(HOGS["rows"]) == len(OF_HOGS)
    for row in HOGS["rows"]:
        one, _, eight = [
            float(value.strip(" *").replace(",", "")) for value in table[OF_HOGS[row["name"]]][1].split("/")
        ]
        assert row["values"] == [one, eight], row["name"]


def test_the_picture_is_drawn_from_them() -> None:
    picture = (DOCS / "figures" / "latency.svg").read_text()
    texts = set(re.findall(r">([^<>]+)</text>", picture))
    for panel in PANELS:
        for row in panel["rows"]:
            assert {row["name"], *(f"{value:,g}" for value in row["values"])} <= texts


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_its_description_is_of_them(page: str) -> None:
    described = re.search(r"!\[(99 of 100 [^]]*)\]", (ROOT / page).read_text())
    assert described is not None
    (ours, *others), (cut, *_, plain) = MIXED["rows"], HOGS["rows"]
    beside = [row["values"][1] for row in others]
    assert f"at most {ours['values'][1]:g} ms" in described[1]
    assert f"{min(beside):.0f} to {max(beside):.0f} ms" in described[1]
    assert f"{cut['values'][1]:g} ms, and {plain['values'][1] / 1000:.1f} s" in described[1]
