"""The page on HTTP: its code runs as it stands there, and its table has all options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clockworker.shards.config._http import HttpConfig, Route
from clockworker.shards.config._options import HTTP_FIELDS, OF_HTTP
from clockworker.shards.config._parse import show_size
from tests.http.test_command import get, queue_of
from tests.shards.servers import Serve

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
SHOP, PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(FILE,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| (`--[^|]*) \|\s*([^|]*?)\s*\|", PAGE, re.MULTILINE)


def test_its_file_and_its_application(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "clockworker.toml").write_text(FILE)
    server = serve(None, "--no-pin", "--spares", "0", app=None)
    server.wait_serving()
    assert queue_of(server, "/") == queue_of(server, "/reports/daily") == "foreground"
    assert queue_of(server, "/reports/acme") == "background"
    assert get(server, "/exports/acme/")[0] == 404
    assert server.stop() == 0


@pytest.mark.parametrize(("app", "root"), [("program", "foreground"), ("main", "background")])
def test_its_programs(app: str, root: str, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "programs.py").write_text(PROGRAMS)
    server = serve(None, "--shards", "1", "--no-pin", "--spares", "0", app=f"programs:{app}")
    server.wait_serving()
    assert queue_of(server, "/") == root
    assert queue_of(server, "/reports/acme") == "background"
    assert server.stop() == 0


def shown(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case int() | float():
            return f"{value:g}" if value % 1024 or not value else show_size(value)
        case None | "" | ():
            return ""
    return str(value)


def test_its_table_has_every_option_and_its_default() -> None:
    defaults = {name: default for names, default in ROWS for name in re.findall(r"--([\w-]+)", names)}
    assert list(defaults) == [name.replace("_", "-") for name in OF_HTTP]
    for name in OF_HTTP:
        value = shown(getattr(HttpConfig(), HTTP_FIELDS.get(name, name)))
        said = defaults[name.replace("_", "-")]
        assert said == value or (not value and name in ("lifespan_queue", "limit_concurrency", "limit_max_requests")), (
            name
        )


def test_its_table_of_keys_has_all_that_a_route_has() -> None:
    keys = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(keys) == sorted(Route.__struct_fields__)
