"""Renders a page of metrics quickly: prometheus-client writes it once, and from then on only the numbers change.

The library escapes every label of every series at each scrape, which is most of a scrape's cost; but labels change only
with what there is: shards, queues, the application's counters. So the library's page, in whichever of its formats was
asked for, is taken apart once, and what remains is a template with a place for each number. Rendering it is one `%`. Numbers
are written as Python writes them, whole ones without a fraction; both formats take these.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

# A client may ask for versions that there are not, and each would be a format of its own.
_MAX_TEMPLATES = 8


class Page:
    def __init__(self) -> None:
        self._shape: Hashable = None
        self._templates: dict[str, str] = {}  # by content type

    def render(
        self, accept: str, shape: Hashable, values: Sequence[float], families: Callable[[], Iterator[Metric]]
    ) -> tuple[bytes, str]:
        """The page in the format that is accepted, and its content type.

        shape: differs if the series do. values: one for each sample of `families()`, in their order.
        """
        encoder, content_type = choose_encoder(accept)
        if shape != self._shape or len(self._templates) >= _MAX_TEMPLATES:
            self._shape = shape
            self._templates.clear()
        template = self._templates.get(content_type)
        if template is None:
            template = self._templates[content_type] = make_template(
                encoder(_Collected(families)).decode(), len(values)
            )
        return (template % tuple(values)).encode(), content_type


class _Collected:
    """What an encoder needs of a registry."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self.collect = families


def make_template(page: str, numbers: int) -> str:
    """The page with `%s` in place of each number. Raises `ValueError` if there are not so many."""
    lines = page.replace("%", "%%").split("\n")
    places = [place for place, line in enumerate(lines) if line and not line.startswith("#")]
    if len(places) != numbers:
        raise ValueError(f"the page has {len(places)} samples, and there are {numbers} numbers")
    for place in places:
        lines[place] = f"{lines[place].rpartition(' ')[0]} %s"
    return "\n".join(lines)
