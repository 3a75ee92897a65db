from __future__ import annotations

import asyncio
import http.client
import logging
import re
import signal
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import clockworker as cw
from clockworker.http._lifespan import AsgiApplication, Lifespan
from clockworker.shards.config._http import LifespanMode
from tests.conftest import Run, until
from tests.shards.servers import DEADLINE, Serve, Server

COMPLETE = {"type": "lifespan.startup.complete"}
SHUT = {"type": "lifespan.shutdown.complete"}


def lifespan_of(
    app: AsgiApplication, mode: LifespanMode = "auto", state: dict[str, Any] | None = None
) -> tuple[Lifespan, list[asyncio.Task[None]]]:
    """And the tasks that it has started."""
    tasks: list[asyncio.Task[None]] = []

    def spawn(coroutine: Coroutine[Any, Any, None]) -> object:
        tasks.append(asyncio.get_running_loop().create_task(coroutine))
        return None

    return Lifespan(app, mode, {} if state is None else state, spawn), tasks


async def finish(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def unknowing(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http", "only HTTP here"


async def returning(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        raise ValueError


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Never looks at its scope: what it is asked it takes for a request with a body."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_application_starts_and_ends_in_one_task(run: Run) -> None:
    seen: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], scope["asgi"], asyncio.current_task()))
        seen.append(await receive())
        scope["state"]["database"] = "open"
        await send(COMPLETE)
        seen.append(await receive())
        seen.append(asyncio.current_task())
        await send(SHUT)
        seen.append("after")

    async def body() -> None:
        state: dict[str, Any] = {"given": 1}
        lifespan, tasks = lifespan_of(app, state=state)
        await lifespan.startup()
        assert state == {"given": 1, "database": "open"}
        [task] = tasks
        assert seen == [("lifespan", {"version": "3.0", "spec_version": "2.0"}, task), {"type": "lifespan.startup"}]
        await lifespan.shutdown()
        assert seen[2:4] == [{"type": "lifespan.shutdown"}, task]
        await task
        assert seen[4:] == ["after"]
        await lifespan.shutdown()

    run(body)


@pytest.mark.parametrize("app", [unknowing, returning, answering])
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_an_application_that_does_not_know_it_has_none(
    app: AsgiApplication, mode: LifespanMode, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        lifespan, tasks = lifespan_of(app, mode)
        if mode == "auto":
            await lifespan.startup()
            await lifespan.shutdown()
        else:
            with pytest.raises(cw.ApplicationError, match="the application has no lifespan, and --lifespan is on"):
                await lifespan.startup()
        await finish(tasks)

    run(body)
    assert not errors(caplog)


def test_off_calls_nothing(run: Run) -> None:
    async def body() -> None:
        lifespan, tasks = lifespan_of(answering, "off")
        await lifespan.startup()
        await lifespan.shutdown()
        assert not tasks

    run(body)


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_what_an_application_raises_that_was_told_to_start_is_a_failed_start(mode: LifespanMode, run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise LookupError("no database")

    async def body() -> None:
        lifespan, tasks = lifespan_of(app, mode)
        with pytest.raises(cw.ApplicationError) as failed:
            await lifespan.startup()
        assert isinstance(failed.value.__cause__, LookupError)
        text = str(failed.value)
        assert text.startswith("the application's start-up has failed: LookupError: no database")
        assert text.endswith("add --lifespan off") == (mode == "auto")
        await finish(tasks)

    run(body)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_would_end_a_process_is_a_failed_start_too(kind: type[BaseException], run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise kind("enough")

    async def body() -> None:
        lifespan, _ = lifespan_of(app)
        with pytest.raises(cw.ApplicationError, match="enough"):
            await lifespan.startup()

    run(body)


def test_an_application_that_returns_without_a_word_has_failed_to_start(run: Run) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def body() -> None:
        lifespan, _ = lifespan_of(app)
        with pytest.raises(cw.ApplicationError, match=r"has ended without lifespan\.startup\.complete"):
            await lifespan.startup()

    run(body)


def test_the_message_of_a_failed_start_is_told(run: Run) -> None:
    """Of an application that goes on waiting, too."""
    cancelled = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the disk is full\n"})
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async def body() -> None:
        lifespan, tasks = lifespan_of(app)
        with pytest.raises(cw.ApplicationError) as failed:
            await lifespan.startup()
        assert str(failed.value) == "the application's start-up has failed: the disk is full"
        assert failed.value.__cause__ is None
        await until(tasks[0].done, "it is cancelled")
        assert cancelled

    run(body)


def test_what_it_raises_after_saying_that_it_has_failed_is_the_cause(run: Run) -> None:
    """As Starlette does, whose message is a whole traceback: one is enough."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback ...\n  File x\nLookupError: no database"})
        raise LookupError("no database")

    async def body() -> None:
        lifespan, _ = lifespan_of(app)
        with pytest.raises(cw.ApplicationError) as failed:
            await lifespan.startup()
        assert str(failed.value) == "the application's start-up has failed: LookupError: no database"
        assert isinstance(failed.value.__cause__, LookupError)

    run(body)


def test_a_shutdown_that_fails_is_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def says(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the disk is full"})

    async def raises(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        raise LookupError("no database")

    async def both(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "Traceback"})
        raise LookupError("no network")

    async def body() -> None:
        for app in (says, raises, both):
            lifespan, _ = lifespan_of(app)
            await lifespan.startup()
            await lifespan.shutdown()

    run(body)
    said, raised, twice = errors(caplog)
    assert said == "the application's shutdown has failed: the disk is full"
    for text, error in ((raised, "LookupError: no database"), (twice, "LookupError: no network")):
        assert text.count("Traceback (most recent call last)") == 1
        assert text.endswith(error)
        assert "http/_lifespan.py" not in text, "it begins in the application"


def test_a_lifespan_may_end_early(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """What it raised is logged, and the application is served as before."""

    async def body() -> None:
        for error in (None, LookupError("no database")):
            may_end = asyncio.Event()

            async def app(
                scope: Any,
                receive: Any,
                send: Any,
                may_end: asyncio.Event = may_end,
                error: Exception | None = error,
            ) -> None:
                await receive()
                await send(COMPLETE)
                await may_end.wait()
                if error is not None:
                    raise error

            lifespan, tasks = lifespan_of(app)
            await lifespan.startup()
            may_end.set()
            await tasks[0]
            await lifespan.shutdown()

    run(body)
    [line] = errors(caplog)
    assert line.startswith("the application's lifespan raised while it served; there will be no shutdown\nTraceback")


def test_one_that_ends_with_its_start_has_started(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        await send(COMPLETE)

    async def body() -> None:
        lifespan, tasks = lifespan_of(app)
        await lifespan.startup()
        await lifespan.shutdown()
        assert [task.done() for task in tasks] == [True]

    run(body)
    assert heard == [{"type": "lifespan.startup"}]
    assert errors(caplog) == []


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (
            [COMPLETE, COMPLETE],
            "a lifespan that is serving sends nothing, and the application sent lifespan.startup.complete",
        ),
        ([SHUT], "a lifespan that is starting sends lifespan.startup.complete or lifespan.startup.failed, and the"),
        (
            [COMPLETE, SHUT],
            "a lifespan that is serving sends nothing, and the application sent lifespan.shutdown.complete",
        ),
        ([{}], "and the application sent None"),
    ],
)
def test_what_is_said_at_the_wrong_time_raises_where_it_is_said(
    said: list[dict[str, str]], right: str, run: Run
) -> None:
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        for message in said[:-1]:
            await send(message)
        with pytest.raises(RuntimeError) as wrong:
            await send(said[-1])
        raised.append(str(wrong.value))
        if len(said) == 1:
            await send(COMPLETE)

    async def body() -> None:
        lifespan, tasks = lifespan_of(app)
        await lifespan.startup()
        await finish(tasks)

    run(body)
    assert right in raised[0]


def test_a_shutdown_is_waited_for_and_when_it_is_cut_this_is_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await receive()  # there is no more to come

    async def body() -> None:
        lifespan, tasks = lifespan_of(app)
        await lifespan.startup()
        lifespan.log_cut()
        assert not errors(caplog)
        waiting = asyncio.create_task(lifespan.shutdown())
        await asyncio.wait([waiting], timeout=0.02)
        assert not waiting.done()
        lifespan.log_cut()
        assert errors(caplog) == ["the application has not finished its lifespan's shutdown, and is cut"]
        waiting.cancel()
        await finish([waiting, *tasks])

    run(body)


def test_a_start_that_is_given_up_cancels_the_application(run: Run) -> None:
    ended: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def body() -> None:
        lifespan, tasks = lifespan_of(app)
        starting = asyncio.create_task(lifespan.startup())
        await until(lambda: tasks and lifespan._task is not None, "the application has been called")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await until(tasks[0].done, "it is cancelled, too")
        assert ended

    run(body)


def test_it_runs_in_the_queue_that_it_is_given(run: Run) -> None:
    where: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()

        async def child() -> None:
            where.append(cw.current_executor().current_queue().key)  # type: ignore[union-attr]

        await asyncio.create_task(child())
        await send(COMPLETE)
        await receive()
        where.append(cw.current_executor().current_queue().key)  # type: ignore[union-attr]
        await send(SHUT)

    async def body() -> None:
        async with cw.Executor([cw.Queue("first"), cw.Queue("life")]) as executor:
            lifespan = Lifespan(app, "on", {}, executor.queue("life").spawn)

            async def serve() -> None:
                await lifespan.startup()
                where.append("serving")
                await lifespan.shutdown()

            await executor.queue("first").spawn(serve())

    run(body)
    assert where == ["life", "serving", "life"]


# Of a real server.

ALONE = ("--spares", "0")
SERVED = """
import asyncio, os, time
from clockworker import current_executor

def queue():
    return current_executor().current_queue().key

def say(text):
    os.write(2, f"{text}\\n".encode())  # one write, and at once

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        START
        scope["state"]["opened"] = [queue()]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        say("shutdown begins")
        SHUTDOWN
        await send({"type": "lifespan.shutdown.complete"})
        return
    state = scope["state"]
    state["mine"] = True
    if scope["path"] == "/slow":
        say("slow begins")
        while not state["shard"].stopping:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
    body = f"{state['opened']} {queue()} VERSION {sorted(state)}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
        say("slow ends")
"""


def source(*, start: str = "", shutdown: str = "", version: int = 1) -> str:
    return (
        SERVED.replace("START", start or "pass")
        .replace("SHUTDOWN", shutdown or "pass")
        .replace("VERSION", f"version {version}")
    )


def ask(server: Server, path: str) -> str:
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_a_failed_start_ends_the_server_with_one_traceback_of_all_shards(serve: Serve, tmp_path: Path) -> None:
    """Though the other shard fails too, when it has been told to stop and has not read that yet."""
    start = """while scope["state"]["shard"].id == 1 and not os.path.exists("go on"):
            time.sleep(0.01)
        raise LookupError("no database")"""
    server = serve(source(start=start), "--shards", "2", *ALONE, app="app:app")
    server.wait_log("LookupError")
    (tmp_path / "go on").touch()
    assert server.wait_exit() == 3
    log = server.log
    assert log.count("Traceback (most recent call last)") == 1, log
    assert (
        log.count("the application's start-up has failed: LookupError: no database; if it is to be served without") == 1
    )
    assert 'raise LookupError("no database")' in log
    assert "clockworker/http" not in log, "the traceback begins in the application"


def test_the_shutdown_comes_behind_the_last_request_and_a_version_that_fails_to_start_is_not_served(
    serve: Serve, tmp_path: Path
) -> None:
    queues = ("--queue", "first:1", "--queue", "life:1", "--lifespan-queue", "life")
    server = serve(source(), "--shards", "1", *ALONE, *queues, app="app:app")
    server.wait_serving()
    assert ask(server, "/") == "['life'] first version 1 ['mine', 'opened', 'shard']"
    (tmp_path / "app.py").write_text(source(start='raise LookupError("no database")', version=2))
    server.send(signal.SIGHUP)
    server.wait_log("LookupError: no database\n")
    assert ask(server, "/").startswith("['life'] first version 1")
    assert "shutdown begins" not in server.log
    (tmp_path / "app.py").write_text(source(version=3))
    server.send(signal.SIGHUP)
    server.wait_log("shutdown begins")
    assert ask(server, "/").startswith("['life'] first version 3")
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(ask, server, "/slow")
        server.wait_log("slow begins")
        assert server.stop() == 0
        assert answer.result().startswith("['life'] first version 3")
    assert re.search("slow begins.*slow ends.*shutdown begins", server.log, re.S)


def test_a_shutdown_that_never_ends_is_cut_with_the_grace_and_said(serve: Serve) -> None:
    grace = ("--timeout-graceful-shutdown", "4")
    server = serve(source(shutdown="await asyncio.Event().wait()"), "--shards", "1", *ALONE, *grace, app="app:app")
    server.wait_serving()
    server.stop()
    assert "shutdown begins" in server.log
    assert "the application has not finished its lifespan's shutdown, and is cut" in server.log


def test_a_lifespan_is_shut_down_where_serving_cannot_begin(serve: Serve) -> None:
    """And one that could not be served is not started."""
    main = source() + (
        "\n\nasync def main(shard):\n"
        "    try:\n        await shard.serve_asgi(app, bind='unknown')\n"
        "    except RuntimeError as error:\n        say(f'refused: {error}')\n"
        "    await shard.serve_asgi(app)\n"
    )
    server = serve(main, "--shards", "1", *ALONE)
    server.wait_serving()
    assert "refused: no address is named 'unknown'" in server.log
    assert ask(server, "/").startswith("['default']")
    assert server.stop() == 0
    assert server.log.count("shutdown begins") == 1
