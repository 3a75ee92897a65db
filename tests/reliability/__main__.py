"""The command: `python -m tests.reliability --help`.

It says first what it will do and how long that takes, goes on after a check that fails, and ends with a table.
"""

from __future__ import annotations

import argparse
import sys
import time

import clockworker as cw
from tests.reliability._checks import SIZES, Check, Row, checks, execute


def main() -> int:
    """Exit status 0 if all passed; at release size a check that could not run counts as one that has not passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description="What is promised, proved.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="checks to run; all, unless given")
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--count", type=int, metavar="N", help="trials of each check, in the place of its size")
    parser.add_argument("--list", action="store_true", help="print the checks and their sizes, and run none")
    parser.add_argument(
        "--hours", type=float, default=0.0, metavar="H", help="go round the chosen checks until so many hours are over"
    )
    options = parser.parse_args()
    known = {check.name: check for check in checks()}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no check is called {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [known[name] for name in options.names or known]
    if options.list:
        for check in chosen:
            print(f"{check.name:32} {check.ci:>12,} {check.release:>14,}  {check.claim}")
        return 0
    print(
        f"clockworker {cw.__version__}, {'compiled' if cw.compiled else 'pure Python'}; size: {options.count or options.size}\n"
        f"{announcement(chosen, options.size, options.count)}\n",
        flush=True,
    )
    rows = []
    until = time.monotonic() + options.hours * 3600
    while not rows or time.monotonic() < until:
        for check in chosen:
            row = execute(check, options.size, options.count)
            rows.append(row)
            print(f"{row.outcome}: {row.name} ({row.seconds:.1f} s)", flush=True)
    print(f"\n{table(rows)}")
    bad = {"failed"} if options.size == "ci" else {"failed", "unavailable"}
    return 1 if any(row.outcome in bad for row in rows) else 0


def announcement(chosen: list[Check], size: str, count: int | None) -> str:
    """What will be run, and about how long it takes. count: trials of each, in the place of the size's."""
    known, lines = 0.0, []
    for check in chosen:
        if trials := check.trials(size) if count is None else count:
            seconds = check.seconds(trials)
            known += seconds or 0.0
            lines.append(f"  {check.name:32} {trials:>14,}  {'' if seconds is None else duration(seconds)}".rstrip())
    some = sum(check.pace is None and check.trials(size) > 0 for check in chosen)
    more = f", and {some} whose time nobody has measured" if some else ""
    return "\n".join([*lines, f"{len(lines)} checks, about {duration(known)} on two cores of their own{more}"])


def duration(seconds: float) -> str:
    """In words, roughly."""
    return f"{seconds:,.0f} s" if seconds < 100 else f"{seconds / 60:,.0f} min"


def table(rows: list[Row]) -> str:
    """The summary."""
    cells = [["check", "claim", "result", "trials", "seconds", "figure"]]
    cells += [
        [row.name, row.claim, row.outcome, f"{row.trials:,}", f"{row.seconds:.1f}", row.figure.replace("\n", " ")]
        for row in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in cells
    )


if __name__ == "__main__":
    sys.exit(main())
