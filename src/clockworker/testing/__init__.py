"""For tests of applications. Not imported with `clockworker`; with pytest there are fixtures of the same (`serving`,
`clockworker_clock`, `clockworker_seed`), which need no import. In reading order:

    _clock      Clock: time that a test winds by hand
    _loop       the event loop that runs by it
    _shuffle    Shuffle: runnable tasks go in an order that a seed gives
    _run        run and new_event_loop, with both

and of `clockworker.shards.testing` `serving`: real shards, real processes, real time.
"""

from clockworker.shards.testing import Server, Serving, serving
from clockworker.testing._clock import Clock
from clockworker.testing._run import new_event_loop, run
from clockworker.testing._shuffle import Shuffle, shuffled

__all__ = ["Clock", "Server", "Serving", "Shuffle", "new_event_loop", "run", "serving", "shuffled"]
