"""uvicorn's own tests of HTTP and WebSockets, with Clockworker's connection in the place of uvicorn's protocols.

    python -m tests.ecosystem.uvicorn [--subject clockworker|uvicorn] [--show] [test_http.py|test_websocket.py ...]

The tests are those of the installed version, fetched with its sdist and run as they are in a folder that is gone afterwards
(`_sdists`); `_uvicorn_adapter` puts our connection where they look for a protocol. Each test must pass, but for those of
EXCEPTIONS, which must fail: they ask for uvicorn's insides, or for what is promised otherwise here. Exit status: 0 if it is so,
1 if not, 2 if the tests could not be fetched.

`--subject uvicorn` runs them with uvicorn's own protocols: what fails there says that the harness is wrong, not the server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.ecosystem import _uvicorn_adapter as adapter
from tests.ecosystem._sdists import NotFetched, fetch_sdist, installed_version

MODULES = ("test_http.py", "test_websocket.py")
SUBJECTS = ("clockworker", "uvicorn")
DEADLINE = 600

# A test of theirs that fails here, without what it is parametrized with unless that matters; and why that is right.
_NOT_SENT = "nothing has left yet, so the failure is answered with a 500: the head goes with the first of the body"
_WHOLE = "the response was whole when the application failed; its connection goes on"
_TIMERS = "looks at uvicorn's timer; here one look a second is for all connections"
_LOG = "reads the words of uvicorn's log"
_CLOSED = "closed in the application's place: with 1000 if it has returned, 1011 if it has failed; uvicorn's is cut"
_INSIDE = "looks at fields of uvicorn's protocol"
EXCEPTIONS: dict[str, str] = {
    "test_invalid_header_name": _NOT_SENT,
    "test_response_header_splitting": _NOT_SENT,
    "test_partial_response_returned": _NOT_SENT,
    "test_duplicate_start_message": _NOT_SENT,
    "test_message_after_body_complete": _WHOLE,
    "test_value_returned": _WHOLE,
    "test_request_logging": _LOG,
    "test_header_upgrade_is_not_websocket_depend_installed": _LOG,
    "test_header_upgrade_is_websocket_depend_not_installed": _LOG,
    "test_keepalive_timeout": _TIMERS,
    "test_keepalive_timeout_with_pipelined_requests": _TIMERS,
    "test_keepalive_timeout_with_pipelined_websocket_upgrade": _TIMERS,
    "test_chunked_encoding": "its application gives both lengths; a Content-Length that is given is kept to",
    "test_chunked_encoding_empty_body": "its application gives both lengths; a Content-Length that is given is kept to",
    "test_max_concurrency": "uvicorn counts the connection of the request itself, so that a limit of 1 refuses all",
    "test_100_continue_sent_when_body_consumed": "the body has come already: nobody waits to hear that it is wanted",
    "test_scopes[httptools-asgi2app-expected_scopes1]": "ASGI 2 is adapted before a connection has it",
    "test_invalid_http_request": "reads uvicorn's words in the body of a 400",
    "test_huge_headers_h11protocol_failure": "a head that is too large is answered with 431, not 400",
    "test_huge_headers_h11protocol_failure_with_setting": "a head that is too large is answered with 431, not 400",
    "test_huge_headers_h11_max_incomplete": "its head is larger than it allows; h11 counts what is incomplete",
    "test_httptools_http10_keep_alive_disabled": "a client of HTTP/1.0 that asks for it keeps its connection",
    "test_unsupported_ws_upgrade_request_warn_on_auto": _LOG,
    "test_supported_upgrade_request": "is about wsproto, which answers this handshake with 426",
    "test_duplicate_handshake": _CLOSED,
    "test_asgi_return_value": _CLOSED,
    "test_close_transport_on_asgi_return": _CLOSED,
    "test_server_reject_connection_with_invalid_msg": _NOT_SENT,
    "test_server_reject_connection_with_missing_body": _NOT_SENT,
    "test_server_multiple_websocket_http_response_start_events": _NOT_SENT,
    "test_server_keepalive_ping_pong": _INSIDE,
    "test_server_keepalive_disabled": _INSIDE,
    "test_close_waits_for_the_peer_close_frame": _INSIDE,
    "test_data_frame_and_peer_close_frame_in_one_read": _INSIDE,
    "test_connection_lost_cancels_the_pending_close_timer": _INSIDE,
    "test_close_gives_up_when_the_peer_never_replies": _TIMERS,
    "test_close_resumes_reads_paused_on_an_unconsumed_message": "one message that waits does not pause reading yet",
    "test_shutdown_while_the_close_reply_is_pending": "the client still has its time to answer",
}


def run_tests(folder: Path, subject: str, modules: tuple[str, ...], *, show: bool) -> dict[str, str]:
    """The outcome of each test: `passed`, `skipped`, or `failed: ` and the last line that it said. Raises RuntimeError, with
    what pytest said, if there is none."""
    plugin = Path(adapter.__file__)
    name = "clockworker_adapter"
    shutil.copy(plugin, folder / f"{name}.py")
    outcomes = folder / "outcomes.json"
    command = [sys.executable, "-m", "pytest", "-p", name, "-p", "anyio", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["-o", "strict_config=false", "-q", "--tb", "short"]
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
        adapter.OUTCOMES_VARIABLE: str(outcomes),
        adapter.SUBJECT_VARIABLE: subject,
    }
    ended = subprocess.run(
        [*command, *(f"tests/protocols/{module}" for module in modules)],
        cwd=folder,
        env=environment,
        stdout=None if show else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
    )
    found: dict[str, str] = json.loads(outcomes.read_text()) if outcomes.exists() else {}
    if not found or ended.returncode not in (0, 1):
        raise RuntimeError(f"the tests have not run: status {ended.returncode}\n{(ended.stdout or '')[-8000:]}")
    return found


def differences(outcomes: dict[str, str], exceptions: dict[str, str]) -> list[str]:
    """A line for each test that fails and should not, and for each exception that is none."""
    found, met = [], set()
    for test, outcome in outcomes.items():
        plain = test.partition("[")[0]
        listed = next((name for name in (test, plain) if name in exceptions), None)
        if outcome.startswith("failed"):
            if listed is None:
                found.append(f"{test} {outcome}")
            else:
                met.add(listed)
    ran = {test.partition("[")[0] for test in outcomes}
    found += [
        f"{name} is listed as an exception, but does not fail"
        for name in exceptions
        if name not in met and name.partition("[")[0] in ran
    ]
    return found


def _kind(test: str, outcome: str, exceptions: dict[str, str]) -> str:
    kind = outcome.partition(":")[0]
    is_listed = test in exceptions or test.partition("[")[0] in exceptions
    return "failed as listed" if kind == "failed" and is_listed else kind


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.ecosystem.uvicorn", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", choices=[*MODULES, []], help="all unless given")
    parser.add_argument("--subject", choices=SUBJECTS, default=SUBJECTS[0])
    parser.add_argument("--show", action="store_true", help="what pytest says, as it says it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            folder = fetch_sdist("uvicorn", Path(directory))
        except NotFetched as error:
            print(error, file=sys.stderr)
            return 2
        outcomes = run_tests(folder, options.subject, tuple(options.modules or MODULES), show=options.show)
    exceptions = EXCEPTIONS if options.subject == "clockworker" else {}
    found = differences(outcomes, exceptions)
    kinds = [_kind(test, outcome, exceptions) for test, outcome in outcomes.items()]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    print(*found, f"uvicorn {installed_version('uvicorn')}'s tests with {options.subject}: {counts}", sep="\n")
    if exceptions:
        print(*(f"  {name}: {reason}" for name, reason in exceptions.items()), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
