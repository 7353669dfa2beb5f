"""Progress of long stages: a live line on a terminal, elsewhere plain lines, fewer as time goes on."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from cluster.runs.background import in_background

HEARTBEAT_SECONDS, LONGEST_SECONDS = 2.5, 300.0
"""Seconds between the first plain lines, and at most between later ones."""
INDENT = "  "


class Progress:
    """Shows the current stage, how far it is, and that it is alive."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._fraction = 0.0
        self._detail = ""

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Show ``title`` until the block ends, then a line with the time it took."""
        started = time.monotonic()
        self._fraction, self._detail = 0.0, ""
        with self._live(title) if self.console.is_terminal else self._plain(title, started):
            yield

        elapsed = f"{time.monotonic() - started:.1f} s"
        self.console.print(Text.assemble(("✓", "green"), f" {title} ", (elapsed, "dim")))

    def update(self, fraction: float, detail: str = "") -> None:
        """Set how far the stage is, from 0 to 1, and a few words about it."""
        self._fraction, self._detail = fraction, detail

    @contextmanager
    def _live(self, title: str) -> Iterator[None]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
        )
        with RichProgress(*columns, console=self.console, transient=True) as live:
            task = live.add_task(title, total=1.0, detail="")
            with _every(
                lambda: 0.2, lambda: live.update(task, completed=self._fraction, detail=self._detail)
            ):
                yield

    @contextmanager
    def _plain(self, title: str, started: float) -> Iterator[None]:
        def beat() -> None:
            elapsed = time.monotonic() - started
            line = f"{INDENT}{title} {self._fraction:4.0%} {elapsed:5.0f} s {self._detail}"
            self.console.print(line, soft_wrap=True)

        with _every(lambda: seconds_until_line(time.monotonic() - started), beat):
            yield


def seconds_until_line(elapsed: float) -> float:
    """Seconds between plain lines of a stage that has lasted ``elapsed`` seconds: about a tenth of that."""
    return min(max(elapsed / 10, HEARTBEAT_SECONDS), LONGEST_SECONDS)


def last_line(log: str) -> str | None:
    """The last plain line of progress in what a command has printed, if there is one."""
    lines = re.findall(rf"^{INDENT}(\S.* +\d+% +\d+ s .*)$", log, re.MULTILINE)
    return lines[-1] if lines else None


@contextmanager
def _every(pause: Callable[[], float], action: Callable[[], object]) -> Iterator[None]:
    """Call ``action`` on a thread while the block runs, each time after ``pause()`` seconds."""

    def run(ended: threading.Event) -> None:
        while not ended.wait(pause()):
            action()

    with in_background(run):
        yield
