"""The compiled modules. Everything else about the package is in pyproject.toml.

All CPUs that this process may use compile. CLOCKWORKER_PURE=1 builds none of the modules. Without a working compiler they are
skipped with a warning and the package runs as pure Python, unless CLOCKWORKER_REQUIRE_EXT=1 makes a failed build an error.
They come together or not at all: they import each other's C. If CYTHON_CACHE_DIR is set, what they were translated to is kept
there, by what it was made from: C is the same for all versions of CPython, and a fourth of the time.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

if "t" in getattr(sys, "abiflags", ""):
    sys.exit(
        "clockworker relies on CPython's interpreter lock, and this is a free-threaded Python: install it for another"
    )

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

SECONDS = 100  # of one CPU of a usual machine, for all modules

MODULES = {
    "clockworker.executor._cpython_cy": "src/clockworker/executor/_cpython_cy.py",
    "clockworker.executor._seal_cy": "src/clockworker/executor/_seal_cy.py",
    "clockworker.executor._heap_cy": "src/clockworker/executor/_heap_cy.py",
    "clockworker.executor._eevdf_cy": "src/clockworker/executor/_eevdf_cy.py",
    "clockworker.executor._nested_cy": "src/clockworker/executor/_nested_cy.py",
    "clockworker.executor._histogram_cy": "src/clockworker/executor/_histogram_cy.py",
    "clockworker.executor._schedulers_cy": "src/clockworker/executor/_schedulers_cy.py",
    "clockworker.executor._running_queue_cy": "src/clockworker/executor/_running_queue_cy.py",
    "clockworker.executor._jobs_cy": "src/clockworker/executor/_jobs_cy.py",
    "clockworker.executor._fair_groups_cy": "src/clockworker/executor/_fair_groups_cy.py",
    "clockworker.executor._fair_fifo_cy": "src/clockworker/executor/_fair_fifo_cy.py",
    "clockworker.executor._fair_srpt_cy": "src/clockworker/executor/_fair_srpt_cy.py",
    "clockworker.executor._edf_cy": "src/clockworker/executor/_edf_cy.py",
    "clockworker.executor._paced_cy": "src/clockworker/executor/_paced_cy.py",
    "clockworker.executor._orders_cy": "src/clockworker/executor/_orders_cy.py",
    "clockworker.executor._registry_cy": "src/clockworker/executor/_registry_cy.py",
    "clockworker.executor._clock_cy": "src/clockworker/executor/_clock_cy.py",
    "clockworker.executor._seam_cy": "src/clockworker/executor/_seam_cy.py",
    "clockworker.executor._tasks_cy": "src/clockworker/executor/_tasks_cy.py",
    "clockworker.executor._table_cy": "src/clockworker/executor/_table_cy.py",
    "clockworker.executor._task_maker_cy": "src/clockworker/executor/_task_maker_cy.py",
    "clockworker.executor._members_cy": "src/clockworker/executor/_members_cy.py",
    "clockworker.executor._runnable_cy": "src/clockworker/executor/_runnable_cy.py",
    "clockworker.executor._singles_cy": "src/clockworker/executor/_singles_cy.py",
    "clockworker.executor._meter_cy": "src/clockworker/executor/_meter_cy.py",
    "clockworker.executor._steal_cy": "src/clockworker/executor/_steal_cy.py",
    "clockworker.executor._steps_cy": "src/clockworker/executor/_steps_cy.py",
    "clockworker.executor._alarm_cy": "src/clockworker/executor/_alarm_cy.py",
    "clockworker.executor._locks_cy": "src/clockworker/executor/_locks_cy.py",
    "clockworker.executor._fiber_cy": "src/clockworker/executor/_fiber_cy.py",
    "clockworker.executor._guard_cy": "src/clockworker/executor/_guard_cy.py",
    "clockworker.executor._visits_cy": "src/clockworker/executor/_visits_cy.py",
    "clockworker.executor._slices_cy": "src/clockworker/executor/_slices_cy.py",
    "clockworker.executor._core_cy": "src/clockworker/executor/_core_cy.py",
    "clockworker.executor._handles_cy": "src/clockworker/executor/_handles_cy.py",
    "clockworker.trio._steps_cy": "src/clockworker/trio/_steps_cy.py",
    "clockworker.ipc.rings._memory_cy": "src/clockworker/ipc/rings/_memory_cy.py",
    "clockworker.ipc.rings._ring_cy": "src/clockworker/ipc/rings/_ring_cy.py",
    "clockworker.ipc.rings._doorbell_cy": "src/clockworker/ipc/rings/_doorbell_cy.py",
    "clockworker.ipc.rings._ahead_cy": "src/clockworker/ipc/rings/_ahead_cy.py",
    "clockworker.ipc.calls._chain_cy": "src/clockworker/ipc/calls/_chain_cy.py",
    "clockworker.ipc.calls._call_cy": "src/clockworker/ipc/calls/_call_cy.py",
    "clockworker.ipc.calls._shared_cy": "src/clockworker/ipc/calls/_shared_cy.py",
    "clockworker.ipc.rings._connection_cy": "src/clockworker/ipc/rings/_connection_cy.py",
    "clockworker.ipc.calls._credit_cy": "src/clockworker/ipc/calls/_credit_cy.py",
    "clockworker.ipc.calls._link_cy": "src/clockworker/ipc/calls/_link_cy.py",
    "clockworker.ipc.calls._outbox_cy": "src/clockworker/ipc/calls/_outbox_cy.py",
    "clockworker.ipc.calls._request_cy": "src/clockworker/ipc/calls/_request_cy.py",
    "clockworker.ipc._traffic_cy": "src/clockworker/ipc/_traffic_cy.py",
    "clockworker.cluster._pieces_cy": "src/clockworker/cluster/_pieces_cy.py",
    "clockworker.cluster._session_cy": "src/clockworker/cluster/_session_cy.py",
    "clockworker.cluster._far_cy": "src/clockworker/cluster/_far_cy.py",
    "clockworker.shards.worker._accepted_cy": "src/clockworker/shards/worker/_accepted_cy.py",
    "clockworker.http._targets_cy": "src/clockworker/http/_targets_cy.py",
    "clockworker.http._request_cy": "src/clockworker/http/_request_cy.py",
    "clockworker.http._incoming_cy": "src/clockworker/http/_incoming_cy.py",
    "clockworker.http._outgoing_cy": "src/clockworker/http/_outgoing_cy.py",
    "clockworker.http._http2_fields_cy": "src/clockworker/http/_http2_fields_cy.py",
    "clockworker.http._websocket_frames_cy": "src/clockworker/http/_websocket_frames_cy.py",
    "clockworker.http._websocket_inbox_cy": "src/clockworker/http/_websocket_inbox_cy.py",
    "clockworker.http._connection_cy": "src/clockworker/http/_connection_cy.py",
}


# In C libraries of its own where the C library is old.
LIBRARIES = {f"clockworker.executor.{name}": ["rt"] for name in ("_alarm_cy", "_fiber_cy", "_locks_cy")}

# Without the sources' lines for a debugger, which nobody wants of generated C: a fifth less time to build, and a seventh of the
# size. Names of functions stay, for perf and py-spy. -O2 is as fast here as -O3, and smaller. A step is some forty small
# functions in turn, which fill a CPU's cache of instructions: where they happened to begin made a yield 10 % dearer or cheaper
# with each change, until all of them began a line. What the environment asks for has the last word.
FLAGS = ["-g0", "-O2", "-falign-functions=64", *shlex.split(os.environ.get("CFLAGS", ""))]


def flag(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


class build_all(build_ext):
    """Builds all modules at once, or none."""

    def finalize_options(self) -> None:
        super().finalize_options()
        ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        self.parallel = self.parallel or len(ours)

    def build_extensions(self) -> None:
        required = flag("CLOCKWORKER_REQUIRE_EXT")
        print(
            f"clockworker: compiling {len(self.extensions)} modules on {self.parallel} CPUs takes about "
            f"{SECONDS // self.parallel} s; CLOCKWORKER_PURE=1 installs without",
            flush=True,
        )
        try:
            self._translate()
            super().build_extensions()
        except Exception as error:
            if required or not isinstance(error, (BaseError, CCompilerError)):
                raise
            self.warn(
                f"clockworker: compiling failed, so it is installed as pure Python, which works the same and is slower: {error}"
            )
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions.clear()

    def _translate(self) -> None:
        """To C. setuptools by itself would have it done one module at a time: it runs its compiler in threads, and Cython is
        Python."""
        from Cython.Build import cythonize
        from Cython.Compiler.Errors import CompileError

        try:
            translated = cythonize(
                self.extensions,
                nthreads=0 if self.parallel == 1 else self.parallel,
                build_dir=self.build_temp,
                cache="CYTHON_CACHE_DIR" in os.environ,
                force=self.force,
                quiet=True,
            )
        except CompileError as error:
            raise CCompilerError(str(error)) from error
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        # The longest first, so that no CPU waits for one at the end.
        self.extensions.sort(key=lambda extension: -Path(extension.sources[0]).stat().st_size)


if __name__ == "__main__":  # Cython's processes may import this
    extensions = [
        Extension(name, [source], libraries=LIBRARIES.get(name, []), extra_compile_args=FLAGS, depends=["setup.py"])
        for name, source in MODULES.items()
    ]
    setup(ext_modules=[] if flag("CLOCKWORKER_PURE") else extensions, cmdclass={"build_ext": build_all})
