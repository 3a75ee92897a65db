"""Many machines: the same services and topics between the nodes of a cluster, over a message broker.

In reading order:

    _wire       what is asked of a broker: messages by subject, and one small store with compare-and-set
    _subjects   the subjects that messages go by, and who has sent what
    _pieces_cy  the stream of frames between two shards, in pieces of messages
    _session_cy what two shards know of each other while they talk: numbers, windows, silence
    _far_cy     the connection of two shards of different nodes; _peer, a shard and its successor
    _links      a shard's links to the shards of other nodes; _topics, what they publish
    _partitions which node and shard a key belongs to
    _view       who is in the cluster: the one value that all agree on
    _fence      whether this node owns what the view gives it
    _word       the same, as shards see it when a call begins; _outage, what the log says if it does not
    _cluster    `shard.cluster`: what a shard knows, and may begin
    _shard      the shard's part: both together
    _membership the supervisor's part: being a node
    _nats_protocol  what a NATS server and its client say, as bytes; _nats_keys, who we are to it; _nats_store, its store
    _nats       the wire over NATS

executor <- ipc <- shards <- cluster: `shards` imports this only inside functions, for who has `[cluster]`.
"""
