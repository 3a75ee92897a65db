"""The connection of two shards on one machine: two rings of shared memory, and a doorbell at each end.

In reading order:

    _connection_cy   how frames get to a peer; what of them goes over rings: back-pressure, news
    _ends            the ends of a link, as the supervisor passes them
    _ring_cy         the ring; messages in chunks
    _doorbell_cy     sleep and wake-up
    _ahead_cy        policy: when a peer is rung before there is news for it
    _malloc          freed memory is kept for the next message
    _memory_cy       shared words and bytes; _atomics.pxd, their orderings
    _mapping         memory mapped without a descriptor
"""
