"""Where lines for people go."""

from __future__ import annotations

import sys

from rich.console import Console


def make_console() -> Console:
    """The terminal as it is; into a file or a pipe wide enough that no table is cut, and without colour."""
    # The stream by name: lines still go there while a library's own remarks are kept away.
    console = Console(file=sys.stdout)
    return console if console.is_terminal else Console(file=sys.stdout, width=160)
