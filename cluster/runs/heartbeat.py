"""Heartbeats: a small file per worker, rewritten every second while its process runs."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from cluster.runs import preemption
from cluster.runs.background import in_background

EVERY_SECONDS = 1.0
FOLDER = "heartbeats"
"""Folder of the files, in that of the run or the job."""
STACKS = ".stack"
"""Suffix of the file beside a heartbeat to which :data:`STACK_SIGNAL` appends the stacks of all threads."""
STACK_SIGNAL = signal.SIGUSR2
WINDOW, KEPT_WINDOWS = 32, 8
"""Steps of a window, and windows that a heartbeat has: short ones may end faster than hearts beat."""
SHORTEST = 1e-6


class Window(TypedDict):
    """Phases of a step over some consecutive steps, the same ones on all ranks."""

    number: int
    phases: dict[str, float]
    """Seconds that this worker spent in each phase, the geometric mean over the steps: between ranks, the
    steps' depths cancel out, and a single long step counts little."""


class Beat(TypedDict):
    """Content of a heartbeat's file."""

    rank: int
    pid: int
    thread: int
    """Identifier of the thread that does the work."""
    started: float
    node: str
    host: str
    time: float
    step: int
    passed: int
    transferring: bool
    asked: bool
    windows: list[Window]
    """The last complete windows, oldest first."""


_passed = 0
_step = 0
_transfers = 0
_lock = threading.Lock()
_windows: tuple[Window, ...] = ()
_steps: list[dict[str, float]] = []


def passed(step: int | None = None) -> None:
    """Record that this worker has made progress.

    All ranks pass the same points, so the rank with the smallest count blocks the others.
    """
    global _passed, _step
    _passed += 1
    if step is not None:
        _step = step


def measured(step: int, phases: dict[str, float]) -> None:
    """Record the seconds that this worker spent in each phase of a step.

    Windows are the same steps on all ranks, and so the same depths. One that this process has not seen from
    its beginning is left out.
    """
    global _windows
    place = (step - 1) % WINDOW
    if place == 0:
        _steps.clear()
    _steps.append(phases)
    if place == WINDOW - 1 and len(_steps) == WINDOW:
        means = {
            name: statistics.geometric_mean(max(step[name], SHORTEST) for step in _steps) for name in phases
        }
        window = Window(number=(step - 1) // WINDOW, phases=means)
        _windows = (*_windows, window)[-KEPT_WINDOWS:]


@contextmanager
def transferring() -> Iterator[None]:
    """Do without progress while the block runs: what it waits for has time limits of its own."""
    global _transfers
    with _lock:
        _transfers += 1
    try:
        yield
    finally:
        with _lock:
            _transfers -= 1


@contextmanager
def beating(folder: Path, rank: int, node: str) -> Iterator[None]:
    """Write ``folder/<rank>.json`` from a thread while the block runs, and remove it at the end.

    The file of a stopped or dead process stays, with an old time. Beside it, :data:`STACK_SIGNAL` leaves the
    stacks of all threads.
    """
    import psutil

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{rank}.json"
    pid, thread, started = os.getpid(), threading.get_ident(), psutil.Process().create_time()

    def beat(ended: threading.Event) -> None:
        while True:
            content = Beat(
                rank=rank,
                pid=pid,
                thread=thread,
                started=started,
                node=node,
                host=socket.gethostname(),
                time=time.time(),
                step=_step,
                passed=_passed,
                transferring=_transfers > 0,
                asked=preemption.is_asked(),
                windows=list(_windows),
            )
            temporary = path.with_suffix(".new")
            with suppress(OSError):  # the next beat makes up for a lost one
                temporary.write_text(json.dumps(content), encoding="utf-8")
                temporary.replace(path)
            if ended.wait(EVERY_SECONDS):
                return

    try:
        with _stacks_on_signal(path.with_suffix(STACKS)), in_background(beat):
            yield
    finally:
        with suppress(OSError):  # must not hide an exception of the block
            path.unlink()


@contextmanager
def _stacks_on_signal(path: Path) -> Iterator[None]:
    """Write the stacks of all threads at :data:`STACK_SIGNAL`, also while they wait in native code."""
    try:
        file = path.open("wb", buffering=0)
    except OSError:  # a run must not fail for it
        yield
        return
    with file:
        faulthandler.register(STACK_SIGNAL, file, all_threads=True)
        try:
            yield
        finally:
            faulthandler.unregister(STACK_SIGNAL)
            path.unlink(missing_ok=True)
