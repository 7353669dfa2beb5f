"""Signs of life of a worker: a small file, written every second for as long as its process runs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.runs import preemption

EVERY_SECONDS = 1.0

_passed = 0
_step = 0


def passed(step: int | None = None) -> None:
    """This worker got further. All ranks pass the same points: whoever has passed fewest holds the others."""
    global _passed, _step
    _passed += 1
    if step is not None:
        _step = step


@contextmanager
def beating(folder: Path, rank: int, node: str) -> Iterator[None]:
    """Write ``folder/<rank>.json`` from a thread while the block runs, and remove it at its end.

    The file of a process that is stopped or dead grows old, and stays.
    """
    import psutil

    folder.mkdir(parents=True, exist_ok=True)
    path, ended = folder / f"{rank}.json", threading.Event()
    who = {"rank": rank, "pid": os.getpid(), "started": psutil.Process().create_time(), "node": node}

    def beat() -> None:
        while True:
            now = {"time": time.time(), "step": _step, "passed": _passed, "asked": preemption.is_asked()}
            beside = path.with_suffix(".new")
            with suppress(OSError):  # a beat that is lost is made up for by the next
                beside.write_text(json.dumps({**who, **now}))
                beside.replace(path)
            if ended.wait(EVERY_SECONDS):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):  # it must not hide what the block raised
            path.unlink()
