"""The site: strictly built, and what is made of the sources is all of it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import clockworker
from clockworker.shards.config._options import OPTIONS
from tests.docs.reader import DOCS, ROOT

pytestmark = pytest.mark.once


def load() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", DOCS / "_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SITE = load()


def test_every_option_is_in_the_reference() -> None:
    page = SITE.options_page()
    sections = page.split("\n### ")[1:]
    assert len(sections) == len(OPTIONS)
    for option in OPTIONS:
        (section,) = [
            each
            for each in sections
            if f"`{option.variable}`" in each and f"`{option.variable}`" in each.split("\n")[4]
        ]
        assert all(f"`{flag}`" in section.split("\n")[0] for flag in option.flags if flag.startswith("-"))
        assert (f"`{option.name}`:" in section) == bool(option.takes)


def test_every_metric_is_in_the_reference() -> None:
    pytest.importorskip("prometheus_client")
    names = [name for name, *_ in SITE.families()]
    explained = re.findall(r"^\| `(clockworker_\w+)` \|", (DOCS / "observing.md").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(explained)  # the guide's, which says more of each, and has a test of its own


def test_every_name_is_in_the_reference() -> None:
    pages = SITE.made()
    all_of_it = "\n".join(pages.values())
    testing = importlib.import_module("clockworker.testing")
    for name in [*clockworker.__all__, *testing.__all__]:
        assert re.search(rf"^::: clockworker\.\w+\.{name}$", all_of_it, re.MULTILINE), name
        assert f"[`{name}`](" in pages["reference/index.md"]


def test_every_reliability_check_is_among_the_promises() -> None:
    from tests.reliability._checks import checks

    assert "<!-- checks -->" in (DOCS / "promises.md").read_text()
    assert all(f"| `{each.name}` | {each.claim} |" in SITE.checks_table() for each in checks())


@pytest.mark.slow
def test_it_is_built_strictly(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "QueueHandle" in (tmp_path / "site" / "reference" / "executor" / "index.html").read_text()


def test_arguments_are_items_of_a_list() -> None:
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("docs_arguments", DOCS / "_arguments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "Serve.\n\nOf it.\nlimit: so many,\nand not more.\nhost, port: where.\nnote: no argument.\n\n    code()\n\nRaises."
    shown = module.as_list(text, {"limit", "host", "port"})
    assert shown == (
        "Serve.\n\nOf it.\n\n- `limit`: so many,\n    and not more.\n- `host`, `port`: where.\n    note: no argument.\n\n"
        "<!-- -->\n\n    code()\n\nRaises."
    )
