"""A display that refreshes itself in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console, RenderableType
from rich.live import Live

EVERY_SECONDS = 1.0


def show_until_interrupted(make: Callable[[], RenderableType], console: Console) -> None:
    """Show what ``make`` returns, refreshed every second, until Ctrl-C."""
    with suppress(KeyboardInterrupt), Live(make(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_SECONDS)
            live.update(make(), refresh=True)
