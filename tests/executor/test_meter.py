"""What the kernel says of a thread that was without a core, of real threads and processes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from clockworker.executor import _meter_cy
from clockworker.executor._meter_cy import Meter
from tests.conftest import DEADLINE

NEIGHBOUR = "import os, sys\nprint(flush=True)\nwhile os.getppid() == int(sys.argv[1]): pass"
CAN_PIN = hasattr(os, "sched_setaffinity")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="knows of Linux only")


@pytest.fixture
def neighbour() -> Iterator[None]:
    """Another process on the core of this thread, that never sleeps."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        command = [sys.executable, "-c", NEIGHBOUR, str(os.getpid())]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
            try:
                assert busy.stdout is not None
                busy.stdout.readline()
                yield
            finally:
                busy.kill()
    finally:
        os.sched_setaffinity(0, cores)


@pytest.fixture(params=["schedstat", "switches", "nothing"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What can be asked. Without the file it is switches, and without those nothing."""
    if request.param != "schedstat":
        monkeypatch.setattr(_meter_cy, "_SCHEDSTAT", "/proc/no such file")
    elif not os.path.exists("/proc/thread-self/schedstat"):
        pytest.skip("this kernel has no schedstat")
    if request.param == "nothing":
        monkeypatch.setattr(_meter_cy, "RUSAGE_THREAD", None)
    return str(request.param)


class Window:
    """Wall time, CPU time and what the meter says of a while."""

    def __init__(self, meter: Meter, body: Callable[[], object]) -> None:
        meter.ask(0)
        wall, cpu = time.monotonic_ns(), meter.cpu_ns()
        body()
        self.wall_ns, self.cpu_ns = time.monotonic_ns() - wall, meter.cpu_ns() - cpu
        self.lost_ns = self.wall_ns - self.cpu_ns
        self.stolen_ns = meter.ask(self.lost_ns)


def voluntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def spin(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


@pytest.mark.usefixtures("neighbour")
def test_what_a_neighbour_has_is_stolen(source: str) -> None:
    meter = Meter()
    # Switches say nothing of a while in which the thread has waited for something, be it for a lock of the kernel's.
    for _ in range(20):
        waits = voluntary_switches()
        window = Window(meter, lambda: spin(0.2))
        if voluntary_switches() == waits:
            break
    assert window.lost_ns > 0.02e9  # fair, the kernel would give half of it to each
    if source == "nothing":
        assert window.stolen_ns == 0
    else:
        assert 0.9 * window.lost_ns <= window.stolen_ns <= window.lost_ns
    meter.close()


def test_what_is_slept_is_not(source: str) -> None:
    meter = Meter()
    window = Window(meter, lambda: time.sleep(0.1))
    assert window.lost_ns >= 0.05e9
    if source == "schedstat":  # which counts the wait for a core that a sleep ends with
        assert window.stolen_ns <= window.lost_ns - 0.05e9
    else:
        assert window.stolen_ns == 0
    meter.close()


def test_it_begins_anew_in_another_thread_and_in_a_forked_child(source: str) -> None:
    meter = Meter()
    Window(meter, lambda: time.sleep(0.001))
    said: list[int] = []

    def ask() -> None:
        said.append(meter.ask(10**9))  # lost before the thread came
        said.append(Window(meter, lambda: time.sleep(0.1)).stolen_ns)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(DEADLINE)
    assert said[0] == 0
    assert said[1] < 10**9
    child = os.fork()
    if child == 0:
        os._exit(meter.ask(10**9) != 0)
    assert os.waitpid(child, 0)[1] == 0
    meter.close()


def descriptors() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # the one that the list was read by
            continue
    return [path for path in found if path.endswith("schedstat")]


def test_it_holds_one_descriptor_until_it_is_closed_or_gone() -> None:
    before = len(descriptors())
    meter = Meter()
    for _ in range(3):
        meter.ask(0)
    held = len(descriptors()) - before
    assert held == os.path.exists("/proc/thread-self/schedstat")
    meter.close()
    meter.close()
    assert len(descriptors()) == before
    meter.ask(0)
    del meter
    assert len(descriptors()) == before


def test_a_descriptor_that_somebody_has_closed_is_given_up() -> None:
    meter = Meter()
    meter.ask(0)
    (name,) = (
        name
        for name in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{name}") and os.readlink(f"/proc/self/fd/{name}").endswith("schedstat")
    )
    os.close(int(name))
    reused = os.open(os.devnull, os.O_RDONLY)
    assert meter.ask(10**9) == 0
    meter.close()
    os.close(reused)  # the meter has not
