"""What is assumed of CPython: each assumption is tried, switched off where it does not hold, and done without."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clockworker as cw
from clockworker.executor import _clock_cy, _cpython_cy
from tests.conftest import DEADLINE

ROOT = Path(__file__).parents[2]
NAMES = list(_cpython_cy.ASSUMPTIONS)
COMPILED_ONLY = pytest.mark.skipif(not cw.compiled, reason="nothing is compiled")
IN_USE = [name for name in NAMES if cw.compiled or name not in _cpython_cy.OF_COMPILED]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it in another process."""
    command = [sys.executable, "-W", "error", "-c", code]
    variables = {name: value for name, value in os.environ.items() if name != _cpython_cy.VARIABLE} | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=DEADLINE)


# What is to work whatever is switched off. Prints what was.
WORK = """
import asyncio, contextvars, gc, json, sys, uvloop
import clockworker as cw

variable = contextvars.ContextVar("variable", default="outer")

async def child(number):
    await asyncio.sleep(0)
    if number % 10 == 9:
        raise LookupError(number)
    return number

async def body():
    loop = asyncio.get_running_loop()
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    async with cw.Executor([cw.Queue("a", 3), cw.Queue("b")], on_panic="catch") as executor:
        a, b = executor.queue("a"), executor.queue("b")
        go = asyncio.Event()

        async def parent(number):
            await go.wait()
            assert executor.current_queue().key == "a"
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                tasks = [group.create_task(asyncio.sleep(0, number)) for _ in range(3)]
            assert [task.result() for task in tasks] == [number] * 3
            future = loop.create_future()
            loop.call_soon(future.set_result, number)
            assert await future == number
            return await b.group(number % 3).spawn(child(number))

        async def forever():
            await asyncio.Event().wait()

        context = contextvars.copy_context()
        context.run(variable.set, "inner")
        variable.set("other")
        seen = []
        loop.call_soon(lambda: seen.append(variable.get()), context=context)
        loop.call_soon(seen.append, "argument", context=context)
        handles = [a.spawn(parent(number)) for number in range(200)]
        aborted = [a.spawn(forever()) for _ in range(20)]
        before_their_first_step = [b.spawn(forever()) for _ in range(20)]
        for handle in before_their_first_step:
            assert handle.abort()
        await asyncio.sleep(0)
        assert {handle.task for handle in handles} <= asyncio.all_tasks()
        gc.collect()
        go.set()
        for handle in aborted:
            assert handle.abort()
        for handle in aborted + before_their_first_step:
            assert isinstance(await handle.outcome(), cw.TaskCancelled)
        waits = [loop.create_task(handle.outcome()) for handle in handles]
        left = loop.create_task(handles[0].outcome())
        await asyncio.sleep(0)
        left.cancel()
        for number, handle in enumerate(handles):
            outcome = await waits[number]
            if number % 10 == 9:
                assert isinstance(outcome.exception, LookupError), outcome
                try:
                    await handle
                except LookupError:
                    pass
                else:
                    raise AssertionError
            else:
                assert (outcome.value, await handle) == (number, number)
        assert left.cancelled()
        assert await a.spawn(asyncio.to_thread(lambda: 5)) == 5
        steps = []
        carrier = executor._core.carrier("steps")
        for number in range(100):
            executor._core.spawn_step(a._membership, carrier, lambda: steps.append(asyncio.current_task() is carrier))
        await executor.drain()
        assert steps == [True] * 100
        assert seen == ["inner", "argument"], seen
        stats = executor.queue_stats()
        assert stats["a"].tasks == stats["b"].tasks == 0
        assert stats["b"].panics == 20 and stats["b"].polls >= 400 and stats["a"].polls >= 1200, stats
        pending = [a.spawn(forever()) for _ in range(5)]
        await asyncio.sleep(0)
    assert all(handle.done() for handle in pending)
    del handles, waits, carrier, pending, aborted, handle
    gc.collect()
    assert not reports, reports

for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(body())
print(json.dumps(cw.switched_off()))
"""


def work(before: str = "", **environment: str) -> dict[str, str]:
    """What was switched off in a process in which, after `before`, all worked."""
    done = python(before + WORK, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="not all holds")
def test_all_holds_where_it_is_known_to() -> None:
    assert work().keys() <= {"clock"}


@pytest.mark.parametrize("name", IN_USE)
def test_one_may_be_switched_off(name: str) -> None:
    off = work(CLOCKWORKER_PLAIN=name)
    assert off[name] == "CLOCKWORKER_PLAIN"
    assert [each for each, why in off.items() if why == "CLOCKWORKER_PLAIN"] == [name]


def test_all_may_be_switched_off() -> None:
    assert list(work(CLOCKWORKER_PLAIN="1")) == IN_USE


# From CPython 3.14 on tasks in Python are none of those that asyncio's functions in C know.
TASKS_IN_PYTHON = """
import asyncio, asyncio.tasks as t
asyncio.Task = t.Task = t._PyTask
for name in ("all_tasks", "current_task", "_enter_task", "_leave_task", "_register_task", "_unregister_task"):
    for module in (asyncio, t):
        setattr(module, name, getattr(t, "_py_" + name.lstrip("_"), getattr(t, name)))
"""

# What the interpreter is made to be, in Python, before clockworker is imported.
BROKEN = {
    # As nest_asyncio does it: bound methods for steps and wake-ups, and small objects.
    "step wakeup methods spacing lookahead": TASKS_IN_PYTHON,
    "registry": """
import asyncio.tasks as t, weakref
tasks = getattr(t, "_scheduled_tasks", None)
(t._all_tasks if tasks is None else tasks).__class__ = type("Another", (weakref.WeakSet,), {})
""",
    "current": """
import asyncio, asyncio.tasks as t
kept = t._current_tasks
t.current_task = asyncio.current_task = lambda loop=None: kept.get(loop or asyncio.get_running_loop())
del t._current_tasks
""",
    "suspend": """
import dis
original = dis.get_instructions
dis.get_instructions = lambda code: [each._replace(opname=each.opname.lower()) for each in original(code)]
""",
    "gc": "import gc; is_tracked = gc.is_tracked; gc.is_tracked = lambda thing: True",
    "exception force": """
import asyncio.tasks as t

class Task(t.Task):
    _exception = _fut_waiter = None

import asyncio
asyncio.Task = t.Task = Task
""",
    "completed": TASKS_IN_PYTHON
    + """
class Task(t._PyTask):
    def _Task__wakeup(self, future):
        pass

def wakeup(self, future):
    if self._fut_waiter is not future:
        raise RuntimeError("not what was waited for")
    return original(self, future)

original = t._PyTask._Task__wakeup
t._PyTask._Task__wakeup = wakeup
""",
    "clock": """
import builtins, io
original = open
builtins.open = lambda name, *a, **k: io.StringIO("hpet") if "clocksource" in str(name) else original(name, *a, **k)
""",
}


@pytest.mark.parametrize("names", BROKEN)
def test_what_does_not_hold_is_found_and_done_without(names: str) -> None:
    expected = {name for name in names.split() if name in IN_USE}
    if not expected - cw.switched_off().keys():
        pytest.skip("nothing of it is assumed here")
    off = work(BROKEN[names] + "\n")
    assert expected <= off.keys()
    assert all(why != "CLOCKWORKER_PLAIN" for why in off.values())


@COMPILED_ONLY
@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("step", "STEP", object.__init__),
        ("wakeup", "WAKEUP", [].clear),
        ("wakeup", "WAKEUP", [].append),
        ("wakeup", "WAKEUP", print),
        ("methods", "_Task", type("Task", (), {"done": lambda self: True})),
        ("spacing", "_Task", object),
        ("gc", "A_TASK", 1),
        ("context", "_layout", None),
        ("send", "_layout", None),
        ("seal", "_layout", None),
        ("lookahead", "sys", None),
    ],
)
def test_what_is_tried_may_fail(monkeypatch: pytest.MonkeyPatch, name: str, attribute: str, value: object) -> None:
    """Where Python cannot be made to be so: what is tried is given something else."""
    check = _cpython_cy.CHECKS[name]
    assert _cpython_cy.try_one(check) is None or name in cw.switched_off()
    monkeypatch.setattr(_cpython_cy, attribute, value)
    assert _cpython_cy.try_one(check)


@pytest.mark.parametrize(
    "code",
    [
        "import asyncio.tasks as t; t._PyTask._Task__step = lambda self, error=None: None; t.Task = asyncio.Task = t._PyTask",
        "import asyncio; asyncio.Task = lambda coroutine, loop: coroutine.close()",
    ],
)
def test_without_the_seam_the_import_fails(code: str) -> None:
    done = python(f"import asyncio; {code}\nimport clockworker")
    assert done.returncode == 1
    assert (
        "ImportError: Clockworker does not run on this Python: its asyncio tasks do not ask their loop" in done.stderr
    )


@COMPILED_ONLY
def test_the_clock_never_goes_back() -> None:
    """Its counter is said to be ten times as fast as it is, and then ten times as slow."""
    code = """
from clockworker.executor import _clock_cy as clock
clock.begin()
last = clock.read()
for rate in (5.0, 0.01, 2.0, 0.02, 0.4) * 3:
    clock.read(rate)
    for _ in range(2000):
        now = clock.read()
        assert now >= last, (rate, last, now)
        last = now
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_clock_is_the_kernels() -> None:
    import time

    before = time.monotonic_ns()
    _clock_cy.begin()
    now = _clock_cy.read()
    assert before - 1_000_000 <= now <= time.monotonic_ns() + 1_000_000


def test_an_unknown_name_is_an_error_that_lists_them() -> None:
    for value in ("wokeup", "gc,wokeup", "gc,", "yes"):
        with pytest.raises(cw.ConfigurationError, match=f"CLOCKWORKER_PLAIN is {value!r}.*, seal, clock, suspend$"):
            _cpython_cy.names_in(value)
    done = python("import clockworker", CLOCKWORKER_PLAIN="wokeup")
    assert done.returncode == 1
    assert "'wokeup' is nothing that can be switched off; give 1 for all, or some of step, wakeup" in done.stderr


def test_values() -> None:
    assert _cpython_cy.names_in("") == _cpython_cy.names_in("0") == frozenset()
    assert _cpython_cy.names_in("1") == frozenset(NAMES)
    assert _cpython_cy.names_in("GC, wakeup") == {"gc", "wakeup"}


def test_the_answer_is_the_askers_own() -> None:
    cw.switched_off()["everything"] = "said the caller"
    assert "everything" not in cw.switched_off()
    with pytest.raises(KeyError):
        _cpython_cy.holds("everything")


def test_the_documentation_says_the_same() -> None:
    text = (ROOT / "docs" / "cpython.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert {name: (assumed, without) for name, assumed, without in rows} == dict(_cpython_cy.ASSUMPTIONS)
    (pure,) = re.findall(r"only (.*) are assumed", text)
    assert set(re.findall(r"`(\w+)`", pure)) == set(NAMES) - _cpython_cy.OF_COMPILED


def test_each_is_asked_for_where_it_is_relied_on() -> None:
    asked: set[str] = set()
    for package in ("executor", "ipc"):
        for path in (Path(cw.__file__).parent / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "holds":
                    (argument,) = node.args
                    if isinstance(argument, ast.Constant):
                        asked.add(argument.value)
    assert asked == set(NAMES)
