"""SIGTERM: a worker, or the whole run, is asked to end. The step in progress is finished and committed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

FILE_NAME = "control"
"""In ``run.dir``, which every node sees: where the driver asks the workers to end. It is always there:
a shared disk shows what is new in a file that is opened sooner than that there is a new file."""
STOP = "stop"
EXIT_CODE = 128 + signal.SIGTERM

_asked = 0


def listen() -> None:
    """From now on SIGTERM asks this worker to end, and a second one ends it. For its main thread only.

    Python runs a handler when the main thread gets to it. A worker's waits for calls, outside of Python: so
    what counts is the byte that the interpreter writes at once, and a thread that reads it.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_take, args=(reading,), daemon=True).start()


def _take(reading: int) -> None:
    global _asked
    while True:
        _asked += os.read(reading, 1)[0] == signal.SIGTERM
        if _asked > 1:
            os._exit(EXIT_CODE)


def is_asked(run: Path | None = None) -> bool:
    """Whether this worker has been asked to end; with ``run.dir``, or the whole run has."""
    if _asked or run is None:
        return _asked > 0
    try:
        return (run / FILE_NAME).read_text() == STOP
    except OSError:
        return False


def ask(run: Path) -> None:
    """Ask the workers that run in ``run.dir`` to end, as SIGTERM to the driver does."""
    (run / FILE_NAME).write_text(STOP)


def take_back(run: Path) -> None:
    """Nobody is asked by that any more: those who were have ended."""
    (run / FILE_NAME).write_text("")


@contextmanager
def taken(run: Path) -> Iterator[Callable[[], bool]]:
    """While the block runs, SIGTERM to this process asks the run's workers to end; a second one ends it now.

    Yields:
        Whether it has been asked. Never, outside the main thread, where no signal can be taken.
    """
    asked = threading.Event()
    take_back(run)
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def take(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a third one does not even clean up
            raise SystemExit(EXIT_CODE)
        asked.set()
        ask(run)

    before = signal.signal(signal.SIGTERM, take)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
