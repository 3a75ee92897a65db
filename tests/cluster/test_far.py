"""Calls over a far link, and what becomes of them when the way fails. The broker is in memory (`memory_broker`)."""

from __future__ import annotations

from tests.cluster.nodes import nodes
from tests.conftest import Run


def test_a_call_there_and_back(run: Run) -> None:
    async def body() -> None:
        async with nodes() as both:
            assert await both.service.on(1).echo(b"across") == b"across"
            assert await both.service.on(1).relay(0, b"and back") == b"and back"

    run(body)
