"""Where lines for people go."""

from __future__ import annotations

from rich.console import Console


def make_console() -> Console:
    """The terminal as it is; into a file or a pipe wide enough that no table is cut, and without colour."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
