"""`python -m bench NAME [options]` runs `main` of the module of that name; `--help` after NAME shows its options."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import bench


def main() -> int:
    names = [module.name for module in pkgutil.iter_modules(bench.__path__) if not module.name.startswith("_")]
    if len(sys.argv) > 1 and sys.argv[1] in names:
        try:
            importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
        except KeyboardInterrupt:
            return 130
        return 0
    print("usage: python -m bench NAME [--json FILE] [options]\n")
    for name in names:
        first_line = (importlib.import_module(f"bench.{name}").__doc__ or "").partition("\n")[0]
        print(f"  {name:12} {first_line}")
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        return 0
    print(f"\nno benchmark is called {sys.argv[1]}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
