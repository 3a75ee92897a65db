"""What supervisor and shard share.

In reading order:

    _birth          what a shard's process is born with
    _messages       what they say to each other; _control_channel, which carries it
    _handover       the line on which a connection is handed to a shard
    _figures        what a number of the statistics is: how it sums, what the page calls it, where it is counted
    _reading        the numbers of a shard at one moment: to add one, add its field there, and count it; _request_readings,
                    those of HTTP; _topic_readings
    _slots          shared memory through which the supervisor reads them without asking; _slot_words, how they lie there
    _recording      what a trace has recorded
    _pulse          the word that a loop writes as long as it turns
    _rest           policy: when a shard has nothing to do, and need not be looked after so often
    _witness        the thread that says what holds up the loop
    _health         policy: when a loop is stalled, and when hung
"""
