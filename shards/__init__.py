"""The shards: one pinned process per core, each with an event loop and an executor, under a supervisor that starts,
replaces and stops them and holds their listening sockets; and `clockworker-serve`, the command that runs all of it.

In reading order, from the command to the code that a user writes:

    _cli            the command line and the environment, read into one frozen ServeConfig
    _config         ServeConfig and its parts, and how each is read from text
    _topology       what the kernel says of the CPUs
    _placement      policy: which shard runs where
    _sockets        the listening sockets
    _host           open files and the pid file
    _supervisor     starts, replaces and stops the shards
    _lifecycle      policy: the states of a shard, and when a dead one may start again
    _process        one incarnation of a shard, as the supervisor holds it
    _control        what supervisor and shard say to each other
    _counters       what the supervisor can read without asking
    _logging        log lines with the name of their process
    _child          the process of a shard
    _application    finding `async def main(shard)`
    _shard          Shard, the application's view
    _blocking       functions that block, in threads
    _streams        connections whose handlers run in a queue, and how they are drained
"""

from clockworker.shards._config import QueueConfig, ServeConfig
from clockworker.shards._shard import Shard, ShardStats
from clockworker.shards._supervisor import Supervisor

__all__ = ["QueueConfig", "ServeConfig", "Shard", "ShardStats", "Supervisor"]
