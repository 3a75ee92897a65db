"""`python -m bench NAME [options]` runs one benchmark; `--help` after NAME shows its options."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import pkgutil
import sys
from pathlib import Path
from typing import cast

import msgspec

import bench
from bench._report import Benchmark, Checked, Report, machine, progress


def main() -> int:
    names = [module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_")]
    if len(sys.argv) > 1 and sys.argv[1] in names:
        try:
            return run(sys.argv[1], sys.argv[2:])
        except KeyboardInterrupt:
            return 130
    print("usage: python -m bench NAME [--json FILE] [--plot FILE] [options]\n")
    for name in names:
        print(f"  {name:13}{question(name)}")
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        return 0
    print(f"\nno benchmark is called {sys.argv[1]}", file=sys.stderr)
    return 2


def run(name: str, arguments: list[str]) -> int:
    """The exit status: 1 if figures are to be checked, and are not what was wanted."""
    benchmark = cast(Benchmark, importlib.import_module(f"bench.{name}"))
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=question(name))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw them there: .png, .svg or .pdf; needs matplotlib"
    )
    benchmark.add_options(parser)
    options = parser.parse_args(arguments)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib, which is not installed: pip install 'clockworker[bench]'")
    for file in (options.json, options.plot):
        if file and not file.parent.is_dir():
            parser.error(f"there is no directory {file.parent} to write {file.name} to")

    facts = machine()
    print(*[f"{fact}: {value}" for fact, value in facts.items()], sep="\n", flush=True)
    report = benchmark.run(options)
    progress("")
    print(f"\n{report.table()}")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key not in ("json", "plot")}
        document = {"benchmark": name, "machine": facts, "options": settings, **msgspec.to_builtins(report)}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if options.plot:
        draw(report, f"{name}: {question(name)}", options.plot)
    if getattr(options, "check", False):
        failures = cast(Checked, report).failures()
        for failure in failures:
            print(failure, file=sys.stderr)
        return bool(failures)
    return 0


def question(name: str) -> str:
    """The first line of the benchmark's docstring."""
    return (importlib.import_module(f"bench.{name}").__doc__ or "").partition("\n")[0]


def draw(report: Report, title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle(title)
    report.plot(figure)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
