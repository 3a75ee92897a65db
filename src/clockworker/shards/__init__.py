"""The shards: one pinned process per core, each with an event loop and an executor, under a supervisor that starts,
replaces and stops them and holds their listening sockets; and `clockworker-serve`, the command that runs all of it.

In reading order, from the command to the code that a user writes:

    _cli            the command, from its arguments to a running supervisor
    _settings       command line, environment and file, put together into one frozen ServeConfig
    _options        the table of all options
    _arguments      the command line and its help
    _environment    --env-file
    _file           clockworker.toml
    _queues         queues, as text and as tables
    _toml           reading TOML, and writing its values; _text, text files as other systems write them
    _parse          how each value is read from text
    _config         ServeConfig and its parts
    _declaration    what an application says of itself: the queues that it needs
    _schedulers     the schedulers by name, and the application's own
    _spelling       what somebody probably meant
    _print          --print-config
    _preflight      what --check-config and the start must say alike
    _topology       what the kernel says of the CPUs and of quotas
    _placement      policy: how many shards, and which runs where
    _sockets        the listening sockets
    _dispatch       hands connections to the shard that has the fewest
    _handover       the line on which it does
    _machine        what there has to be before anything starts
    _heritage       signals and descriptors that whoever starts a process leaves to it
    _host           open files, the pid file, titles, and the end with one's parent
    _supervisor     starts, replaces and stops the shards
    _signals        what an operator asks of it
    _member         a shard over all its incarnations, as the supervisor sees it
    _lifecycle      policy: the states of a shard, and when a dead one may start again
    _process        one incarnation of a shard, as the supervisor holds it
    _spawn          starting its process; _spares, processes that are started in advance
    _orphans        children that are none of ours: the duties of PID 1
    _messages        what supervisor and shard say to each other
    _wiring         connects the shards with each other by rings
    _figures        what a number of the statistics is: how it sums, what the page calls it, where it is counted
    _reading        the numbers of a shard at one moment: to add one, add its field there, and count it
    _slots          shared memory through which the supervisor reads them without asking
    _recorder       writes them; _usage, what the kernel counts
    _watch          finds shards whose loops stand still
    _health         policy: when a loop is stalled, and when hung
    _pulse          the word that a loop writes as long as it turns
    _rest           policy: when a shard has nothing to do, and need not be looked after so often
    _witness        the thread that says what holds up the loop
    _drain          has shards finish their open work, and kills those that do not
    _lending        who accepts from whose listening sockets
    _roll           replaces shards in good order, one at a time, each by a successor that is ready
    _reload         replaces them when a source file changes
    _systemd        sockets from, and notices to, whoever started the supervisor
    _logging        log lines that name shard and queue, as text or JSON; log files opened anew
    _log_stream     standard error, without waiting for its reader
    _log_config     --log-config
    _log_limit        policy: how often the same thing is worth a line; _slow, a line for a slow step
    _birth          what a shard's process is born with
    _child          the process of a shard; _waiting, what one does that was started in advance
    _reserve        descriptors that it keeps for what the supervisor sends
    _fork           what children that are forked from it must not keep
    _affinity       and the CPUs of all that it starts
    _application    finding `async def main(shard)`
    _shard_queues   the queues that the application declares, under what the operator says of them
    _observe        what the supervisor shows: _ledger, its books; _view, what they mean; _metrics and _page, as Prometheus
                    wants it; _http, the pages, and _http_head, HTTP's part; _query, the control socket;
                    _admission, how tools are let in
    _tracing        traces: asks for them; _trace, records one; _chrome, writes it
    _top            clockworker-top; _screen, what it shows
    _shard          Shard, the application's view; _current, finding it
    _servers        the servers of a shard, one for each bind
    _connections    the connections of a shard's server: what is open, how many may be, and how they end
    _accepted_cy    what is done for each of them, compiled; _system.pxd, what that takes from C
    _tls            those that speak TLS, and the contexts of servers; _socket_info, what the kernel says of a connection
    _accept         accepting, from listening sockets or from the supervisor's hands
    _counter        counters of the application's own
    _blocking_pools threads for functions that block, by depth of calls
    _blocking       functions that block, in threads
    _terminal       the terminal, for breakpoint()
    _streams        a server of streams, whose handlers run in a queue; _ends, whether an exception is its client's leaving
    _protocols      a server of protocols of which nothing is known
    testing         for tests of applications: real shards inside a test
    _agent          what it puts beside an application in every shard
"""

from clockworker.shards.config._config import QueueConfig, ServeConfig
from clockworker.shards.config._declaration import application
from clockworker.shards.worker._counter import Counter
from clockworker.shards.worker._current import current_shard
from clockworker.shards.worker._shard import Shard, ShardStats

__all__ = ["Counter", "QueueConfig", "ServeConfig", "Shard", "ShardStats", "application", "current_shard"]
