"""The shards: one pinned process per core, each with an event loop and an executor, under a supervisor that starts,
replaces and stops them and holds their listening sockets; and `clockworker-serve`, the command that runs all of it.

Each room is a package, whose head lists its modules. In reading order, from the command to the code that a user writes:

    _cli            the command, from its arguments to a running supervisor; _serve, the same as a function
    config/         what is to run: command line, environment, file and application, as one frozen ServeConfig
    logs/           log lines
    machine/        what the machine is, and what we need of it: CPUs, sockets, descriptors, signals, whoever started us
    protocol/       what supervisor and shard share: messages, shared memory, policies
    supervisor/     the process that starts, replaces and stops the shards
    worker/         inside a shard's process: Shard, its servers, threads, counters
    observe/        statistics as others want them: /metrics, the control socket
    tools/          clockworker-top, and traces for a browser
    testing         for tests of applications: real shards inside a test
    _agent          what it puts beside an application in every shard

A room imports those that it may, and no others; tests/test_exports.py holds the arrows:

    config <- logs <- machine <- protocol <- worker, observe <- supervisor <- _cli <- testing;   tools -> observe
"""

from clockworker.shards._serve import serve
from clockworker.shards.config._config import QueueConfig, ServeConfig
from clockworker.shards.config._declaration import application
from clockworker.shards.worker._counter import Counter
from clockworker.shards.worker._current import current_shard
from clockworker.shards.worker._peers import PeerChange
from clockworker.shards.worker._shard import Shard, ShardStats

__all__: list[str] = [
    "Counter",
    "PeerChange",
    "QueueConfig",
    "ServeConfig",
    "Shard",
    "ShardStats",
    "application",
    "current_shard",
    "serve",
]
