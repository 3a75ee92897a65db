"""What a client may send: cut anywhere, the same bytes are the same requests; and mutated, they are what another parser takes
them for, or refused for a reason that is written down."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter

from tests.http.oracle import REASONS, ask_h11, compare
from tests.http.streams import cut, mutated, outcomes, stream
from tests.http.wire import Recorder, wire
from tests.reliability._checks import Result, check

_TOGETHER = 200  # streams that a server has at once


@check("cut anywhere, a stream is the same requests", ci=4_000, release=1_000_000, pure=1_000, pace=2_500)
def http_splits(trials: int) -> Result:
    """A trial is a way to cut a stream; mutated ones are among them."""
    seed = secrets.randbits(32)
    asyncio.run(_cut_all(random.Random(seed), trials, seed))
    return Result(trials, f"0 differ; seed {seed}")


async def _cut_all(choices: random.Random, trials: int, seed: int) -> None:
    recorder = Recorder()
    for _ in range(0, trials, _TOGETHER):
        whole = [stream(choices) if choices.random() < 0.7 else mutated(choices) for _ in range(_TOGETHER // 4)]
        async with wire(recorder) as server:
            expected = await outcomes(server, recorder, [[data] for data in whole])
            for _ in range(4):
                reads = [cut(choices, data) for data in whole]
                for each, wanted, found in zip(reads, expected, await outcomes(server, recorder, reads), strict=True):
                    if wanted != found:
                        raise AssertionError(f"seed {seed}: {b''.join(each)!r} is {wanted}, and cut as {each} {found}")


@check(
    "mutated requests are what h11 takes them for, or refused for a reason",
    ci=4_000,
    release=5_000_000,
    pure=1_000,
    pace=1_400,
)
def http_mutated(trials: int) -> Result:
    seed = secrets.randbits(32)
    found = asyncio.run(_mutate(random.Random(seed), trials, seed))
    kinds = Counter[str]()
    for (kind, _), count in found.items():
        kinds[kind] += count
    said = ", ".join(f"{kinds[kind]:,} {kind}" for kind in REASONS)
    print(*(f"  {count:>9,} {kind}: {reason}" for (kind, reason), count in found.most_common()), sep="\n")
    return Result(trials, f"{said}, all for a reason; seed {seed}")


async def _mutate(choices: random.Random, trials: int, seed: int) -> Counter[tuple[str, str]]:
    found = Counter[tuple[str, str]]()
    recorder = Recorder()
    for _ in range(0, trials, _TOGETHER):
        streams = [mutated(choices) for _ in range(_TOGETHER)]
        async with wire(recorder) as server:
            ours = await outcomes(server, recorder, [[data] for data in streams])
        for data, outcome in zip(streams, ours, strict=True):
            theirs = ask_h11(data)
            if (difference := compare(data, outcome, theirs)) is None:
                continue
            if difference.reason is None:
                raise AssertionError(
                    f"seed {seed}: {difference.kind} at {difference.data!r}; {data!r} is {outcome}, to h11 {theirs}"
                )
            found[difference.kind, difference.reason] += 1
    return found
