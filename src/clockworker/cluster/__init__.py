"""Many machines: the same services and topics between the nodes of a cluster, over a message broker.

In reading order:

    _wire       what is asked of a broker: messages by subject, and one small store with compare-and-set

executor <- ipc <- shards <- cluster: `shards` imports this only inside functions, for who has `[cluster]`.
"""
