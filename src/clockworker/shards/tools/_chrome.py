"""Recordings as a file in Chrome's trace format, which https://ui.perfetto.dev opens.

A shard is a process there. Its first thread is the event loop: the turns of the executor, and a mark wherever it changes to
another queue. Each queue is a thread of its own, and every step is a bar on it, named after its task. What others had of its
time is in its arguments; the statistics beside count the rest. A step that was cut is a bar for each of its slices, which are
numbered, and joined by arrows.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator
from typing import IO, Any

import msgspec

from clockworker.shards.protocol._recording import SLICE_WORDS, WORDS, Recorded

_encode = msgspec.json.Encoder().encode
_LOOP = 0  # the number of the loop's thread; queue i's is i + 1


def write_chrome_trace(file: IO[bytes], recordings: Iterable[Recorded]) -> int:
    """Returns the number of steps."""
    recordings = list(recordings)
    first_ns = min((recorded.started_ns for recorded in recordings), default=0)
    file.write(b'{"displayTimeUnit":"ns","otherData":')
    file.write(_encode({f"shard {recorded.shard}": _statistics(recorded) for recorded in recordings}))
    file.write(b',"traceEvents":[')
    separator = b"\n"
    for recorded in recordings:
        for event in _events(recorded, first_ns):
            file.write(separator + _encode(event))
            separator = b",\n"
    file.write(b"\n]}\n")
    bars = sum(len(recorded.steps) // (8 * WORDS) for recorded in recordings)
    return bars - sum(cut for recorded in recordings for _, cut in _slices(recorded).values())


def _statistics(recorded: Recorded) -> dict[str, Any]:
    """What the shard's own counters say of the same time."""
    return {
        "seconds": (recorded.ended_ns - recorded.started_ns) / 1e9,
        "whole": recorded.whole,
        "queues": {
            queue.name: {"busy_ns": queue.busy_ns, "polls": queue.polls, "cuts": queue.cuts}
            for queue in recorded.queues
        },
    }


def _slices(recorded: Recorded) -> dict[int, tuple[int, bool]]:
    """Of the bars that are slices: their number, and whether the step goes on."""
    words = array("Q", recorded.slices)
    return {
        words[at]: (words[at + 1], bool(words[at + 2])) for at in range(0, len(words) - SLICE_WORDS + 1, SLICE_WORDS)
    }


def _events(recorded: Recorded, first_ns: int) -> Iterator[dict[str, Any]]:
    pid = recorded.shard
    threads = ["event loop", *(f"queue {queue.name}" for queue in recorded.queues)]
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"shard {recorded.shard}"}}
    for tid, thread in enumerate(threads):
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": thread}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}

    def at(ns: int) -> float:
        return (ns - first_ns) / 1e3  # the format's unit is the microsecond

    turns = array("Q", recorded.turns)
    for began, ended in zip(turns[::2], turns[1::2], strict=True):
        yield {
            "ph": "X",
            "name": "turn",
            "cat": "turn",
            "pid": pid,
            "tid": _LOOP,
            "ts": at(began),
            "dur": (ended - began) / 1e3,
        }
    steps = array("Q", recorded.steps)
    before = -1
    slices = _slices(recorded)
    arrows = itertools.count(pid << 32)
    arrow: dict[int, int] = {}  # of a queue's step that was cut
    for index in range(0, len(steps), WORDS):
        queue, name, began, took, stolen, runnable = steps[index : index + WORDS]
        number, cut = slices.get(index // WORDS, (0, False))
        if queue != before:
            before = queue
            yield {
                "ph": "i",
                "s": "t",
                "name": f"choose {recorded.queues[queue].name}",
                "cat": "decision",
                "pid": pid,
                "tid": _LOOP,
                "ts": at(began),
                "args": {"left runnable": runnable},
            }
        yield {
            "ph": "X",
            "name": recorded.names[name],
            "cat": "step",
            "pid": pid,
            "tid": queue + 1,
            "ts": at(began),
            "dur": took / 1e3,
            "args": {
                "left runnable": runnable,
                "stolen us": stolen / 1e3,
                **({"slice": number, "cut": cut} if number else {}),
            },
        }
        if number:
            known = queue in arrow
            yield {
                "ph": "s" if not known else "t" if cut else "f",
                "bp": "e",
                "id": arrow.setdefault(queue, next(arrows)) if cut else arrow.pop(queue, 0),
                "name": "goes on",
                "cat": "slice",
                "pid": pid,
                "tid": queue + 1,
                "ts": at(began),
            }
