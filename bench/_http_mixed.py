"""The application of `bench mixed`: a light route, and two heavy ones, of which one lets others in and one does not."""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI

from bench._open_loop import burn

LIGHT_US = 500
HEAVY_CHUNKS = 200
CHUNK_US = 1_000
# Of an empty loop, in a chunk that is not cut: what is cut cannot be measured by a CPU clock, which goes on in what cuts it.
TURNS = int(os.environ.get("BENCH_TURNS", "25_000"))

LIGHT, HEAVY, SOLID = "/light", "/heavy", "/solid"
DONE = b'{"done":true}'

app = FastAPI(openapi_url=None)


class Work:
    """What the heavy routes have done in this process."""

    chunks = 0


@app.get(LIGHT)
async def light() -> dict[str, bool]:
    burn(LIGHT_US)
    return {"done": True}


@app.get(HEAVY)
async def heavy() -> dict[str, bool]:
    """In chunks: between them others may run."""
    for _ in range(HEAVY_CHUNKS):
        burn(CHUNK_US)
        Work.chunks += 1
        await asyncio.sleep(0)
    return {"done": True}


@app.get(SOLID)
async def solid() -> dict[str, bool]:
    """As much, without ever awaiting."""
    for _ in range(HEAVY_CHUNKS):
        for _ in range(TURNS):
            pass
        Work.chunks += 1
    return {"done": True}
