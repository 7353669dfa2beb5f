"""Where lines for people go."""

from __future__ import annotations

import sys

from rich.console import Console


def make_console(as_json: bool = False) -> Console:
    """The terminal as it is; into a file or a pipe wide enough that no table is cut, and without colour.

    Args:
        as_json: standard output is for a program; people read the standard error.
    """
    # The stream by name: lines still go there while a library's own remarks are kept away.
    stream = sys.stderr if as_json else sys.stdout
    console = Console(file=stream)
    return console if console.is_terminal else Console(file=stream, width=160)
