"""Heartbeats: a small file per worker, rewritten every second while its process runs."""

from __future__ import annotations

import json
import os
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


class Beat(TypedDict):
    """Content of a heartbeat's file."""

    rank: int
    pid: int
    started: float
    node: str
    time: float
    step: int
    passed: int
    transferring: bool
    asked: bool


_passed = 0
_step = 0
_transfers = 0
_lock = threading.Lock()


def passed(step: int | None = None) -> None:
    """Record that this worker has made progress.

    All ranks pass the same points, so the rank with the smallest count blocks the others.
    """
    global _passed, _step
    _passed += 1
    if step is not None:
        _step = step


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

    The file of a stopped or dead process stays, with an old time.
    """
    import psutil

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{rank}.json"
    pid, started = os.getpid(), psutil.Process().create_time()

    def beat(ended: threading.Event) -> None:
        while True:
            content = Beat(
                rank=rank,
                pid=pid,
                started=started,
                node=node,
                time=time.time(),
                step=_step,
                passed=_passed,
                transferring=_transfers > 0,
                asked=preemption.is_asked(),
            )
            temporary = path.with_suffix(".new")
            with suppress(OSError):  # the next beat makes up for a lost one
                temporary.write_text(json.dumps(content), encoding="utf-8")
                temporary.replace(path)
            if ended.wait(EVERY_SECONDS):
                return

    try:
        with in_background(beat):
            yield
    finally:
        with suppress(OSError):  # must not hide an exception of the block
            path.unlink()
