"""Redis's own tools against the server."""

from __future__ import annotations

import subprocess

from kv_server import ROOT, Server, needs


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr == ""
    return done.stdout


def test_redis_cli(kv: Server) -> None:
    cli = needs("redis-cli"), "-p", str(kv.port)
    assert run(*cli, "SET", "key", "value") == "OK\n"
    assert run(*cli, "GET", "key") == "value\n"
    assert run(*cli, "-3", "GET", "missing") == "\n"
    assert run(*cli, "-r", "3", "INCR", "counter") == "1\n2\n3\n"
    assert "ERR unknown command 'WHAT'" in run(*cli, "WHAT", "is", "it")
    assert "# Shards" in run(*cli, "INFO")
    run(*cli, "MSET", *[item for number in range(300) for item in (f"key:{number}", "")])
    assert len(run(*cli, "--scan", "--pattern", "key:*").split()) == 300


def test_redis_benchmark(kv: Server) -> None:
    """Half of the keys on each shard, calls that crossed, and no word of an error."""
    options = "-n", "20000", "-c", "50", "-P", "16", "-r", "10000", "-t", "set,get,incr,mset", "-q"
    output = run(needs("redis-benchmark"), "-p", str(kv.port), *options)
    assert output.count("requests per second") == 4
    assert "rror" not in output
    first, second = kv.shards()
    keys = int(first["keys"]), int(second["keys"])
    assert sum(keys) > 10_000
    assert 0.45 < keys[0] / sum(keys) < 0.55
    for shard in (first, second):
        assert int(shard["commands_local"]) > 0
        assert int(shard["commands_crossed"]) > 0
        assert int(shard["calls_sent"]) > 0
        assert int(shard["calls_received"]) > 0
