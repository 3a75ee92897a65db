"""`clockworker-top`: a live view of a running server, in a terminal. Needs the extra `top` for the view, and nothing for
`--once`, `--json` and `--trace`.

It asks the supervisor, through its control socket, once a second; the shards take no part in it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from clockworker._errors import ClockworkerError, ConfigurationError
from clockworker._version import __version__
from clockworker.shards.observe._query import MAX_TRACE_S
from clockworker.shards.observe._query_client import QueryClient
from clockworker.shards.observe._view import ServerStats
from clockworker.shards.protocol._recording import Recorded
from clockworker.shards.tools._chrome import write_chrome_trace
from clockworker.shards.tools._screen import HEADS, SORTS, cluster_screen, screen
from clockworker.shards.tools._servers import find_server

EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    try:
        status = _run(options)
        sys.stdout.flush()
        sys.exit(status)
    except ClockworkerError as error:
        print(f"clockworker-top: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `| head`
        _drop_output()
        sys.exit(0)
    except OSError as error:  # the disk is full
        _drop_output()
        print(f"clockworker-top: standard output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def _drop_output() -> None:
    """What could not be written is not tried once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clockworker-top",
        description="What a running clockworker-serve is doing: its shards, queues and groups, live.",
        epilog=f"Keys: q quit; s sort the shards by the next column; {', '.join(SORTS)}. Figures are of the last 5 seconds.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "server",
        nargs="?",
        metavar="SERVER",
        help="its supervisor's pid, application, address, or the path of its control socket; the only one that runs",
    )
    parser.add_argument("--sort", choices=SORTS, default="shard", help="sort the shards by this; shard")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between two looks; 1")
    parser.add_argument(
        "--cluster", action="store_true", help="the nodes of the cluster, as this server's sees them, not its shards"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print the view once, and end")
    how.add_argument("--json", action="store_true", help="print all that is known once, as JSON, and end")
    how.add_argument(
        "--trace",
        nargs=2,
        metavar=("S", "FILE"),
        help="record all that the executors do for S seconds into FILE, which https://ui.perfetto.dev opens, and end",
    )
    parser.add_argument("--version", action="version", version=f"clockworker {__version__}")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no interval; give seconds from 0.1 to 3600")
    return seconds


def _run(options: argparse.Namespace) -> int:
    client = QueryClient(find_server(options.server, os.environ))
    with contextlib.closing(client):
        if options.json:
            sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(client.stats()), indent=1) + b"\n")
        elif options.trace:
            return _trace(client, *options.trace)
        elif options.once or not sys.stdout.isatty():
            print("\n".join(_lines(client.stats(), options.sort, options.cluster, width=80)))
        else:
            _watch(client, options.sort, options.interval, options.cluster)
    return 0


def _trace(client: QueryClient, seconds_text: str, path: str) -> int:
    try:
        seconds = float(seconds_text)
    except ValueError:
        raise ConfigurationError(
            f"--trace {seconds_text!r} is no time; give seconds, at most {MAX_TRACE_S:g}, and a file"
        ) from None
    try:
        with Path(path).open("wb") as file:  # before the wait, so that a wrong path is said at once
            asked = {shard.id for shard in client.stats().shards}
            found = client.trace(seconds)
            recordings = [msgspec.msgpack.decode(data, type=Recorded) for data in found.values()]
            steps = write_chrome_trace(file, recordings)
    except OSError as error:
        raise ConfigurationError(f"--trace: {path} cannot be written: {error.strerror}") from error
    if recordings:
        print(f"{steps} steps of {len(recordings)} shards in {path}: open it at https://ui.perfetto.dev")
    if short := [recorded.shard for recorded in recordings if not recorded.whole]:
        print(f"too many steps for the whole time: {_shards(short)} have only the beginning", file=sys.stderr)
    if missing := asked - found.keys():
        print(
            f"clockworker-top: nothing was recorded of {_shards(missing)}: not there, or standing still, or without memory or "
            "descriptors for it; the log of the server may say which",
            file=sys.stderr,
        )
        return EXIT_FAILED
    return 0


def _shards(numbers: Iterable[int]) -> str:
    return f"shards {', '.join(map(str, sorted(numbers)))}"


def _lines(stats: ServerStats, sort: str, cluster: bool, width: int) -> list[str]:
    return cluster_screen(stats, time.time(), width) if cluster else screen(stats, sort, width)


def _watch(client: QueryClient, sort: str, interval: float, cluster: bool) -> None:
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text
    except ModuleNotFoundError:
        raise ConfigurationError(
            "the live view needs rich, which is not installed: pip install 'clockworker[top]', or add --once"
        ) from None

    console = Console()

    def draw(stats: ServerStats) -> Text:
        lines = _lines(stats, sort, cluster, width=console.width)[: console.height - 1]
        text = Text(no_wrap=True, overflow="crop")
        for line in lines:
            text.append(line + "\n", style="reverse" if line in HEADS else "")
        return text

    with _keys() as key, Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        stats = client.stats()
        due = time.monotonic()
        while True:
            live.update(draw(stats), refresh=True)
            pressed = key(max(0.0, due + interval - time.monotonic()))
            if pressed in ("q", "Q", "\x1b"):
                return
            if pressed == "s":
                sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
            elif not pressed:
                due = time.monotonic()
                stats = client.stats()


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Single keys from the terminal: a function that waits for one so long, and returns "" if none came."""
    descriptor = sys.stdin.fileno()
    if not sys.stdin.isatty():

        def wait(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield wait
        return
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode(errors="replace") or "q" if ready else ""

    try:
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


if __name__ == "__main__":
    main()
