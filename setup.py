"""The compiled modules. Everything else about the package is in pyproject.toml.

CLOCKWORKER_PURE=1 builds none of them. Without a working compiler they are skipped with a warning and the package runs
as pure Python, unless CLOCKWORKER_REQUIRE_EXT=1 makes a failed build an error.
"""

import os

from setuptools import Extension, setup

MODULES = {
    "clockworker.executor._cpython_cy": "src/clockworker/executor/_cpython_cy.py",
    "clockworker.executor._seal_cy": "src/clockworker/executor/_seal_cy.py",
    "clockworker.executor._heap_cy": "src/clockworker/executor/_heap_cy.py",
    "clockworker.executor._eevdf_cy": "src/clockworker/executor/_eevdf_cy.py",
    "clockworker.executor._histogram_cy": "src/clockworker/executor/_histogram_cy.py",
    "clockworker.executor._schedulers_cy": "src/clockworker/executor/_schedulers_cy.py",
    "clockworker.executor._registry_cy": "src/clockworker/executor/_registry_cy.py",
    "clockworker.executor._clock_cy": "src/clockworker/executor/_clock_cy.py",
    "clockworker.executor._seam_cy": "src/clockworker/executor/_seam_cy.py",
    "clockworker.executor._tasks_cy": "src/clockworker/executor/_tasks_cy.py",
    "clockworker.executor._table_cy": "src/clockworker/executor/_table_cy.py",
    "clockworker.executor._task_maker_cy": "src/clockworker/executor/_task_maker_cy.py",
    "clockworker.executor._members_cy": "src/clockworker/executor/_members_cy.py",
    "clockworker.executor._runnable_cy": "src/clockworker/executor/_runnable_cy.py",
    "clockworker.executor._singles_cy": "src/clockworker/executor/_singles_cy.py",
    "clockworker.executor._source_cy": "src/clockworker/executor/_source_cy.py",
    "clockworker.executor._meter_cy": "src/clockworker/executor/_meter_cy.py",
    "clockworker.executor._steal_cy": "src/clockworker/executor/_steal_cy.py",
    "clockworker.executor._steps_cy": "src/clockworker/executor/_steps_cy.py",
    "clockworker.executor._core_cy": "src/clockworker/executor/_core_cy.py",
    "clockworker.executor._handles_cy": "src/clockworker/executor/_handles_cy.py",
    "clockworker.ipc._memory_cy": "src/clockworker/ipc/_memory_cy.py",
    "clockworker.ipc._ring_cy": "src/clockworker/ipc/_ring_cy.py",
    "clockworker.ipc._doorbell_cy": "src/clockworker/ipc/_doorbell_cy.py",
    "clockworker.ipc._ahead_cy": "src/clockworker/ipc/_ahead_cy.py",
    "clockworker.ipc._call_cy": "src/clockworker/ipc/_call_cy.py",
    "clockworker.ipc._shared_cy": "src/clockworker/ipc/_shared_cy.py",
    "clockworker.ipc._connection_cy": "src/clockworker/ipc/_connection_cy.py",
    "clockworker.ipc._credit_cy": "src/clockworker/ipc/_credit_cy.py",
    "clockworker.ipc._link_cy": "src/clockworker/ipc/_link_cy.py",
    "clockworker.ipc._outbox_cy": "src/clockworker/ipc/_outbox_cy.py",
    "clockworker.ipc._request_cy": "src/clockworker/ipc/_request_cy.py",
    "clockworker.ipc._traffic_cy": "src/clockworker/ipc/_traffic_cy.py",
    "clockworker.shards._accepted_cy": "src/clockworker/shards/_accepted_cy.py",
}


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


# Without the sources' lines for a debugger, which nobody wants of generated C: a fifth less time to build, and a seventh of
# the size. Names of functions stay, for perf and py-spy.
extensions = [
    Extension(name, [source], extra_compile_args=["-g0"], optional=not flag("CLOCKWORKER_REQUIRE_EXT"))
    for name, source in MODULES.items()
]
setup(ext_modules=[] if flag("CLOCKWORKER_PURE") else extensions)
