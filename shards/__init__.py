"""The shards: one pinned process per core, each with an event loop and an executor, under a supervisor that starts,
replaces and stops them and holds their listening sockets; and `clockworker-serve`, the command that runs all of it.

In reading order, from the command to the code that a user writes:

    _cli            the command line and the environment, read into one frozen ServeConfig
    _config         ServeConfig and its parts, and how each is read from text
    _topology       what the kernel says of the CPUs
    _placement      policy: which shard runs where
    _sockets        the listening sockets
    _dispatch       hands connections to the shard that has the fewest
    _handover       the line on which it does
    _host           open files and the pid file
    _supervisor     starts, replaces and stops the shards
    _member         a shard over all its incarnations, as the supervisor sees it
    _lifecycle      policy: the states of a shard, and when a dead one may start again
    _process        one incarnation of a shard, as the supervisor holds it
    _control        what supervisor and shard say to each other
    _reading        the numbers of a shard at one moment, and their sums
    _slots          shared memory through which the supervisor reads them without asking
    _recorder       writes them; _usage, what the kernel counts
    _watch          finds shards whose loops stand still
    _health         policy: when a loop is stalled, and when hung
    _pulse          the word that a loop writes as long as it turns
    _witness        the thread that says what holds up the loop
    _roll           replaces shards in good order, one at a time
    _rehearsal      imports the application before the shards are replaced
    _reload         replaces them when a source file changes
    _systemd        sockets from, and notices to, whoever started the supervisor
    _logging        log lines with the name of their process
    _child          the process of a shard
    _application    finding `async def main(shard)`
    _observe        what the supervisor shows: _ledger, its books; _view, what they mean; _metrics, as Prometheus wants it;
                    _http, the pages; _query, the control socket
    _tracing        traces: asks for them; _trace, records one; _chrome, writes it
    _top            clockworker-top; _screen, what it shows
    _shard          Shard, the application's view
    _accept         accepting with a limit, or from the supervisor's hands
    _streams        connections whose handlers run in a queue, and how they are drained
"""

from clockworker.shards._config import QueueConfig, ServeConfig
from clockworker.shards._shard import Shard, ShardStats
from clockworker.shards._supervisor import Supervisor

__all__ = ["QueueConfig", "ServeConfig", "Shard", "ShardStats", "Supervisor"]
