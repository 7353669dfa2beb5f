"""Preemption by SIGTERM, of a worker or of the whole run: the step in progress is finished and committed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from cluster.runs.failures import PreemptedError
from odeformer.files.atomic import named

FILE_NAME = "control"
"""File in ``run.dir``, visible on every node, through which the driver stops the workers.

It always exists: on a shared disk, new content becomes visible sooner than a new file. It is overwritten in
place, for which a full disk has room."""
STOP, GO_ON = "stop", "go  "
EXIT_CODE = 128 + signal.SIGTERM
FIRST = int(signal.SIGTERM)
"""Exit code with which :func:`ended_by_sigterm` ends a block. Ray's own handler, which it installs when it is
connected, does the same."""

_asked = 0


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """End the block by ``SystemExit(FIRST)`` at SIGTERM, so that it cleans up. Use it in the main thread."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(FIRST)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def resumable() -> Iterator[None]:
    """Turn such an end of the block, or of the decorated function, into a :class:`PreemptedError`."""
    try:
        yield
    except SystemExit as ended:
        if ended.code != FIRST:
            raise
        raise PreemptedError from None


def listen() -> None:
    """Handle SIGTERM in this worker as a preemption; a second one kills it. Call it in the main thread.

    Python runs a signal handler only when the main thread executes Python code, and a worker's main thread
    waits in native code. The wake-up descriptor is written at once, and a thread reads it.
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
    """Whether this worker has been preempted or, if ``run`` (``run.dir``) is given, the whole run."""
    if _asked or run is None:
        return _asked > 0
    try:
        return (run / FILE_NAME).read_text(encoding="utf-8") == STOP
    except OSError:
        return False


def ask(run: Path) -> None:
    """Stop the workers that run in ``run.dir``, as SIGTERM to the driver does."""
    _overwrite(run / FILE_NAME, STOP)


def take_back(run: Path) -> None:
    """Withdraw the request of :func:`ask`, once the workers have stopped."""
    _overwrite(run / FILE_NAME, GO_ON)


def _overwrite(file: Path, word: str) -> None:
    file.touch()
    with named(file), file.open("r+b", buffering=0) as opened:
        opened.write(word.encode())


@contextmanager
def taken(run: Path) -> Iterator[Callable[[], bool]]:
    """Handle SIGTERM to this process, while the block runs, by stopping the run's workers.

    A second SIGTERM ends the process at once. Outside the main thread no signal can be handled.

    Yields:
        A function that returns whether the process has been preempted.
    """
    asked = threading.Event()
    take_back(run)
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def take(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a third one kills without cleaning up
            raise SystemExit(EXIT_CODE)
        asked.set()
        with suppress(OSError):  # the supervisor asks again
            ask(run)

    before = signal.signal(signal.SIGTERM, take)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
