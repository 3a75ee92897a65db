"""Inside a shard's process.

In reading order:

    _child            its main: from the first message to the exit status; _waiting, of one that was made in advance;
                      _fork_server, who forks those
    _loading          the application and its queues, before there is a loop; _peer_links, links to the other shards
    _reserve          descriptors that it keeps for what the supervisor sends
    _replaced         its part where state moves to a successor; _state, the way of that; _peers, who is where
    _fork             what children that are forked from it must not keep
    _affinity         and the CPUs of all that it starts
    _collector        how often cycles are looked for among all objects
    _hidden           tasks that are no business of the application's
    _shard            Shard, the application's view; _current, finding it
    _shard_queues     the queues that the application declares, under what the operator says of them
    _servers          the servers of a shard, one for each bind
    _connections      the connections of a server: what is open, how many may be, and how they end
    _accepted_cy      what is done for each of them, compiled; _system.pxd, what that takes from C
    _tls              those that speak TLS; _socket_info, what the kernel says of a connection
    _accept           accepting, from listening sockets or from the supervisor's hands
    _streams          a server of streams, whose handlers run in a queue; _ends, whether an exception is its client's leaving
    _protocols        a server of protocols of which nothing is known
    _counter          counters of the application's own; _requests, those of HTTP servers
    _blocking         functions that block, in threads; _blocking_pools, threads by depth of calls
    _process_pool     functions that compute, in processes; _pool_process, one of them; _pool_frames, what is said to it;
                      _pool_child, what it runs
    _places           what both have in common; _line, of the calls that wait
    _queue_calls      functions that compute, in preemptive queues
    _recorder         writes the shard's numbers; _usage, what the kernel counts
    _trace            records what the executor does
    _slow             a line for a slow step; _hogs, who computes in preemptive queues
"""
