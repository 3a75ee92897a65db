"""A pytest plug-in for uvicorn's own tests: they find Clockworker's connection where they look for uvicorn's protocols.

A run copies this file beside uvicorn's tests, whose package is called `tests` as ours is, and loads it with `-p`; so it imports
nothing of ours but the package itself. Fixtures of theirs that choose a protocol import it by its name: there the adapter is
put. Of a test that is made for several protocols only the variant of the name is run that was replaced.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

OUTCOMES_VARIABLE = "CLOCKWORKER_OUTCOMES"  # the file for the outcome of each test
SUBJECT_VARIABLE = "CLOCKWORKER_SUBJECT"  # clockworker, or uvicorn for a run that says what this harness makes of uvicorn

# The variants of their fixtures that are run: `http_protocol_cls`, `ws_protocol_cls`.
_VARIANTS = {"http_protocol_cls": "httptools_impl:", "ws_protocol_cls": "websockets_sansio_impl:"}

_outcomes: dict[str, str] = {}


def pytest_configure() -> None:
    if os.environ[SUBJECT_VARIABLE] == "uvicorn":
        return
    raise NotImplementedError


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen, others = [], []
    for item in items:
        (chosen if _is_variant(item) else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


def _is_variant(item: pytest.Item) -> bool:
    given: dict[str, Any] = getattr(item, "callspec").params if hasattr(item, "callspec") else {}
    return all(variant in given.get(fixture, variant) for fixture, variant in _VARIANTS.items())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid.partition("::")[2]
    if report.when == "call" or report.outcome != "passed":
        said = report.longreprtext.strip().splitlines()[-1:] if report.failed else []
        _outcomes[name] = ": ".join([report.outcome, *said])


def pytest_sessionfinish() -> None:
    with open(os.environ[OUTCOMES_VARIABLE], "w") as file:
        json.dump(_outcomes, file)
