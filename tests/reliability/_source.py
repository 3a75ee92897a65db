"""The modules of the ring as they are in the source, interpreted whatever is compiled, on a memory of the test's own.

What is checked this way is the code that is compiled, line by line, not a model of it. A mutation replaces a piece of the
source; one that does not find its piece is an error, so that none is silently without effect.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import clockworker as cw
from clockworker import _cython_shim

_RINGS = Path(cw.__file__).parent / "ipc" / "rings"
Mutation = tuple[str, str, str]  # module, what stands there, what shall stand there

TAIL_FIRST: Mutation = (
    "_ring_cy",
    "        self._put_word(tail, length | kind << 32)\n",
    "        self._memory.store(_TAIL_AT, tail + needed)\n        self._put_word(tail, length | kind << 32)\n",
)
HEAD_FIRST: Mutation = (
    "_ring_cy",
    "                    body = self._memory.read(_DATA_AT + offset, length)\n",
    "                    self._release(head + needed)\n"
    "                    body = self._memory.read(_DATA_AT + offset, length)\n",
)
NO_FENCE_TO_STALL: Mutation = (
    "_ring_cy",
    "        self._memory.store(_STALLS_AT, self._stalls)\n        self._memory.fence()\n",
    "        self._memory.store(_STALLS_AT, self._stalls)\n",
)
NO_FENCE_AFTER_POPPING: Mutation = (
    "_ring_cy",
    "        self._memory.fence()\n        self._looked_at = ",
    "        self._looked_at = ",
)
SELDOM_STALLED: Mutation = (
    "_ring_cy",
    "        if self._tail - self._looked_at <= self.capacity >> 1:\n",
    "        if self._tail - self._looked_at <= self.capacity:\n",
)
NO_FENCE_TO_ANNOUNCE: Mutation = (
    "_doorbell_cy",
    "        self._memory.fence()\n        return self._look()\n",
    "        return self._look()\n",
)
SURE_FIRST: Mutation = (
    "_doorbell_cy",
    "        self._news += 1\n        self._memory.store(self._news_at, self._news)\n        return self.make_sure()\n",
    "        sure = self.make_sure()\n"
    "        self._news += 1\n        self._memory.store(self._news_at, self._news)\n        return sure\n",
)
NOT_AT_THE_END: Mutation = (
    "_connection_cy",
    "        self._tell()\n        self.make_sure()\n",
    "        self._tell()\n",
)
NOT_OUTSIDE: Mutation = (
    "_connection_cy",
    "            if self._core._turn_ended:  # we are in none\n                self.make_sure()\n",
    "            if self._core._turn_ended:\n                self.mark_dirty()\n",
)
NOT_AT_CLOSE: Mutation = (
    "_connection_cy",
    "        self.make_sure()\n        self.connected = False\n",
    "        self.connected = False\n",
)
NOT_PUT_DOWN: Mutation = (
    "_connection_cy",
    "        if not self._is_dirty and self._core._turn_ended == 0:\n            self.mark_dirty()",
    "        if self._is_dirty:\n            self.mark_dirty()",
)
NO_FENCE_TO_SLEEP: Mutation = (
    "_doorbell_cy",
    "        self._memory.store(_SLEEPS_AT, self.sleeps)\n        self._memory.fence()\n",
    "        self._memory.store(_SLEEPS_AT, self.sleeps)\n",
)
AHEAD_FOR_THE_NEXT: Mutation = (
    "_doorbell_cy",
    "            self._rung_for = sleeps\n            self.rings += 1\n            self.rings_ahead += 1\n",
    "            self._rung_for = sleeps + 2\n            self.rings += 1\n            self.rings_ahead += 1\n",
)
ANSWERED_IN_SLEEP: Mutation = (
    "_doorbell_cy",
    "            self.wake()\n            return False\n        return True\n",
    "            self.wake()\n            return False\n        self.answer()\n        return True\n",
)


class Source:
    """`ring`, `doorbell` and `connection`, loaded anew. Their `SharedMemory(descriptor)` is `memory(descriptor)`."""

    def __init__(self, memory: Any, *mutations: Mutation) -> None:
        loaded: dict[str, ModuleType] = {}
        fake = SimpleNamespace(SharedMemory=memory, create_memory=None, new_bytes=bytearray)
        for name in ("_ring_cy", "_doorbell_cy", "_connection_cy"):
            text = (_RINGS / f"{name}.py").read_text()
            for module, old, new in mutations:
                if module == name:
                    if text.count(old) != 1:
                        raise AssertionError(f"{name} has {text.count(old)} places for the mutation {old!r}, not one")
                    text = text.replace(old, new)
            loaded[name] = module_of = ModuleType(f"{name}_under_test")
            stand_ins = {"cython": _cython_shim, "clockworker.ipc.rings._memory_cy": fake}
            stand_ins |= {f"clockworker.ipc.rings.{other}": module for other, module in loaded.items() if other != name}
            before = {key: sys.modules.get(key) for key in stand_ins}
            sys.modules.update(stand_ins)  # type: ignore[arg-type]
            try:
                exec(compile(text, f"{name} (interpreted)", "exec"), module_of.__dict__)
            finally:
                for key, value in before.items():
                    if value is None:
                        del sys.modules[key]
                    else:
                        sys.modules[key] = value
        self.ring: Any = loaded["_ring_cy"]
        self.doorbell: Any = loaded["_doorbell_cy"]
        self.connection: Any = loaded["_connection_cy"]
