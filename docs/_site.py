"""What of the site is made and not written: the reference of names, options and metrics, from where they are defined, and the
pages that have their place at the top of the repository. A hook of mkdocs (`mkdocs.yml`)."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clockworker
from clockworker.shards.config._option import GROUPS, Option
from clockworker.shards.config._options import OPTIONS

ROOT = Path(__file__).parents[1]

# The pages of Python names, by the package whose `__all__` they have. Those of packages that are not there are left out.
PACKAGES = {
    "http": "Serving HTTP",
    "shards": "Shards",
    "ipc": "Calls and topics",
    "executor": "The executor",
    "trio": "The executor on trio",
    "cluster": "Many machines",
    "testing": "Tests",
    "_errors": "Errors",
}

# Files of the repository that are pages, too.
OF_REPOSITORY = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}

# What a search looks at first, and last. Else pages that have all words, and answer nothing, come before those that do.
GUIDES_FIRST = 2.0
THE_REST_LAST = {
    "reference/": 0.7,
    "architecture.md": 0.5,
    "cpython.md": 0.2,
    "changelog.md": 0.2,
    "contributing.md": 0.2,
}

IN_FILE = {str: "text", int: "integer", float: "number", bool: "true or false", list: "list"}


def page_of(package: str) -> str:
    return f"reference/{package.lstrip('_')}.md"


def module_of(package: str) -> Any:
    """None if there is no such package, or it has no names yet."""
    try:
        module = importlib.import_module(f"clockworker.{package}")
    except ModuleNotFoundError as error:
        if error.name not in (f"clockworker.{package}", package):  # the last: of an extra
            raise
        return None
    return module if getattr(module, "__all__", None) else None


def options_page() -> str:
    """A heading for each option, so that a search finds it."""
    lines = [
        "# Options",
        "",
        "The options of `clockworker-serve`, with their variables in the environment and the types of their keys in "
        "`clockworker.toml`. Options go before the environment, that before the file, and that before the default; "
        "`--print-config` shows the result, and where each value came from. [Configuration](../configuration.md) says how "
        "they work together.",
    ]
    for group in GROUPS:
        lines += ["", f"## {'HTTP' if group == 'http' else group.capitalize()}", ""]
        for option in OPTIONS:
            if option.group == group:
                lines += [said_of(option), ""]
    return "\n".join(lines) + "\n"


def said_of(option: Option) -> str:
    is_argument = not option.flags[0].startswith("-")
    names = ["APP"] if is_argument else [*option.flags]
    metavar = f" {option.metavar}" if option.metavar and not is_argument else ""
    places = [" or ".join(f"`{name}`" for name in option.variables)]
    if option.takes:
        places.append(f"in the file `{option.name}`: {' or '.join(IN_FILE[type_] for type_ in option.takes)}")
    help_ = escaped(option.help)
    return f"### {', '.join(f'`{name}`' for name in names)}\n\n`{', '.join(names)}{metavar}`: {help_}\n\n{'; '.join(places)}"


def escaped(text: str) -> str:
    """What Markdown would take for its own is code."""
    return re.sub(r"(?<![\w`])([\w./-]*[{}<>*][^ ,;]*)", r"`\1`", text)


def metrics_page() -> str:
    lines = [
        "# Metrics",
        "",
        "What `/metrics` has with `--metrics` and the extra `metrics`. [Seeing inside](../observing.md) says how to read them "
        "together. Counters are since the start of the server, over all incarnations of a shard. Counters of your own "
        "(`shard.counter`) stand beside these.",
        "",
        "| series | kind | labels | |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{name}` | {kind} | {labels} | {text} |" for name, kind, labels, text in families()]
    return "\n".join(lines) + "\n"


def families() -> Iterator[tuple[str, str, str, str]]:
    """Name, kind, labels and help of each series of the page."""
    from clockworker.shards.observe import _metrics as metrics

    yield "clockworker_info", "info", "version, compiled", "The server's version, and whether it is compiled."
    yield "clockworker_start_time_seconds", "gauge", "", "When the supervisor started, since the epoch."
    figures = [
        *[(figure, ()) for figure in metrics._OF_NODE],
        *[(figure, ("shard",)) for figure in metrics._OF_SHARD_IN_CLUSTER],
        *[(figure, ("shard",)) for figure in (*metrics._OF_SUPERVISOR, *metrics._OF_SHARD)],
        *[(figure, ("shard", "queue")) for figure in (*metrics._OF_QUEUE, *metrics._OF_PREEMPTIVE)],
        *[(figure, ("shard", *labels)) for figure, labels in metrics._OF_ROUTE],
        *[(figure, ("shard", "topic")) for figure in metrics._OF_TOPIC],
    ]
    for figure, labels in figures:
        family = figure.family
        name = f"clockworker_{family.name}{'_total' if figure.counter else ''}"
        all_labels = (*labels, *([family.label] if family.label else []))
        yield name, "counter" if figure.counter else "gauge", ", ".join(all_labels), family.help
    for shown, _ in metrics._SUMMARIES:
        yield f"clockworker_{shown.name}", "summary", "shard", shown.help
    for shown, _ in (*metrics._HISTOGRAMS, *metrics._HISTOGRAMS_OF_PREEMPTIVE):
        yield f"clockworker_{shown.name}", "histogram", "queue", shown.help
    for shown, _ in metrics._HISTOGRAMS_OF_ROUTE:
        yield f"clockworker_{shown.name}", "histogram", "queue, route", shown.help


def package_page(package: str, title: str) -> str:
    """Every public name, as its docstring has it."""
    module = module_of(package)
    said = inspect.getdoc(module) or ""
    lines = [f"# {title}", "", said.partition("\n\n")[0].replace("\n", " "), ""]
    if package not in ("testing", "trio"):
        lines += ["All of these are names of `clockworker` itself: `import clockworker as cw`.", ""]
    for name in names_of(module):
        lines += [f"::: clockworker.{package}.{name}", ""]
        if re.search(r"\bMade\s+by\b", inspect.getdoc(getattr(module, name)) or ""):
            lines[-1:] = ["    options: {merge_init_into_class: false}  # what it is made of is no user's", ""]
    return "\n".join(lines)


def names_of(module: Any) -> list[str]:
    """Those that applications are written with first."""
    return sorted(module.__all__, key=lambda name: name in clockworker._WIRING)


def index_page() -> str:
    """Each name on one line."""
    lines = [
        "# Reference",
        "",
        "- [Options](options.md) of `clockworker-serve`, with their variables and keys",
        "- [Metrics](metrics.md) of a server",
        "- Names of Python, all of them here:",
    ]
    for package, title in PACKAGES.items():
        if (module := module_of(package)) is None:
            continue
        lines += ["", f"## {title}", "", "| name | |", "|---|---|"]
        for name in names_of(module):
            where = f"{page_of(package).removeprefix('reference/')}#clockworker.{package}.{name}"
            lines.append(f"| [`{name}`]({where}) | {first_sentence(getattr(module, name))} |")
    return "\n".join(lines) + "\n"


def first_sentence(value: object) -> str:
    if not callable(value):
        return ""  # what it is stands beside it
    text = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", text)[0].rstrip(":").replace("|", "\\|")


def repository_page(file: str) -> str:
    """Its links into docs/ lead to pages."""
    return (ROOT / file).read_text().replace("](docs/", "](")


def made() -> dict[str, str]:
    """The text of each page that nobody writes, by its path."""
    pages = {
        "reference/index.md": index_page(),
        "reference/options.md": options_page(),
        "reference/metrics.md": metrics_page(),
    }
    pages |= {
        page_of(package): package_page(package, title) for package, title in PACKAGES.items() if module_of(package)
    }
    pages |= {page: repository_page(file) for page, file in OF_REPOSITORY.items() if (ROOT / file).exists()}
    return pages


def there(nav: Any, pages: set[str]) -> Any:
    """What of `nav` leads to a page."""
    match nav:
        case str():
            return nav if nav in pages else None
        case list():
            return [each for each in (there(each, pages) for each in nav) if each]
        case dict():
            found = {title: there(of, pages) for title, of in nav.items()}
            return {title: of for title, of in found.items() if of}


def checks_table() -> str:
    """What of `python -m tests.reliability` is claimed and tried."""
    if str(ROOT) not in sys.path:  # as in mkdocs
        sys.path.append(str(ROOT))
    from tests.reliability._checks import checks

    rows = [f"| `{each.name}` | {each.claim} | {each.ci:,} | {each.release:,} |" for each in checks()]
    return "\n".join(["| check | claim | in CI | before a release |", "|---|---|---|---|", *rows])


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    path = page.file.src_uri
    boosts = [boost for beginning, boost in THE_REST_LAST.items() if path.startswith(beginning)]
    page.meta["search"] = {"boost": boosts[0] if boosts else GUIDES_FIRST}
    return markdown.replace("<!-- checks -->", checks_table()) if "<!-- checks -->" in markdown else markdown


def on_config(config: Any) -> Any:
    docs = Path(config.docs_dir)
    written = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}
    config.nav = there(config.nav, written | made().keys())
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path, text in made().items():
        files.append(File.generated(config, path, content=text))
    return files
