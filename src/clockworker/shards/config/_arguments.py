"""The command line, split by argparse into texts, and its help. `_settings` has the texts read.

argparse because it is there: everything that is said of an option is said in `_options`, and what a parser library could
add (types, environment, files) would have to be taken from it again, to tell where a value came from.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

from clockworker._errors import ConfigurationError
from clockworker.shards.config._option import GROUPS, Option
from clockworker.shards.config._options import BY_NAME, OPTIONS
from clockworker.shards.config._other_names import nearest_option


def split_command_line(arguments: Sequence[str], version: str) -> dict[str, Any]:
    """The text of each option, or all texts, or None. Raises `ConfigurationError`, or for --help and --version, which
    print, `SystemExit`."""
    namespace, rest = _parser(version).parse_known_args(_close_metrics(arguments))
    for argument in rest:
        if argument.startswith("-"):
            raise ConfigurationError(_unknown(argument.partition("=")[0]))
    if rest:
        raise ConfigurationError(f"unexpected {rest[0]!r} after {namespace.app!r}; one application at a time")
    return vars(namespace)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub("ignored explicit argument (.*)", r"takes no value; leave \1 out", message)
        raise ConfigurationError(f"{message}; see clockworker-serve --help")


class _HelpFormatter(argparse.HelpFormatter):
    def _format_action_invocation(self, action: argparse.Action) -> str:
        """An option's value is named once, after all of its flags (as Python 3.13 has it)."""
        if not action.option_strings or not action.metavar:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


class _Switch(argparse.Action):
    """A flag, kept as the text that the environment would have. Of two flags the second, --no-..., is off."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, flag: str | None = None
    ) -> None:
        setattr(namespace, self.dest, "1" if flag == self.option_strings[0] else "0")


def _unknown(argument: str) -> str:
    if argument == "--app":
        return "unknown option --app; APP is given by itself: clockworker-serve MODULE:ATTRIBUTE"
    flags = {flag.lstrip("-"): flag for option in OPTIONS for flag in option.flags if flag.startswith("--")}
    near = nearest_option(argument.lstrip("-"), [*flags, "help", "version"])
    hint = f"did you mean --{near}?" if near else "see clockworker-serve --help"
    return f"unknown option {argument}; {hint}"


def _close_metrics(arguments: Sequence[str]) -> list[str]:
    """--metrics has a value unless what follows is another option or looks like APP: `--metrics app:main` is APP with
    metrics."""
    closed = list(arguments)
    for index, (argument, following) in enumerate(itertools.pairwise([*closed, ""])):
        if argument == "--metrics" and (not following or re.fullmatch(r"-.*|(?!unix:|fd:).+:(?!\d+$)[^:]*", following)):
            closed[index] = "--metrics=1"
    return closed


class _PrintVersion(argparse.Action):
    """In one line, which argparse's own action would break."""

    def __init__(self, option_strings: list[str], dest: str, version: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)
        self.version = version

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(self.version)
        parser.exit()


def _parser(version: str) -> _Parser:
    width = min(shutil.get_terminal_size().columns, 100)
    parser = _Parser(
        prog="clockworker-serve",
        usage="clockworker-serve [options] APP",
        description="Run an application on shards: one pinned process per core, fair queues inside each.",
        epilog="Each option can also be set by the environment variable named with it, and most in clockworker.toml: "
        "app_dir there is --app-dir here. The command line comes before the environment, and that before the file.",
        formatter_class=lambda prog: _HelpFormatter(prog, max_help_position=30, width=width),
        allow_abbrev=False,
        add_help=False,
    )
    app = BY_NAME["app"]
    parser.add_argument("app", metavar=app.metavar, nargs="?", help=_help(app))
    for group in GROUPS:
        section = parser.add_argument_group(group)
        for option in OPTIONS:
            if option.group == group and option is not app:
                _add(section, option)
    section.add_argument(
        "--version",
        action=_PrintVersion,
        version=version,
        help="print the version, if it is compiled, and what is switched off",
    )
    section.add_argument("-h", "--help", action="help", help="print this")
    return parser


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    if option.metavar:
        action = "append" if option.repeat else "store"
        section.add_argument(*option.flags, dest=option.name, action=action, metavar=option.metavar, help=_help(option))
    else:
        section.add_argument(*option.flags, dest=option.name, action=_Switch, nargs=0, help=_help(option))


def _help(option: Option) -> str:
    return f"{option.help} [{', '.join(option.variables)}]".replace("%", "%%")
