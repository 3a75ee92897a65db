"""Queues that an application declares: what a declaration is, what operators say of it, and what becomes of it at a HUP."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import clockworker as cw
from clockworker.executor._queue import MAX_QUEUES
from clockworker.ipc.calls._frames import queue_identifier
from clockworker.shards.config._application import load_application
from clockworker.shards.config._config import QueueConfig, ServeConfig
from clockworker.shards.config._declaration import MAX_NAME_BYTES
from clockworker.shards.protocol._control_channel import MAX_MESSAGE
from clockworker.shards.protocol._messages import Declared
from clockworker.shards.testing import serving
from clockworker.shards.worker._shard_queues import make_queues, misspelt, queues_of, shown
from tests.shards.servers import Serve, ask, eventually
from tests.shards.test_observe import get, samples, stats, total

pytestmark = pytest.mark.once  # what is tested is Python in both kinds

# Says what queues it has, and answers lines.
MAIN = """
import clockworker as cw

class Reverse(cw.RunnableFifo):
    pass

@cw.application(queues=[cw.Queue("foreground", share=8, scheduler=cw.LAS()), cw.Queue("background", scheduler=Reverse())])
async def main(shard):
    for key, stats in shard.executor.queue_stats().items():
        scheduler = type(shard.queue(key)._queue.scheduler).__name__
        # In one piece: others write to the same file.
        print(f"queue {shard.id} {key} {stats.share} {scheduler}\\n", end="", flush=True)

    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(b"%d %s" % (shard.id, line))

    await shard.start_server(handle, queue="foreground")
    await shard.wait_stopped()
"""


async def plain(shard: object) -> str:
    """What it is for."""
    return f"ran on {shard}"


def test_a_declaration_is_called_as_main_is_and_leaves_it_alone() -> None:
    queues = [cw.Queue("a", share=2), cw.Queue("b")]
    declared = cw.application(plain, queues=queues)
    queues.clear()
    assert asyncio.run(declared(1)) == asyncio.run(plain(1)) == "ran on 1"
    assert [queue.key for queue in declared.queues] == ["a", "b"]
    assert (declared.__name__, declared.__qualname__, declared.__module__) == ("plain", "plain", __name__)  # type: ignore[attr-defined]
    assert declared.__doc__ == "What it is for."
    assert not hasattr(plain, "queues")
    other = cw.application(queues=[cw.Queue("c")])(declared)
    assert (other.main, [queue.key for queue in other.queues]) == (plain, ["c"])
    assert cw.application(plain).queues == ()


las = cw.LAS()
WRONG: dict[str, tuple[str, str]] = {
    "a share of 0": ("queues=[cw.Queue('a', share=0)]", "share of queue 'a' is 0; .* from 1 to 10,000"),
    "a share that is none": ("queues=[cw.Queue('a', share='8')]", "share of queue 'a' is '8'; .* from 1 to 10,000"),
    "two of one name": ("queues=[cw.Queue('a'), cw.Queue('a')]", "two queues have the key 'a'; give each"),
    "one scheduler for two": (
        "queues=[cw.Queue('a', scheduler=las), cw.Queue('b', scheduler=las)]",
        r"queues 'a' and 'b' share one scheduler; .* give each a LAS\(\) of its own",
    ),
    "a scheduler's name": (
        "queues=[cw.Queue('a', scheduler='las')]",
        r"scheduler of queue 'a' is 'las'; .* such as LAS\(\)",
    ),
    "a scheduler's class": (
        "queues=[cw.Queue('a', scheduler=cw.LAS)]",
        r"scheduler of queue 'a' is .*LAS.*; .* such as LAS\(\)",
    ),
    "too many": ("queues=[cw.Queue(str(n)) for n in range(1025)]", "1,025 queues are too many; .* up to 1,024"),
    "text": ("queues=['a:8']", r"queues must be Queue\(...\) declarations, and one is 'a:8'"),
    "one text": (
        "queues='a:8'",
        r"application\(queues=...\) is 'a:8'; give a list, such as \[cw.Queue\('foreground'\)\]",
    ),
    "no list": ("queues=cw.Queue('a')", r"application\(queues=...\) is Queue\(.*give a list"),
    "a number": ("queues=8", r"application\(queues=...\) is 8; give a list"),
    "a key that is no text": (
        "queues=[cw.Queue(1)]",
        r"queue 1 is called by no text; give one, such as cw.Queue\('foreground'\)",
    ),
    "no name": ("queues=[cw.Queue('')]", "a queue has no name; give one"),
    "a name that is long": ("queues=[cw.Queue('ü' * 31)]", "has 62 bytes; give one of at most 60"),
    "a name that is no text": (r"queues=[cw.Queue('\udcff')]", "is no UTF-8 text; give one that is"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_names_what_is_wrong_and_what_would_be_right(name: str) -> None:
    given, message = WRONG[name]
    with pytest.raises(cw.ConfigurationError, match=message) as caught:
        eval(f"cw.application(plain, {given})")
    assert "\n" not in str(caught.value)


def test_what_is_no_main_is_told_so() -> None:
    with pytest.raises(cw.ApplicationError, match=r"given 3, which is not callable; an application is `async def main"):
        cw.application(3, queues=[])  # type: ignore[call-overload]


SOURCE = """
import clockworker as cw

async def main(shard): pass
def sync(shard): pass

declared = cw.application(main, queues=[cw.Queue("a")])
of_sync = cw.application(sync, queues=[cw.Queue("a")])

def make(): return declared
@cw.application(queues=[cw.Queue("b")])
def make_plain(): return main
@cw.application(queues=[cw.Queue("b")])
def make_declared(): return declared
"""


@pytest.fixture
def load(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    name = f"declared_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda attribute, factory=False: load_application(f"{name}:{attribute}", str(tmp_path), factory=factory)


def test_what_is_declared_is_found_with_the_application(load: Callable[..., Any]) -> None:
    def names(attribute: str, factory: bool = False) -> list[object]:
        return [queue.key for queue in load(attribute, factory).queues]

    assert names("main") == []
    assert names("declared") == ["a"]
    assert names("make", True) == ["a"]
    assert names("make_plain", True) == ["b"]  # of what it makes
    assert names("make_declared", True) == ["a"]  # which knows better


def test_a_declaration_hides_no_mistake(load: Callable[..., Any]) -> None:
    with pytest.raises(cw.ApplicationError, match="a plain `def`"):
        load("of_sync")


def test_each_queue_has_the_scheduler_that_is_said_last() -> None:
    own = cw.LAS()
    declared = [cw.Queue("a", share=8, scheduler=own, slice=0.5), cw.Queue("b")]
    config = ServeConfig("", queues=(QueueConfig("a", 2),), shard_queues={1: (QueueConfig("a", scheduler="qlas"),)})
    first, second = make_queues(queues_of(config, 0, declared), declared, ".")
    assert (first.share, first.scheduler, first.slice) == (2, own, 0.5)
    assert (second.share, second.scheduler) == (1, None)
    [other, _] = make_queues(queues_of(config, 1, declared), declared, ".")
    assert (other.share, type(other.scheduler)) == (2, cw.QLAS)
    assert list(map(str, shown(queues_of(config, 0, declared), declared))) == ["a:2:las", "b:1:fifo"]


def test_queues_that_calls_would_mix_up_are_refused() -> None:
    names = ["aspjwwk", "rnrsgud"]
    assert len({queue_identifier(name) for name in names}) == 1
    with pytest.raises(
        cw.ConfigurationError, match="queues 'aspjwwk' and 'rnrsgud' have the same checksum; rename one"
    ):
        make_queues([QueueConfig(name) for name in names], (), ".")


def test_all_queues_that_there_may_be_fit_into_one_message() -> None:
    names = [f"{number:0{MAX_NAME_BYTES}}" for number in range(MAX_QUEUES)]
    assert len(msgspec.msgpack.encode(Declared(tuple(names)))) <= MAX_MESSAGE


def test_a_queue_with_a_name_like_a_declared_one_is_asked_about() -> None:
    declared = [cw.Queue("foreground"), cw.Queue("background")]
    given = [QueueConfig("backgruond"), QueueConfig("foreground"), QueueConfig("reports")]
    [line] = misspelt(given, declared)
    assert line == (
        "queue 'backgruond' is not one that the application declares, and is added to them; did you mean 'background'?"
    )
    assert misspelt(given, []) == []


# On real shards.


def queues(log: str) -> list[str]:
    return sorted(re.findall(r"^queue (.*)$", log, re.MULTILINE))


def test_declared_queues_need_no_option(serve: Serve) -> None:
    server = serve(MAIN, "--shards", "2")
    server.wait_serving()
    assert queues(server.log) == [
        f"{shard} {queue}" for shard in (0, 1) for queue in ("background 1 Reverse", "foreground 8 LAS")
    ]
    with server.connect() as client:
        assert ask(client, b"hello").endswith(b"hello")
    assert server.stop() == 0


def test_options_environment_and_file_go_before_what_is_declared(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "clockworker.toml").write_text("[[queue]]\nname = 'foreground'\nscheduler = 'qlas'\n")
    server = serve(MAIN, "--shards", "1")
    server.wait_serving()
    assert queues(server.log) == ["0 background 1 Reverse", "0 foreground 8 QLAS"]
    server.stop()
    server = serve(MAIN, "--shards", "1", environment={"CLOCKWORKER_QUEUE": "background:3"})
    server.wait_serving()
    assert queues(server.log) == ["0 background 3 Reverse", "0 foreground 8 LAS"]  # a list replaces the file's
    server.stop()
    options = (
        "--queue",
        "background:4:las",
        "--queue",
        "more:2",
        "--shard-queue",
        "1:foreground:5",
        "--queue",
        "foregruond:1",
    )
    server = serve(MAIN, "--shards", "2", *options)
    server.wait_serving()
    assert queues(server.log) == [
        f"{shard} {queue}"
        for shard in (0, 1)
        for queue in (
            "background 4 LAS",
            f"foreground {(8, 5)[shard]} LAS",
            "foregruond 1 RunnableFifo",
            "more 2 RunnableFifo",
        )
    ]
    assert (
        len(re.findall(r"WARNING \[shard 0\] queue 'foregruond' is not one .* did you mean 'foreground'\?", server.log))
        == 1
    )
    assert server.log.count("WARNING") == 1
    assert server.stop() == 0


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clockworker.shards._cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["a share of 0", "one scheduler for two", "too many"])
def test_a_wrong_declaration_is_one_line_at_the_start_and_in_the_check(name: str, tmp_path: Path) -> None:
    given, message = WRONG[name]
    source = f"import clockworker as cw\nlas = cw.LAS()\n@cw.application({given})\nasync def main(shard): pass\n"
    (tmp_path / "app.py").write_text(source)
    started = run("app:main", "--shards", "1", "--port", "0", "--log-level", "error", cwd=tmp_path)
    checked = run("app:main", "--shards", "1", "--check-config", cwd=tmp_path)
    for result in (started, checked):
        [line] = result.stderr.splitlines()
        assert re.search(message, line)
        assert (result.returncode, result.stdout) == (3, "")


def test_a_queue_that_nobody_has_declared_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MAIN.replace('queue="foreground"', 'queue="reports"'))
    result = run("app:main", "--shards", "1", "--port", "0", "--log-level", "error", cwd=tmp_path)
    [line] = result.stderr.splitlines()
    assert result.returncode == 3
    assert "no queue 'reports', only 'foreground', 'background'; add --queue reports:1" in line
    assert "@cw.application(queues=[cw.Queue('reports')])" in line


def test_the_check_and_the_printed_configuration_say_who_declares_what(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print('imported')\n" + MAIN)
    checked = run(
        "app:main", "--shards", "1", "--check-config", "--queue", "background:3", "--queue", "mroe:1", cwd=tmp_path
    )
    assert "queues foreground:8:las, background:3:Reverse, mroe:1:fifo, at" in checked.stdout
    printed = run("app:main", "--shards", "1", "--print-config", "--queue", "background:3", cwd=tmp_path)
    assert (printed.returncode, "imported" in printed.stdout) == (0, False)
    shown = re.sub(" +", " ", printed.stdout[printed.stdout.index("[[queue]]") :])
    assert shown == (
        "[[queue]] # --queue\n"
        'name = "background"\n'
        "share = 3\n"
        '# scheduler = "Reverse" # app:main\n'
        "\n"
        "# [[queue]] # app:main\n"
        '# name = "foreground" # app:main\n'
        "# share = 8 # app:main\n"
        '# scheduler = "las" # app:main\n'
        "\n"
    )
    (tmp_path / "app.py").write_text("1 / 0")
    printed = run("app:main", "--shards", "1", "--print-config", cwd=tmp_path)
    assert printed.returncode == 0
    assert "# [[queue]] # app:main cannot be imported (--check-config says why)" in re.sub(" +", " ", printed.stdout)


# `calls QUEUE N` makes N calls to the other shard from a task of that queue.
CALLS = """
import clockworker as cw

class Echo:
    def __init__(self, shard):
        self.shard = shard

    @cw.remote
    async def where(self) -> str:
        return str(self.shard.executor.current_queue().key)

@cw.application(queues=[cw.Queue("foreground", share=8), cw.Queue("background")])
async def main(shard):
    echo = await shard.start(Echo)

    async def calls(count):
        return {await echo.on((shard.id + 1) % shard.count).where() for _ in range(count)}

    async def handle(reader, writer):
        while line := await reader.readline():
            names = [str(queue.key) for queue in shard.executor.queues()]
            found = set()
            for name in names:
                found |= await shard.queue(name).spawn(calls(20))
            writer.write(f"{','.join(names)} {','.join(sorted(found))}\\n".encode())

    await shard.start_server(handle)
    await shard.wait_stopped()
"""


def test_a_version_with_other_queues_replaces_one_shard_after_the_other(serve: Serve, tmp_path: Path) -> None:
    """Calls from queues that the other shard lacks run in its first; what was counted of queues that are gone stays."""
    server = serve(CALLS, "--shards", "2", "--metrics", "127.0.0.1:0")
    server.wait_serving()
    old, new = b"foreground,background", b"foreground,reports"
    with server.connect() as client:
        assert ask(client, b"") == old + b" background,foreground"
    eventually(lambda: total(samples(server), "clockworker_queue_polls_total", queue="background"), "it has run")
    (tmp_path / "app.py").write_text(CALLS.replace('"background"', '"reports"').replace("share=8", "share=5"))
    seen: set[tuple[bytes, ...]] = set()
    server.send(1)
    least = 0.0

    def replaced() -> bool:
        nonlocal least
        with server.connect() as client:
            seen.add(tuple(ask(client, b"").split()))
        counted = total(samples(server), "clockworker_queue_polls_total", queue="background")
        assert counted >= least
        least = counted
        return server.log.count("stopped after") == 2

    eventually(replaced, "both are replaced")
    with server.connect() as client:
        assert ask(client, b"") == new + b" foreground,reports"
    assert {names for names, _ in seen} <= {old, new}
    eventually(
        lambda: all(queue.share == 5 for queue in stats(server).queues if queue.name == "foreground"), "the new share"
    )
    assert [queue.name for queue in stats(server).queues] == ["foreground", "reports"]
    assert [[queue.name for queue in shard.queues] for shard in stats(server).shards] == [["foreground", "reports"]] * 2
    found = samples(server)
    assert total(found, "clockworker_queue_polls_total", queue="background") >= least > 0
    assert total(found, "clockworker_queue_share", queue="background") == 0
    eventually(lambda: total(samples(server), "clockworker_queue_polls_total", queue="reports") > 0, "its figures")
    assert server.log.count("ERROR") == 0
    # One that is wrong changes nothing.
    (tmp_path / "app.py").write_text(CALLS.replace("share=8", "share=0"))
    server.send(1)
    server.wait_log(r"the shards are not replaced: share of queue 'foreground' is 0; it must be .* to 10,000\n")
    with server.connect() as client:
        assert ask(client, b"") == new + b" foreground,reports"
    assert server.stop() == 0


def test_a_killed_shard_has_its_queues_again(serve: Serve) -> None:
    server = serve(MAIN, "--shards", "1", "--metrics", "127.0.0.1:0")
    server.wait_serving()
    os.kill(server.shard_pids()[0], 9)
    server.wait_log("shard 0 ready", 2)
    assert queues(server.log) == ["0 background 1 Reverse"] * 2 + ["0 foreground 8 LAS"] * 2
    eventually(lambda: [queue.share for queue in stats(server).queues] == [8, 1], "the new one's statistics")
    assert get(server, "/ready")[0] == 200


@cw.application(queues=[cw.Queue("foreground", share=8), cw.Queue("background")])
async def kept(shard: cw.Shard) -> None:
    await shard.start(Teller)
    await shard.wait_stopped()


class Teller:
    def __init__(self, shard: cw.Shard) -> None:
        self._shard = shard

    @cw.remote
    async def queues(self) -> dict[str, int]:
        return {str(key): stats.share for key, stats in self._shard.executor.queue_stats().items()}


def test_the_test_kit_runs_a_declared_application() -> None:
    with serving(kept, shards=1, options=["--queue", "background:2"]) as server:
        assert server.call(0, Teller.queues) == {"foreground": 8, "background": 2}
