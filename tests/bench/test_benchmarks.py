"""Each benchmark runs, at sizes too small to tell anything, and writes what it should. No figure is judged."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import clockworker as cw
from bench import __main__ as main
from bench import instructions
from tests.cluster.servers import find_server

pytestmark = [pytest.mark.slow, pytest.mark.once]  # together: two minutes of CPU time

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600

OVERHEAD = "--tasks 2 20 --rounds 2 --operations 40 --pending 100 --finished 1000"
FAIRNESS = "--queues 2 5 --seconds 0.02 --attempts 1 --repeats 1 --shared-seconds 0.2"
PRIORITY = "--rounds 1 --seconds 0.2 --warm-up 0.05 --rate 100 --scheduler las"
TAIL = "--rounds 1 --seconds 0.3 --warm-up 0.05 --load 0.3 --simulated-seconds 1"
CONTROLLED = "--seconds 2"
CROSSING = "--rounds 1 --seconds 2 --warm-up 0.05 --rate 100"
PINGPONG = "--rounds 2 --wakeups 100"
OBSERVE = "--rounds 2 --starts 1 --seconds 0.05 --clients 2 --stalls 1"
ACCEPT_BUSY = "--rounds 2 --seconds 0.05 --tasks 2 --at-once 4"
INSTRUCTIONS = "--requests 100"
TRIO = "--rounds 2 --operations 40 --counted 40 --tasks 4 --seconds 0.05"
ASGI = "--rounds 1 --seconds 0.1 --connections 4 --workers 2"
MIXED = "--rounds 1 --seconds 0.3 --warm-up 0.05 --rate 50 --workers 2 --mixes alone '8 heavy' '8 that never await'"
HOSTILE = "--rounds 1 --seconds 0.3 --warm-up 0.2 --attacks slow-heads smuggling websocket-fragments rapid-reset"
PREEMPT = "--rounds 1 --seconds 0.1 --hogs 1 2"
HANDOVER = "--keys 2000 --value-bytes 100 --rate 50"
TOPICS = "--rounds 1 --messages 1000 --seconds 0.2"
CLUSTER = "--rounds 1 --seconds 0.2"
IPC = "--rounds 2 --seconds 0.005 --sizes 64 300000 --shards 2 3 --idle 0.05"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S)


def environment() -> dict[str, str]:
    """That of the tests, whose import path the benchmarks may need."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run(name: str, options: str, tmp_path: Path) -> dict[str, Any]:
    """The JSON document of one run."""
    json_file, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    arguments = [name, *shlex.split(options), "--json", str(json_file)]
    if importlib.util.find_spec("matplotlib"):
        arguments += ["--plot", str(plot)]
    done = bench(*arguments)
    assert done.returncode == 0, done.stderr
    if importlib.util.find_spec("matplotlib"):
        assert plot.read_bytes().startswith(b"\x89PNG")
    document: dict[str, Any] = json.loads(json_file.read_text())
    assert document["benchmark"] == name
    assert {"machine", "python", "clockworker", "load at start"} <= document["machine"].keys()
    return document


def test_observe(tmp_path: Path) -> None:
    document = run("observe", OBSERVE, tmp_path)
    for figures in (document["rates"], document["cpu_us"]):
        assert {name: len(rounds) for name, rounds in figures.items()} == {"off": 2, "on": 2, "off again": 2}
        assert all(figure > 0 for rounds in figures.values() for figure in rounds)
    assert len(document["stalls_s"]) == 1
    assert [scrape["shards"] for scrape in document["scrapes"]] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_topics(tmp_path: Path) -> None:
    (figures,) = run("topics", TOPICS, tmp_path)["rounds"]
    assert figures["crowd_frames"] == 1
    assert figures["unheard_frames"] == 0
    names = ("topic_rate", "redis_rate", "redis_pipelined_rate", "quiet_p99_us", "slow_p99_us", "quiet_cpu_us")
    assert all(figures[name] > 0 for name in names)
    assert figures["slow_cpu_us"] < 2 * figures["quiet_cpu_us"]  # 1.1 to 1.15 of it, by a clock that no others disturb


@pytest.mark.skipif(
    find_server() is None or importlib.util.find_spec("nats") is None, reason="needs nats-server, nats-py"
)
def test_cluster(tmp_path: Path) -> None:
    (figures,) = run("cluster", CLUSTER, tmp_path)["rounds"]
    for way in ("peer", "ours", "suspending"):
        assert figures[way].keys() == {"p50_us", "rates", "large_mb", "cpu_us", "server_us"}
        assert figures[way]["rates"].keys() == {"64", "256", "1024"}
        assert min(figures[way]["p50_us"], figures[way]["large_mb"], *figures[way]["rates"].values()) > 0
    assert figures["bare_large_mb"] > 0


def test_overhead(tmp_path: Path) -> None:
    document = run("overhead", OVERHEAD, tmp_path)
    costs = document["costs"]
    operations = {(cost["operation"], cost["tasks"], cost["setup"]) for cost in costs}
    assert len(operations) == len(costs) == 5 * 2 * 3
    for cost in costs:
        assert len(cost["ns"]) == 2
        assert cost["ratio"].keys() == {"median", "least", "most"}
    assert [memory["setup"] for memory in document["memory"]] == ["plain", "two queues", "one queue"]
    beside = {(cost["operation"], cost["tasks"], cost["setup"]) for cost in document["pure"]}
    assert beside == (operations if cw.compiled else set())


needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")


@needs_valgrind
def test_overhead_of_an_extra_that_is_not_used(tmp_path: Path) -> None:
    """Counts are the same on any machine, so this is judged."""
    pytest.importorskip("greenlet")
    counted = run("overhead", "--preempt --tasks 4 --operations 2000", tmp_path)["counted"]
    assert [each["operation"] for each in counted] == ["spawn and await", "spawn all", "yield", "future ping"]
    for each in counted:
        # Beside others turns end elsewhere. Of lone wake-ups, in how many the next turn was there already depends on how long
        # the steps before were.
        most = 0.15 if each["operation"] == "future ping" else 0.02
        assert each["with_extra"] / each["without"] == pytest.approx(1, abs=most), each["operation"]


@needs_valgrind
def test_trio(tmp_path: Path) -> None:
    pytest.importorskip("trio")
    document = run("trio", TRIO, tmp_path)
    costs = {(cost["operation"], cost["setup"]): cost for cost in document["costs"]}
    assert len(costs) == len(document["costs"]) == 3 * 4
    assert all(cost["instructions"] > 0 and len(cost["ns"]) == 2 for cost in costs.values())
    assert [each["setup"] for each in document["latencies"]] == ["plain, alone", "plain", "alone", "two queues"]
    assert document["share"] > 1


SETUPS = ["plain", "RunnableFifo", "ArrivalFifo", "QLAS", "LAS"]


@pytest.mark.parametrize("instructions", [False, True])
def test_overhead_of_schedulers(tmp_path: Path, instructions: bool) -> None:
    if instructions and shutil.which("valgrind") is None:
        pytest.skip("needs valgrind")
    options = "--operations 2000 --instructions" if instructions else "--operations 200 --rounds 2"
    document = run("overhead", f"--schedulers {options}", tmp_path)
    cells = [(cell["row"], cell["setup"]) for cell in document["cells"]]
    assert cells == [(row, setup) for row in document["targets"] for setup in SETUPS]
    assert len(document["targets"]) == 3
    for cell in document["cells"]:
        assert len(cell["cost"]) == (1 if instructions else 2)
        assert all(cost > 0 for cost in cell["cost"])
        if cell["setup"] == "plain":
            assert set(cell["ratio"].values()) == {1.0}


@pytest.mark.parametrize("instructions", [False, True])
def test_http(tmp_path: Path, instructions: bool) -> None:
    if instructions and shutil.which("valgrind") is None:
        pytest.skip("needs valgrind")
    options = "--connections 2 --requests 10 --instructions" if instructions else "--rounds 2 --seconds 0.05"
    document = run("http", options, tmp_path)
    results = [(result["server"], result["setup"]) for result in document["results"]]
    servers = list(dict.fromkeys(server for server, _ in results))
    assert len(servers) == 2
    assert results == [(server, setup) for server in servers for setup in SETUPS]
    for result in document["results"]:
        assert all(rate > 0 for rate in result["rates"])


def test_fairness(tmp_path: Path) -> None:
    document = run("fairness", FAIRNESS, tmp_path)
    assert len(document["scenarios"]) == 2 * 4 * 3
    for scenario in document["scenarios"]:
        assert scenario["steps"] > 0
        assert scenario["bound_us"] == pytest.approx(scenario["slice_us"] + scenario["longest_poll_us"])
    # Four levels of queues, and one of groups of tasks.
    assert len(document["levels"]) == 5 * 3
    for level in document["levels"]:
        assert level["bound_us"] == pytest.approx(1_000 + level["longest_poll_us"])
    assert len(document["cases"]) == 3
    assert [case["work"] > 0 or bool(case["skipped"]) for case in document["shared"]] == [True] * 4


def test_priority(tmp_path: Path) -> None:
    document = run("priority", f"{PRIORITY} --preempt", tmp_path)
    assert len(document["results"]) == 6
    assert "background work, with the extra / without" in document["verdicts"]
    for result in document["results"]:
        for figures in (result["queue_delay_us"], result["total_us"]):
            assert list(figures) == ["p50", "p90", "p99"]
            assert 0 < figures["p50"][0] <= figures["p90"][0] <= figures["p99"][0]
    background = {result["setup"]: result["background"][0] for result in document["results"]}
    assert background.pop("plain alone") == background.pop("clockworker alone") == 0
    assert all(share > 0 for share in background.values())


def test_tail(tmp_path: Path) -> None:
    document = run("tail", TAIL, tmp_path)
    results = {(result["mix"], result["setup"], result["kind"]): result for result in document["results"]}
    assert len(results) == len(document["results"]) == 3 * 8 * 2
    simulated = {(each["mix"], each["setup"], each["kind"]): each for each in document["simulated"]}
    assert len(simulated) == 3 * 9 * 2
    for mix in ("crate", "most thin"):
        means = [simulated[mix, name, "thin"]["mean_us"] for name in ("nobody waits", "SRPT, exact", "RunnableFifo")]
        assert means == sorted(means)
    for deadlines in document["deadlines"]:
        assert all(0 <= met <= 1 for met in deadlines["met"].values())
    # The same arrivals for all.
    assert results["halves", "LAS", "thin"]["tasks"] == results["halves", "plain uvloop", "thin"]["tasks"] > 0


def test_controlled(tmp_path: Path) -> None:
    document = run("controlled", CONTROLLED, tmp_path)
    assert len(document["runs"]) == 2 * 3
    for each in document["runs"]:
        if each["clock"] == "wound":  # the same on every machine
            assert each["ended"] == pytest.approx(1, abs=0.05)


def test_pingpong(tmp_path: Path) -> None:
    document = run("pingpong", PINGPONG, tmp_path)
    assert [result["setup"] for result in document["results"]] == [
        "plain",
        "one queue",
        "same queue of two",
        "different queues",
    ]
    for result in document["results"]:
        assert len(result["wakeup_ns"]) == len(result["latency_ns"]["p50"]) == 2


def test_ipc(tmp_path: Path) -> None:
    document = run("ipc", IPC, tmp_path)
    transports = {message["transport"] for message in document["messages"]}
    streams = {"Unix stream, protocols", "Unix stream, asyncio streams"}
    assert {"ring, not polling", "send, polling", "send, not polling", "Pipe", "Queue, msgspec", *streams} <= transports
    assert len(document["messages"]) == 2 * len(transports)
    for message in document["messages"]:
        assert len(message["per_second"]) == 2
        if not message["transport"].startswith("send") and not message["transport"].endswith("requests"):
            assert 0 < min(message["p50_us"]) <= max(message["p99_us"])
    in_flight = {calls["setup"]: len(calls["per_second"]) for calls in document["calls"]}
    for setup in {"shards, polling", "shards, not polling", *streams}:
        assert in_flight[setup] == 2
    assert [growth["shards"] for growth in document["growth"]] == [2, 3]
    for growth in document["growth"]:
        assert growth["used_pair_kib"] > growth["idle_pair_kib"] > 0
    assert document["idle"].keys() == {"polling", "not polling"}
    goals = {goal["what"] for goal in document["goals"]}
    assert {"call, polling, p50 us", "send, polling, 64 bytes one way / best peer with typed messages"} <= goals


def test_crossing(tmp_path: Path) -> None:
    results = run("crossing", CROSSING, tmp_path)["results"]
    assert [result["setup"] for result in results] == ["quiet", "work", "empty", "one way"]
    # The others have sent a call at least, or this would hang; on a busy machine it may be the only one.
    assert results[0]["calls_per_second"] == [0]
    assert all(0 < result["total_us"]["p50"][0] <= result["total_us"]["p99"][0] for result in results)


def test_accept_busy(tmp_path: Path) -> None:
    rates = run("accept_busy", ACCEPT_BUSY, tmp_path)["rates"]
    assert [rate["tasks"] for rate in rates] == [0, 2]
    assert all(len(figures) == 2 and min(figures) > 0 for rate in rates for figures in (rate["shard"], rate["plain"]))


@needs_valgrind
@pytest.mark.skipif(not cw.compiled, reason="the limits are those of the compiled modules")
def test_instructions(tmp_path: Path) -> None:
    """Counts are the same on any machine, so these figures are judged."""
    counts = run("instructions", f"{INSTRUCTIONS} --check", tmp_path)["counts"]
    assert [(count["workload"], count["access_log"]) for count in counts] == [
        (workload, access_log) for access_log in (False, True) for workload in ("plain", "starlette", "fastapi")
    ]
    assert all(10_000 < count["clockworker"] < count["uvicorn"] < 2_000_000 for count in counts)


def test_check_of_a_limit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of counts that are given: to count takes long."""
    given = {("plain", side, log): 1_000.0 for side in (instructions.PEER, instructions.OURS) for log in (False, True)}
    monkeypatch.setattr(instructions, "measure", lambda directory, requests, workloads: given)
    monkeypatch.setattr(shutil, "which", lambda program: program)
    monkeypatch.setattr(instructions, "LIMITS", {"plain": {False: 1.1, True: 0.01}})
    assert main.run("instructions", ["--workloads", "plain", "--check"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "wanted" in line]
    assert "raw ASGI, plain text, access log on: 1.000 of uvicorn's" in line
    assert "at most 0.01 were wanted" in line
    monkeypatch.setattr(instructions, "LIMITS", {"plain": {False: 1.1, True: 1.1}})
    assert main.run("instructions", ["--workloads", "plain", "--check"]) == 0


def test_asgi(tmp_path: Path) -> None:
    for peer in ("granian", "hypercorn", "gunicorn"):
        pytest.importorskip(peer)
    results = run("asgi", ASGI, tmp_path)["results"]
    assert len({(result["server"], result["workload"]) for result in results}) == 5 * 6
    assert all(len(result["rates"]) == 1 and result["rates"][0] > 0 for result in results)


def test_mixed(tmp_path: Path) -> None:
    for peer in ("granian", "hypercorn", "gunicorn"):
        pytest.importorskip(peer)
    document = run("mixed", MIXED, tmp_path)
    found = {(each["clock"], each["workers"], each["server"], each["mix"]): each for each in document["results"]}
    # Mixes, of five that differ in numbers only; servers on the CPU's clock, and over sockets with two workers.
    assert len(found) == 3 * (3 + 7)
    for (_, _, _, mix), result in found.items():
        assert 0 < result["latency_ms"]["p50"][0] <= result["latency_ms"]["p99"][0]
        assert (result["heavy"][0] > 0) == (mix != "alone")
    assert set(document["limits"]) == {name.partition(";")[0] for name in document["verdicts"]}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_hostile(tmp_path: Path) -> None:
    document = run("hostile", HOSTILE, tmp_path)
    found = {each["attack"]: each for each in document["results"]}
    assert list(found) == ["slow-heads", "smuggling", "websocket-fragments", "rapid-reset"]
    assert len(document["quiet_p99_ms"]) == 5
    assert all(0 < each["p50_ms"][0] <= each["p99_ms"][0] for each in found.values())
    assert set(found["smuggling"]["ends"]) == {"400"}


def test_handover(tmp_path: Path) -> None:
    document = run("handover", HANDOVER, tmp_path)
    [roll] = document["rolls"]
    assert (roll["failed"], roll["lost"]) == (0, 0)
    assert len(roll["hand_overs_s"]) == 2
    assert len(roll["waits_ms"]) == len(roll["due_s"]) > 100
    assert roll["memory_peak"] >= roll["memory_before"] > 0


@pytest.mark.skipif(not cw.compiled, reason="preemptive queues need the compiled modules")
def test_preempt(tmp_path: Path) -> None:
    pytest.importorskip("greenlet")
    document = run("preempt", PREEMPT, tmp_path)
    results = document["results"]
    assert len({(result["setup"], result["hogs"]) for result in results}) == len(results) == 9 * 2
    for result in results:
        assert result["timer_p99"][0] > 0
        assert result["foreground_p99"][0] > 0.2  # its own work
        assert result["hogs_work"][0] > 0
    assert {(lost["slice"], lost["situation"]) for lost in document["losses"]} == {
        (slice, situation)
        for slice in ("0.5 ms", "1 ms", "2 ms", "default")
        for situation in ("idle foreground, a timer of 2 ms", "nobody else")
    }
    losses = {lost["situation"]: lost["rounds"] for lost in document["losses"]}
    assert losses["idle foreground, a timer of 2 ms"][0]["cuts"] > 100
    assert len(document["verdicts"]) == 2  # the others are beside 8 hogs


def test_list_of_benchmarks() -> None:
    done = bench()
    assert done.returncode == 0
    names = (
        "accept accept_busy asgi crossing fairness instructions ipc kv mixed observe overhead pingpong priority tail"
    )
    for name in names.split():
        assert f"  {name}" in done.stdout


def test_unknown_benchmark() -> None:
    done = bench("speed")
    assert done.returncode == 2
    assert "no benchmark is called speed" in done.stderr


def test_output_directory_that_is_not_there(tmp_path: Path) -> None:
    done = bench("pingpong", "--json", str(tmp_path / "missing" / "figures.json"))
    assert done.returncode == 2
    assert "there is no directory" in done.stderr


def test_plot_without_matplotlib(tmp_path: Path) -> None:
    # A package of this name that cannot be found: sys.modules says that there is none.
    code = "import sys; sys.modules['matplotlib'] = None; sys.argv = ['bench', 'pingpong', '--plot', 'x.png']"
    code += "; import bench.__main__; bench.__main__.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'clockworker[bench]'" in done.stderr
