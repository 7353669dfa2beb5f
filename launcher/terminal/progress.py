"""A sign of life at least every three seconds: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

HEARTBEAT_SECONDS = 2.5


class Progress:
    """Shows what is being done, how far it is, and that it is alive."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._fraction = 0.0
        self._detail = ""

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show ``title`` until the block ends, then a line with the time it took."""
        started = time.monotonic()
        self._fraction, self._detail = 0.0, ""
        with self._live(title, started) if self.console.is_terminal else self._plain(title, started):
            yield
        self.console.print(
            f"[green]✓[/] {escape(title)} [dim]{time.monotonic() - started:.1f} s[/]", highlight=False
        )

    def update(self, fraction: float, detail: str = "") -> None:
        """How far the stage is, from 0 to 1, and a few words about it."""
        self._fraction, self._detail = fraction, detail

    @contextmanager
    def _live(self, title: str, started: float) -> Iterator[None]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
        )
        with RichProgress(*columns, console=self.console, transient=True) as live:
            task = live.add_task(title, total=1.0, detail="")
            with _every(0.2, lambda: live.update(task, completed=self._fraction, detail=self._detail)):
                yield

    @contextmanager
    def _plain(self, title: str, started: float) -> Iterator[None]:
        def beat() -> None:
            elapsed = time.monotonic() - started
            self.console.print(
                f"  {title} {self._fraction:4.0%} {elapsed:5.0f} s {self._detail}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

        with _every(HEARTBEAT_SECONDS, beat):
            yield


@contextmanager
def _every(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
