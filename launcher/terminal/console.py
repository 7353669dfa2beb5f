"""The console for output that people read, and the one style of its tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from odeformer.files.shown import masked, visible


class _Console(Console):
    """A console that shows the control characters in texts, and masks the passwords in addresses."""

    def render_str(self, text: str, **options: Any) -> Text:
        # Here, so that widths are those of what is shown.
        return super().render_str(visible(masked(text)), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def make_console(as_json: bool = False) -> Console:
    """A console that prints text literally: square brackets are no markup, control characters are shown.

    Into a file or a pipe it is wide enough that no table is cut.

    Args:
        as_json: Print to standard error, because standard output carries JSON.
    """
    # Bound here, so that progress stays visible while redirect_stdout() silences a library.
    stream = sys.stderr if as_json else sys.stdout
    console = _Console(file=stream, highlight=False, markup=False)
    return console if console.is_terminal else _Console(file=stream, highlight=False, markup=False, width=160)


def make_table(*titles: str, numbers: Sequence[str] = (), wrapped: Sequence[str] = ()) -> Table:
    """An empty table without borders.

    Args:
        titles: Left-aligned columns.
        numbers: Right-aligned columns, to the right of ``titles``.
        wrapped: Columns of long text, to the right of ``numbers``.
    """
    table = Table(*titles, box=None, header_style="bold", pad_edge=False)
    for title in numbers:
        table.add_column(title, justify="right")
    for title in wrapped:
        table.add_column(title, overflow="fold")
    return table
