"""Topics: what one shard publishes, all shards that have a subscriber hear.

They are a room of ipc, beside calls: a topic's messages go over the same links, and die with them, but have credit of their
own and no answers, so calls pay nothing for them. They could not stand above ipc, for a link's frames have one reader; and
they know nothing of services, queues or sockets, which is why they do not stand in shards.

In reading order:

    _topic         Topic: publish and subscribe
    _subscription  Subscription: the queue of one subscriber, and what happens when that is full
    _codec         a topic's type: messages as bytes, and what peers are told of it
    _outlet        what goes to one peer: credit, who waits for it; send_many
    _passage       the way of ordered topics' messages, by their owner
    _interest      policy: what a peer wants to hear; a later word counts
    _words         what shards tell each other of it
    _beyond        topics on other nodes
    _topics        all topics of a shard, and all that peers say of them; _confirmation, who has heard of a subscription;
                   _counts, what is counted
"""
