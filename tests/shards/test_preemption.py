"""Preemptive queues of a real shard: how they are declared, functions that run in them, and what is said of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clockworker.executor import compiled
from clockworker.shards.worker import _hogs, _slow
from tests.shards.servers import DEADLINE, Serve

pytest.importorskip("greenlet")
pytestmark = pytest.mark.skipif(not compiled, reason="preemption is for compiled modules")

FUNCTIONS = """
import asyncio, contextvars, functools, threading

print = functools.partial(print, flush=True)
import clockworker as cw

ticks = 0
ran = []
variable = contextvars.ContextVar("variable", default="none")

def spin(times):
    wanted = ticks + times
    while ticks < wanted:
        pass
    ran.append(times)
    return threading.current_thread() is threading.main_thread(), str(cw.current_executor().current_queue().key)

def raises(error):
    raise error

async def caught(function, *args, **kwargs):
    try:
        await function(*args, **kwargs)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"

def group():
    return cw.current_executor()._core.current.membership.group

async def main(shard):
    async def tick():
        global ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    run = functools.partial(shard.run_blocking, queue="reports")
    ticking = asyncio.create_task(tick())
    print("spun", *await run(spin, 5))
    print("keywords", await run(lambda a, *, b: (a, b), 1, b=2))
    variable.set("the caller's")
    print("context", await run(variable.get))
    print("thread", await shard.run_blocking(threading.current_thread) is threading.main_thread())
    print("error", await caught(run, raises, KeyError("missing")))
    print("stop", await caught(run, raises, StopIteration(1)))
    print("exit", await caught(run, raises, SystemExit(1)))
    print("plain", await caught(shard.run_blocking, spin, 1, queue="plain"))
    print("unknown", await caught(shard.run_blocking, spin, 1, queue="raports"))
    async def of_group():
        return await run(group)
    print("group", await shard.queue("plain").group("tenant-1").spawn(of_group()))
    # One that has begun goes on without its caller, and one that has not never does.
    first, second = (asyncio.create_task(run(spin, times)) for times in (20, 30))
    await asyncio.sleep(0.005)
    first.cancel()
    second.cancel()
    ends = await asyncio.gather(first, second, return_exceptions=True)
    print("cancelled", *(type(end).__name__ for end in ends))
    await run(spin, 1)
    print("ran", *ran)
    shard.ready()
    await shard.wait_stopped()
    # The stop waits for one that nobody waits for.
    last = asyncio.create_task(run(spin, 700))
    await asyncio.sleep(0.005)
    last.cancel()
    ticking.add_done_callback(lambda _: print("last", ran[-1]))
"""
QUEUES = ("--shards", "1", "--spares", "0", "--queue", "plain:8", "--queue", "reports:1:preemptive")


def test_functions_in_a_preemptive_queue(serve: Serve) -> None:
    server = serve(FUNCTIONS, *QUEUES)
    server.wait_serving()
    said = dict(line.split(" ", 1) for line in server.log.splitlines() if re.match("[a-z]+ ", line))
    assert said["spun"] == "True reports"
    assert said["keywords"] == "(1, 2)"
    assert said["context"] == "the caller's"
    assert said["thread"] == "False"
    assert said["error"] == "KeyError: 'missing'"
    assert said["stop"] == "RuntimeError: app.raises raised StopIteration"
    assert said["exit"] == "SystemExit: 1"
    assert said["plain"].startswith("UsageError: run_blocking(queue='plain'): that queue is not preemptive, and")
    assert "declare cw.Queue('plain', preemptive=True), or give --queue plain:8:preemptive" in said["plain"]
    assert said["unknown"].startswith("UnknownQueue: there is no queue 'raports'")
    assert said["group"] == "tenant-1"
    assert said["cancelled"] == "CancelledError CancelledError"
    assert said["ran"] == "5 20 1"
    assert server.stop() == 0
    assert "last 700" in server.log
    assert "the stop waits for functions in queues: app.spin" in server.log


MAIN = """
import clockworker as cw

@cw.application(queues=[cw.Queue("web", share=8), cw.Queue("reports", preemptive=True)])
async def main(shard):
    print("preemptive:", *(q.key for q in shard.executor.queues() if q._queue.preemptive), flush=True)
    shard.ready()
    await shard.wait_stopped()
"""


@pytest.mark.parametrize(
    ("options", "file", "environment", "queues"),
    [
        ((), "", "", "reports"),
        (("--queue", "web:2:las:preemptive"), "", "", "web reports"),
        (("--shard-queue", "0:web:2:preemptive"), "", "", "web reports"),
        ((), "[[queue]]\nname = 'web'\npreemptive = true\n", "", "web reports"),
        ((), "[[shard.0.queue]]\nname = 'web'\npreemptive = true\n", "", "web reports"),
        ((), "[[queue]]\nname = 'reports'\npreemptive = false\n", "", ""),
        ((), "", "web:2:preemptive more:1:preemptive", "web reports more"),
    ],
)
def test_who_says_that_a_queue_is(
    serve: Serve, tmp_path: Path, options: tuple[str, ...], file: str, environment: str, queues: str
) -> None:
    (tmp_path / "clockworker.toml").write_text(file)
    server = serve(MAIN, "--shards", "1", "--spares", "0", *options, environment={"CLOCKWORKER_QUEUE": environment})
    server.wait_serving()
    assert f"preemptive: {queues}".rstrip() in [line.rstrip() for line in server.log.splitlines()]
    assert server.stop() == 0
    printed = serve(MAIN, "--print-config", *options, environment={"CLOCKWORKER_QUEUE": environment})
    assert printed.wait_exit() == 0
    declared = "# preemptive = true                         # app:main"
    assert (declared in printed.log) == ("preemptive = false" not in file)
    given = [line for line in printed.log.splitlines() if line == "preemptive = true"]
    assert len(given) == len(set(queues.split()) - {"reports"})
    checked = serve(MAIN, "--check-config", "--shards", "1", *options, environment={"CLOCKWORKER_QUEUE": environment})
    assert checked.wait_exit() == 0


def test_without_greenlet_a_line_says_what_to_install(serve: Serve, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "sitecustomize.py").write_text("import sys\nsys.modules['greenlet'] = None\n")
    plain = "async def main(shard):\n    await shard.wait_stopped()\n"
    for source, queue in ((MAIN, ()), (plain, ("--queue", "reports:1:preemptive"))):
        for more in ((), ("--check-config",), ("--log-format", "json")):
            server = serve(source, "--shards", "1", *queue, *more, environment={"PYTHONPATH": str(missing)})
            assert server.wait_exit() == 2
            *_, line = server.log.splitlines()
            said = json.loads(line)["message"] if line.startswith("{") else line
            assert "'reports'" in said
            assert "pip install 'clockworker[preempt]'" in said
            assert "Traceback" not in server.log
    # One that nobody declares needs none.
    server = serve(plain, "--shards", "1", environment={"PYTHONPATH": str(missing)})
    server.wait_serving()
    assert server.stop() == 0


TAKEN = """
import signal

signal.signal(signal.SIGRTMAX, print)

async def main(shard):
    await shard.wait_stopped()
"""


@pytest.mark.parametrize(
    ("source", "environment", "said"),
    [
        (
            TAKEN,
            {},
            "preemptive queues need the signal SIGRTMAX, and this process has the handler <built-in function print>",
        ),
        (
            TAKEN.replace("signal.signal", "# signal.signal"),
            {"CLOCKWORKER_PURE": "1"},
            "queue 'reports' is preemptive, which needs the compiled modules, and Clockworker runs as pure Python here",
        ),
    ],
)
def test_what_else_is_missing_is_said_in_a_line(
    serve: Serve, source: str, environment: dict[str, str], said: str
) -> None:
    server = serve(source, "--shards", "1", "--queue", "reports:1:preemptive", environment=environment)
    assert server.wait_exit() == 2
    assert said in server.log
    assert "Traceback" not in server.log


# The page.

PAGE = (Path(__file__).parents[2] / "docs" / "preemption.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_s_programs(tmp_path: Path) -> None:
    first, second = blocks("python")
    done = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, timeout=DEADLINE, check=True)
    said, value = done.stdout.splitlines()
    assert f"# {said}" in first
    assert int(value) == sum(row * row % 7 for row in range(7)) * (10_000_000 // 7) + sum(
        row * row % 7 for row in range(10_000_000 % 7)
    )
    names: dict[str, object] = {}
    exec(second + "\ntake('EUR', 1.5)\ntake('EUR', 2.0)\n", names)
    assert names["total"] == 2.0


def test_the_page_s_file(serve: Serve, tmp_path: Path) -> None:
    [text] = blocks("toml")
    (tmp_path / "clockworker.toml").write_text(text)
    (tmp_path / "shop.py").write_text("async def app(scope, receive, send): ...\n")
    server = serve(None, "--check-config", "--shards", "1", app=None)
    assert server.wait_exit() == 0
    assert "queues foreground:8:fifo, reports:1:fifo:preemptive" in server.log


def test_the_page_says_what_the_log_does() -> None:
    said = " ".join(PAGE.split())
    for module, words in (
        (_hogs, "s without an await, in"),
        (_hogs, "slices so far: others run in between"),
        (_slow, "slices: others ran in between, and none of its own queue"),
    ):
        assert words in said
        assert words in Path(str(module.__file__)).read_text()
