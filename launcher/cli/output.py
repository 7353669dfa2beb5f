"""Output that commands share: lines, tables or JSON, progress, and the check for optional packages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from odeformer.files.shown import masked_values

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from launcher.terminal.progress import Progress


def check_installed(extra: str, *packages: str) -> None:
    """Refuse to begin without the packages of an optional extra.

    Raises:
        ValueError: Naming the missing packages and the command that installs them.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} not installed: pip install -e '.[{extra}]'")


def say(*lines: str | Text) -> None:
    """Print lines for people without wrapping them."""
    from launcher.terminal.console import make_console

    console = make_console()
    for line in lines:
        console.print(line, soft_wrap=True)


def show(shown: RenderableType | Sequence[RenderableType], content: Any, as_json: bool) -> None:
    """Print ``content`` as JSON, or a rendering for people: lines, tables or a sequence of both."""
    if as_json:
        print(json.dumps(masked_values(content), indent=2))
        return
    from launcher.terminal.console import make_console

    console = make_console()
    parts = shown if isinstance(shown, list | tuple) else [shown]
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def show_live(page: Callable[[], RenderableType]) -> None:
    """Show a page and refresh it every second until Ctrl-C."""
    from launcher.terminal.console import make_console
    from launcher.terminal.live import show_until_interrupted

    show_until_interrupted(page, make_console())


def make_progress(as_json: bool = False) -> Progress:
    """Progress on standard output, or on standard error where that carries JSON."""
    from launcher.terminal.console import make_console
    from launcher.terminal.progress import Progress

    return Progress(make_console(as_json))
