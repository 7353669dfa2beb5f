"""A slot: a Ray actor that holds one ``finetune`` resource and a warm process that runs the jobs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from cluster.connection import credentials
from cluster.supervision import orphans

MEMORY_SECONDS = 0.2
"""Interval at which a process's memory is looked at."""
WARM = "from cluster.pool.warm import main; main()"


class JobOrder(TypedDict):
    """An attempt of a job."""

    attempt: int
    task: dict[str, Any]
    """The :class:`~cluster.tasks.task.Task` as JSON."""
    folder: str


class Order(TypedDict):
    """A process for a slot to run: one job, or several that are trained together."""

    process: str
    jobs: list[JobOrder]
    uri: str | None
    """URI of the MLflow store."""
    cpus: int
    """Number of threads."""
    memory: float | None
    """GiB of memory that the process and its children may use."""


class End(NamedTuple):
    """How a process ended."""

    code: int
    """Exit code, negative if a signal ended it."""
    is_too_large: bool
    """Whether it was killed because it used more memory than it may."""


class Slot:
    """Runs processes with jobs, one after another. Calls may overlap.

    Args:
        folder: the pool's folder, which has its credentials.
    """

    def __init__(self, folder: str) -> None:
        orphans.end_with_parent()
        credentials.take(Path(folder))
        self._pids: dict[str, int] = {}
        self._pending_signals: dict[str, int] = {}
        # Ray's workers find packages by sys.path, which child processes do not inherit. -P keeps the current
        # folder, which may hold a data.py, out of the child's path.
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # A process that has initialized CUDA cannot be forked, so torch must detect GPUs by NVML.
        environment = {**os.environ, **path, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        self._warm = subprocess.Popen(
            [sys.executable, "-P", "-c", WARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            encoding="utf-8",
        )

    def wait_until_warm(self) -> str:
        """Wait until everything is imported; the name of the node."""
        self._answer("ready")
        return socket.gethostname()

    def run(self, order: Order) -> End:
        """Run a process to its end.

        Raises:
            RuntimeError: when the warm process is gone; the slot is then unusable.
        """
        assert self._warm.stdin is not None
        self._warm.stdin.write(json.dumps(order) + "\n")
        self._warm.stdin.flush()
        process = order["process"]
        self._pids[process] = self._answer("pid")
        if process in self._pending_signals:
            self.end(process, self._pending_signals[process])
        has_ended, is_too_large = threading.Event(), threading.Event()
        if order["memory"] is not None:
            limits = (self._pids[process], order["memory"] * 2**30, has_ended, is_too_large)
            threading.Thread(target=_limit_memory, args=limits, daemon=True).start()
        try:
            return End(self._answer("status"), is_too_large.is_set())
        finally:
            has_ended.set()
            del self._pids[process]
            self._pending_signals.pop(process, None)

    def end(self, process: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a process, as soon as it has started."""
        if process not in self._pids:
            self._pending_signals[process] = number
            return
        with suppress(ProcessLookupError):
            os.kill(self._pids[process], number)

    def _answer(self, key: str) -> int:
        assert self._warm.stdout is not None
        line = self._warm.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm process of a slot on {socket.gethostname()} is gone")
        return int(json.loads(line)[key])


def _limit_memory(pid: int, limit: float, has_ended: threading.Event, is_too_large: threading.Event) -> None:
    """Kill a process when it and its children use more than ``limit`` bytes.

    A limit of the kernel's on address space would count what torch reserves and never touches.
    """
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while not has_ended.wait(MEMORY_SECONDS):
            used = process.memory_info().rss
            for child in process.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    used += child.memory_info().rss
            if used > limit:
                is_too_large.set()
                process.kill()
                return
