"""The process that starts, replaces and stops the shards, and holds their listening sockets.

In reading order:

    _supervisor     all of it together
    _preflight      what --check-config and the start must say alike
    _signals        what an operator asks
    _member         a shard over all its incarnations
    _lifecycle      policy: the states of a shard, and when a dead one may start again
    _process        one incarnation
    _starter        makes it, and tells it who it is
    _spawn          starting its process; _spares, processes that are made in advance; _forking, who forks those
    _orphans        children that are none of ours: the duties of PID 1
    _hearing        what shards say, and whom it concerns
    _wiring         connects the shards with each other by rings
    _dispatch       hands connections to the shard that has the fewest
    _lending        who accepts from whose listening sockets
    _watch          finds shards whose loops stand still
    _silence        tells those that serve nothing
    _drain          has shards finish their open work, and kills those that do not; _shutdown, all of them
    _roll           replaces shards in good order, one at a time, each by a successor that is ready
    _turnover       replaces those that have grown old or large
    _reload         replaces them when a source file changes
    _observe        what the supervisor shows; _tracing, asks for traces
"""
