"""Calls: what can be called, what of it travels, and the way of a call from end to end, whatever carries it.

In reading order:

    _remote         what can be called: @remote, what it refuses
    _annotations    what the annotations of a function mean
    _types          which types travel
    _schema         what a shard tells of its methods
    _understanding  what two versions still understand of each other
    _method         what calls of a method are made with
    _definitions    where methods are found: in a service, in modules
    _state          services whose state moves to a successor; _gate, before which calls of them wait meanwhile
    _owners         whose a key is; _keyed, calls of keys
    _service        Sharded, the proxies of a service's instances
    _together       calls of all shards at once
    _places         what a proxy's call does, here and on another shard
    _home           the shard itself, as calls see it that are made on it
    _as_sent        for tests: a call here as if it were to another shard
    _timeout        time-outs as users give them; _deadlines, policy: whose deadline is next
    _chain_cy       what a call is part of: its depth, its deadline; the envelope in which they travel
    _call_cy        a call of ours, until it is answered
    _link_cy        one peer: calls in flight, calls that wait, its own calls; _shared_cy, what all links have in common
    _outbox_cy      one-way requests, from `send` to the link
    _credit_cy      how many calls may be in flight to it, at each depth, and who waits; why nothing stands still
    _request_cy     a call of a peer, until it is answered
    _stream         remote generators
    _waits          who waits, for how long, and why
    _threads        calls from other threads
    _limits         bounds
    _frames         kinds of frames
    _failure        exceptions on the wire
"""
