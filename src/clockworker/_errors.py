"""Every error that Clockworker raises on its own account.

Each says whose fault it is: `ConfigurationError` and `UsageError` are the caller's, `AddressUnavailable` the machine's;
`JoinError`s speak of the task that was awaited, `CallError`s of the shard that was called.
"""

__all__ = [
    "AddressUnavailable",
    "ApplicationError",
    "CallError",
    "CallTimeout",
    "ChannelFull",
    "ClientLeft",
    "ClockworkerError",
    "ConfigurationError",
    "ControlError",
    "JoinError",
    "Lagged",
    "MessageTooLarge",
    "NodeDied",
    "NodeDown",
    "NodeIsolated",
    "NotOwner",
    "ProcessDied",
    "RemoteError",
    "SchemaMismatch",
    "ShardDied",
    "ShardDown",
    "TaskCancelled",
    "TaskPanicked",
    "UnknownQueue",
    "UsageError",
]


class ClockworkerError(Exception):
    """The base of all errors of this package."""


class ConfigurationError(ClockworkerError, ValueError):
    """A value given to a constructor, an option or a file is wrong. The message names it and what would be right."""


class ApplicationError(ConfigurationError):
    """What `clockworker-serve` was told to run is not there, or is no application. The message says what one is."""


class UnknownQueue(ConfigurationError, KeyError):
    """The application names a queue that its shard does not have. The message says how to declare it. A `KeyError`, too, for
    an application that asks what there is."""

    def __str__(self) -> str:  # not KeyError's, which puts the message in quotes
        return str(self.args[0])


class AddressUnavailable(ClockworkerError):
    """An address cannot be listened on. The message names it, says why and what to do."""


class ControlError(ClockworkerError):
    """A message between supervisor and shard was too long, cut off or unintelligible: whoever sent it is broken."""


class UsageError(ClockworkerError, RuntimeError):
    """The call was made at the wrong time or in the wrong place: a closed executor, another thread, a taken loop."""


class ClientLeft(ClockworkerError, ConnectionError):
    """Nothing more can be sent on a WebSocket: its client has left, or the server stops. An `OSError`, as ASGI wants it."""


class JoinError(ClockworkerError):
    """The awaited task gave no value."""


class TaskCancelled(JoinError):
    """The awaited task was aborted. An ordinary exception, so that it is never taken for the waiter's own cancellation."""


class TaskPanicked(JoinError):
    """The awaited task raised; `exception` is what it raised. Returned by `JoinHandle.outcome()`, never raised by it."""

    __match_args__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        super().__init__(exception)
        self.exception = exception


class ProcessDied(ClockworkerError):
    """The process of a function of `run_process` ended before the function did. How much of it ran is unknown."""


class CallError(ClockworkerError):
    """A call to another shard did not bring back a value."""


class ShardDied(CallError):
    """The shard died with the call in flight. Whether the call ran is unknown."""


class ShardDown(CallError):
    """The shard is down or leaving, and nothing was run. Calls succeed again once it has been restarted."""


class NodeDied(ShardDied):
    """The node of the shard, another machine of the cluster, is no longer heard, and the call was in flight. Whether it ran is
    unknown."""


class NodeDown(ShardDown):
    """The node of the shard, another machine of the cluster, is not heard, or has left. Nothing was sent."""


class NotOwner(CallError):
    """The key belongs to another shard than the one that was called, or it is not known yet to whom. Nothing was run;
    `service.of(key)` asks again, and goes on to the owner."""


class NodeIsolated(CallError):
    """This node does not hear enough of its cluster to know that its keys are still its own. Nothing was run."""


class CallTimeout(CallError, TimeoutError):
    """The call's deadline passed: while it waited for credit, in the queue, or while it ran."""


class ChannelFull(CallError):
    """As many calls as `credit` allows are in flight to that shard in that queue, or as many streams are open as may be; or it
    has as many messages of topics to take in. Nothing was sent; the form without `_nowait` waits for credit, unless the call
    is made within more than 60 others."""


class SchemaMismatch(CallError):
    """The two shards run versions of the method that do not understand each other, or the other has not started the service.
    Nothing was run; they agree again when both run the same. `docs/changing-a-method.md` says what is understood."""


class Lagged(ClockworkerError):
    """A subscriber has not read its topic's messages as fast as they came, and its subscription, which was to "disconnect" when
    it is full, has ended. `dropped` is how many messages it did not get."""

    def __init__(self, dropped: int, topic: str = "") -> None:
        what = f"of topic {topic!r} " if topic else ""
        super().__init__(
            f"the subscription {what}was full, and has ended: {dropped:,} messages did not get in; read faster, give it a "
            'higher limit, or let it drop messages (when_full="drop-oldest")'
        )
        self.dropped = dropped
        self.topic = topic


class MessageTooLarge(CallError, ValueError):
    """The encoded call or reply is over `max_message`. Nothing was sent."""


class RemoteError(CallError):
    """The remote method raised something that does not travel. `message` is its text; `type_name` and `remote_traceback` say
    what and where."""

    def __init__(self, message: str, type_name: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.remote_traceback = remote_traceback
