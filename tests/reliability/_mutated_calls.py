"""One process of mutated calls: `python -m tests.reliability._mutated_calls SEED COUNT`.

It makes of each compiled type what it can, by the front door and by all others, and has real ones at hand from a running
executor and from rings. Then it calls their public methods, reads and sets their attributes and calls the modules'
functions, with arguments drawn from the right, the wrong and the absurd. Any exception is an answer. A crash is none; what
was called last is in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import os
import pickle
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import clockworker as cw
from clockworker.executor._heap_cy import HeapNode
from clockworker.executor._seal_cy import compiled_types
from clockworker.executor._steps_cy import WorkSource
from clockworker.ipc.calls._call_cy import Caller, Method, new_call
from clockworker.ipc.rings._doorbell_cy import Doorbell, PeerDoorbell
from clockworker.ipc.rings._ring_cy import RingConsumer, RingProducer

ROOT = Path(__file__).parents[2]
# They do what they are for: end the process, wait, or block.
NOT_CALLED = {
    "take_call_soon",
    "give_call_soon_back",
    "run",
    "new_event_loop",
    "create_memory",
    "create_ring",
    "create_doorbell",
}


def run_process(seed: int, count: int, environment: dict[str, str] | None = None) -> None:
    """Raises AssertionError, with the seed, if the process does not end well."""
    with tempfile.NamedTemporaryFile() as last:
        command = [sys.executable, "-X", "faulthandler", "-m", __name__, str(seed), str(count), last.name]
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=3_600, env={**os.environ, **(environment or {})}
        )
        said = ended.stderr[-3_000:]
        assert ended.returncode == 0, f"seed {seed}: status {ended.returncode} in {last.read().decode()!r}\n{said}"
        assert "AddressSanitizer" not in said, f"seed {seed}: {said}"


class Hostile:
    """Nothing that is asked of it goes well."""

    def __hash__(self) -> int:
        raise ValueError("no hash")

    def __eq__(self, other: object) -> bool:
        raise ValueError("no comparison")

    def __index__(self) -> int:
        raise ValueError("no number")

    def __call__(self, *args: object, **keywords: object) -> object:
        raise ValueError("no call")


NUMBERS = [0, 1, -1, 2, 7, 255, 4096, 2**31, 2**63 - 1, -(2**63), 2**64, 1.5, float("nan"), True]
THINGS = [None, "", "q", b"", b"x" * 100, (), (1, 2), Hostile(), Hostile, len, print, int]


class Own(cw.Scheduler):
    pass


async def nothing() -> int:
    return 1


class Mutated:
    def __init__(self, seed: int, last: str) -> None:
        self.random = random.Random(seed)
        self.last = os.open(last, os.O_WRONLY)
        self.pool: list[Any] = []
        self.calls = 0
        self.answers = 0

    def value(self) -> Any:
        choice = self.random.random()
        if choice < 0.45 and self.pool:
            return self.random.choice(self.pool)
        if choice < 0.5:
            return nothing()
        return self.random.choice(
            [*NUMBERS, *THINGS, [], {}, {"a": 1}, object(), contextvars.copy_context(), ValueError("an error")]
        )

    def attempt(self, what: str, call: Any, *args: Any, **keywords: Any) -> Any:
        self.calls += 1
        os.pwrite(self.last, what.encode()[:200].ljust(200), 0)
        try:
            answer = call(*args, **keywords)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return None
        self.answers += 1
        if asyncio.iscoroutine(answer):
            answer.close()
        return answer

    def arguments(self) -> list[Any]:
        return [self.value() for _ in range(self.random.choice([0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7]))]

    def make(self, types: list[type]) -> None:
        """Some of each type, as far as it lets anybody."""
        for each in types:
            name = each.__qualname__
            self.keep(self.attempt(f"{name}.__new__", lambda each=each: each.__new__(each)))
            self.keep(self.attempt(f"object.__new__({name})", lambda each=each: object.__new__(each)))
            for _ in range(20):
                self.keep(self.attempt(f"{name}(...)", each, *self.arguments()))

            def half_made(each: Any = each) -> Any:
                return type("Half", (each,), {"__init__": lambda self, *args: None})()

            self.keep(self.attempt(f"a subclass of {name}", half_made))

    def keep(self, thing: Any) -> None:
        if thing is not None and not isinstance(thing, type) and len(self.pool) < 400:
            self.pool.append(thing)

    def once(self, functions: list[Any]) -> None:
        choice = self.random.random()
        if choice < 0.05:
            function = self.random.choice(functions)
            self.attempt(f"{function}", function, *self.arguments())
            return
        thing = self.random.choice(self.pool)
        kind = type(thing)
        name = kind.__qualname__
        if choice < 0.10:
            how = self.random.choice([copy.copy, copy.deepcopy, pickle.dumps, iter, len, next, bool, repr, hash])
            self.attempt(f"{how.__name__}({name})", how, thing)
            return
        public = [each for each in dir(kind) if not each.startswith("_") and each not in NOT_CALLED]
        public += ["__init__", "__await__", "__next__", "__iter__", "__call__", "__len__"] if choice < 0.4 else []
        found = self.random.choice(public or ["__repr__"])
        if choice < 0.15:
            value = self.value()
            self.attempt(f"{name}.{found} = {type(value)}", setattr, thing, found, value)
            return
        attribute = self.attempt(f"{name}.{found}", getattr, thing, found)
        if callable(attribute) and not isinstance(attribute, type):
            arguments = self.arguments()
            kinds = [type(each).__name__ for each in arguments]
            self.keep(self.attempt(f"{name}.{found}({', '.join(kinds)})", attribute, *arguments))


async def main(seed: int, count: int, last: str) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    call_soon = (
        asyncio.get_running_loop().call_soon
    )  # the loop's own: what becomes of the executor's tasks is not known
    mutated = Mutated(seed, last)
    executor_types = compiled_types("clockworker.executor")
    # CPython's own task crashes when it is half made, `asyncio.Task.__new__(asyncio.Task).get_coro()`, and so does a subclass.
    types = [
        each for each in (*executor_types, *compiled_types("clockworker.ipc")) if not issubclass(each, asyncio.Future)
    ]
    functions = [
        found
        for module in list(sys.modules.values())
        if module.__name__.startswith(("clockworker.executor.", "clockworker.ipc.")) and module.__name__.endswith("_cy")
        for name, found in vars(module).items()
        if callable(found)
        and not isinstance(found, type)
        and not name.startswith("_")
        and name not in NOT_CALLED
        and getattr(found, "__module__", None) == module.__name__
        and not module.__name__.endswith("_registry_cy")  # whoever is attached there is asked by asyncio
    ]
    mutated.make(types)
    schedulers = [cw.RunnableFifo, cw.ArrivalFifo, cw.LAS, cw.QLAS]
    executor = cw.Executor([cw.Queue(each, scheduler=each()) for each in schedulers], on_panic="catch")
    await executor.__aenter__()  # and no exit: what is in it may be anything by then
    for queue in executor.queues():
        handles = [
            queue.spawn(asyncio.sleep(0)),
            queue.group("g").spawn(asyncio.Event().wait()),
            queue.spawn(nothing()),
        ]
        await asyncio.sleep(0)
        mutated.pool += [executor._core, queue, queue.group("g"), *handles, *(handle.__await__() for handle in handles)]
        mutated.pool += [queue._queue, queue._membership, queue._queue.entity, queue._queue.scheduler, executor]
    mutated.pool += [cw.RunnableFifo(), cw.ArrivalFifo(), cw.LAS(), cw.QLAS(), Own(), HeapNode(), WorkSource()]
    mutated.pool += [cw.ScheduledTask(None, group, 1) for group in (None, "g")]  # type: ignore[arg-type]
    ring, bell = cw.create_ring(4096), cw.create_doorbell(2)
    mutated.pool += [RingProducer(ring), RingConsumer(ring), RingConsumer(ring, 100)]
    mutated.pool += [Doorbell(*bell), PeerDoorbell(bell[0], os.dup(bell[1]), 0)]
    method = Method()
    method.name = "method"
    mutated.pool.append(method)
    for each in list(mutated.pool):
        if type(each).__name__ in ("Channel", "Connection", "Link"):
            mutated.keep(mutated.attempt("Caller", Caller, each, 0, method, 0))
            mutated.keep(mutated.attempt("new_call", new_call, each, 0, method, (), 0, False))
    real = len(mutated.pool)

    def go(left: int) -> None:
        for _ in range(min(left, 100)):
            mutated.once(functions)
        del mutated.pool[real:]
        if left > 100:
            call_soon(go, left - 100)
            return
        print(f"{mutated.calls:,} calls, {mutated.answers:,} of them without an exception", flush=True)
        os._exit(0)  # what is left may be anything

    call_soon(go, count)
    while True:  # one of the calls may have been a panic, which cancels whoever has entered the executor
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
