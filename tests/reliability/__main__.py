"""The command: `python -m tests.reliability --help`."""

from __future__ import annotations

import argparse
import sys

import clockworker as cw
from tests.reliability._checks import SIZES, Row, checks, execute


def main() -> int:
    """Exit status 0 if all passed; at release size a check that could not run counts as one that has not passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description="What is promised, proved.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="checks to run; all, unless given")
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--list", action="store_true", help="print the checks and their sizes, and run none")
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
        f"clockworker {cw.__version__}, {'compiled' if cw.compiled else 'pure Python'}; size: {options.size}",
        flush=True,
    )
    rows = []
    for check in chosen:
        row = execute(check, options.size)
        rows.append(row)
        print(f"{row.outcome}: {row.name} ({row.seconds:.1f} s)", flush=True)
    print(f"\n{table(rows)}")
    bad = {"failed"} if options.size == "ci" else {"failed", "unavailable"}
    return 1 if any(row.outcome in bad for row in rows) else 0


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
