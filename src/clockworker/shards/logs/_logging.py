"""Logs of supervisor and shards: text or JSON on standard error, or whatever a --log-config says.

Every record knows where it comes from: `shard` (its number, or None in the supervisor), `queue` (the executor queue of
the running task, or None) and `where`, both as text. They are set when the record is made, by the record factory, since a
handler may see it in another thread, so that a formatter of the user's can use `%(shard)s` like any other field.

--log-config is a dictionary of logging.config, in JSON or TOML. The formatters `text` and `json` are there for it to use.
It is applied in every process, the supervisor's included.

What Python itself would print (an exception that nobody catches in a thread, one in `__del__`, a warning, a log call whose
arguments do not fit) is logged like the rest, so that it says where it comes from, and so that every line is JSON where JSON
is asked for.

On standard error nobody waits for the log's reader (`_log_stream`). The handlers of a --log-config are their author's, and may.
What they raise, or a filter of theirs, is an error of the log, and not of whoever had something to say.

Log files are opened anew on `reopen()` (SIGUSR1), as logrotate wants it: the moved file is let go, and the next line goes
to a new one under the old name.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import msgspec

from clockworker._errors import UsageError
from clockworker.executor import current_executor
from clockworker.shards.config._config import ServeConfig
from clockworker.shards.logs._log_stream import LogStream

log = logging.getLogger("clockworker")

_TEXT = "%(asctime)s %(levelname)-7s [%(where)s] %(message)s"

# Whose lines are the supervisor's and the shards' own; asyncio's tells what has gone wrong in callbacks.
_OUR_LOGGERS = (
    "clockworker",
    "clockworker.access",
    "clockworker.ipc",
    "clockworker.shard",
    "clockworker.supervisor",
    "asyncio",
    "py.warnings",
)

_WRONG_CALL = "a log call is wrong, at %s:%d: %r with %r"

_process = "supervisor"  # as `set_up_logging` is told
_factory: object = None  # of records, ours

# What every record has; anything else was given with `extra`.
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "shard", "queue", "where", "taskName"}


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        if not hasattr(record, "where"):  # another process's, or one that a factory of the application's has made
            record.where = record.processName or f"process {record.process}"
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, shard, queue, pid; then exception and stack where there are
    any, and what was given with `extra`."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = msgspec.json.Encoder(enc_hook=repr)

    def format(self, record: logging.LogRecord) -> str:
        seconds = int(record.created)
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(record.created % 1 * 1e6):06d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "shard": getattr(record, "shard", None),
            "queue": getattr(record, "queue", None),
            "pid": record.process,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        for name in record.__dict__.keys() - _PLAIN - line.keys():
            line[name] = record.__dict__[name]
        try:
            return self._encoder.encode(line).decode()
        except (TypeError, ValueError, RecursionError):  # a key that is no string, a lone surrogate, a circle
            plain = {key: str(value).encode(errors="backslashreplace").decode() for key, value in line.items()}
            return self._encoder.encode(plain).decode()


class _StandardError(logging.StreamHandler[Any]):
    """A log call that is wrong, of arguments that do not fit its text, gets a line like any other. Nobody waits for whoever
    reads the log."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not the process's own standard error
            self.stream = LogStream(sys.stderr.fileno(), self._describe_loss, encoding=sys.stderr.encoding)

    def _describe_loss(self, lost: int) -> str:
        message = "%d lines of this process's log are lost: they could not be written"
        return self.format(log.makeRecord(log.name, logging.WARNING, "", 0, message, (lost,), None)) + self.terminator

    def handleError(self, record: logging.LogRecord) -> None:
        if record.msg == _WRONG_CALL or isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
        else:
            details = (record.pathname, record.lineno, record.msg, record.args)
            self.handle(log.makeRecord(log.name, logging.ERROR, "", 0, _WRONG_CALL, details, sys.exc_info()))


def direct(logger: logging.Logger) -> tuple[LogStream, bool] | None:
    """How to write lines of this logger, of level INFO, without making records of them: where they end up, and whether as JSON.
    None if anybody but our handler on standard error would see the record, or would see another one: there is a `--log-config`,
    or a handler, filter or factory of the application's."""
    root = logging.root
    if len(root.handlers) != 1 or logging.getLogRecordFactory() is not _factory or root.filters:
        return None
    each: logging.Logger | None = logger
    while each is not root:
        if each is None or each.handlers or each.filters or not each.propagate:
            return None
        each = each.parent
    handler = root.handlers[0]
    formatter, stream = handler.formatter, getattr(handler, "stream", None)
    if type(handler) is not _StandardError or handler.filters or handler.level > logging.INFO:
        return None
    if type(formatter) not in (TextFormatter, JsonFormatter) or not isinstance(stream, LogStream):
        return None
    return stream, type(formatter) is JsonFormatter


def set_up_logging(process: str, config: ServeConfig) -> None:
    """`process` is `supervisor`, `shard N` or `shard N pool`. Raises `ConfigurationError` for a --log-config that is wrong."""
    _mark_records(process)
    _log_strays()
    if config.log_config is not None:
        from clockworker.shards.logs._log_config import configure_logging  # only now: it takes long to import

        configure_logging(config.log_config)
        return
    # A record is one write, so that lines of several processes don't mix.
    handler = _StandardError()
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)


def info_of_queue(
    logger: logging.Logger, queue: str, message: str, *args: object, extra: Mapping[str, object] | None = None
) -> None:
    """Log what belongs to a queue, from wherever it is noticed."""
    if logger.isEnabledFor(logging.INFO):
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, message, args, None, extra=extra)
        record.queue = queue
        record.where = f"{_process} {queue}"
        logger.handle(record)


def reopen() -> int:
    """Open the files of all log handlers anew. One that cannot be opened goes on with the file that it has. Returns how many
    there are."""
    files = {id(handler): handler for handler in _handlers() if isinstance(handler, logging.FileHandler)}
    failed: list[tuple[str, Exception]] = []
    for handler in files.values():
        handler.acquire()
        try:
            handler.mode = handler.mode.replace("w", "a")  # what others have written since is not ours to cut off
            before, handler.stream = handler.stream, handler._open()
            if before is not None:
                with contextlib.suppress(OSError):  # of a full disk
                    before.close()
        except Exception as error:  # a handler may be the user's own
            failed.append((handler.baseFilename, error))
        finally:
            handler.release()
    for path, cause in failed:
        log.error("the log file %s cannot be opened anew, and goes on where it was: %s", path, cause)
    return len(files)


def _handlers() -> Iterator[logging.Handler]:
    """Every handler of every logger, with those that others pass records on to."""
    loggers = [logging.root, *(it for it in logging.root.manager.loggerDict.values() if isinstance(it, logging.Logger))]
    waiting = [handler for logger in loggers for handler in logger.handlers]
    while waiting:
        handler = waiting.pop()
        yield handler
        if (target := getattr(handler, "target", None)) is not None:  # MemoryHandler
            waiting.append(target)
        if (listener := getattr(handler, "listener", None)) is not None:  # QueueHandler
            waiting.extend(listener.handlers)


def _mark_records(process: str) -> None:
    global _process, _factory
    _process = process
    _, *number = process.split()[:2]
    shard = int(number[0]) if number else None

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        queue = _current_queue() if shard is not None else None
        record.shard = shard
        record.queue = queue
        record.where = process if queue is None else f"{process} {queue}"
        return record

    logging.setLogRecordFactory(make)
    _factory = make


def _log_strays() -> None:
    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("an exception that nobody caught", exc_info=(kind, error, trace))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            name = "a thread" if args.thread is None else f"thread {args.thread.name}"
            log.error("an exception that nobody caught ended %s", name, exc_info=args.exc_value)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        log.error("%s: %r", args.err_msg or "an exception was ignored in", args.object, exc_info=args.exc_value)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    sys.unraisablehook = unraisable
    logging.captureWarnings(True)
    for name in _OUR_LOGGERS:
        _contain(logging.getLogger(name))


def _contain(logger: logging.Logger) -> None:
    """Let no handler or filter raise out of a call of this logger. (Handlers that call `handleError` never do.)"""

    def handle(record: logging.LogRecord) -> None:
        try:
            type(logger).handle(logger, record)
        except Exception:
            if logging.raiseExceptions and sys.stderr is not None:
                with contextlib.suppress(Exception):
                    traceback.print_exc()

    logger.handle = handle  # type: ignore[method-assign]


def _current_queue() -> str | None:
    try:
        queue = current_executor().current_queue()
    except (UsageError, RuntimeError):  # no executor; no loop, as in another thread
        return None
    return None if queue is None else str(queue.key)
