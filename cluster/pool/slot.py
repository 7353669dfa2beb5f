"""A slot: a Ray actor that holds one ``finetune`` resource and a warm process that runs the jobs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

from cluster.connection import credentials
from cluster.supervision import orphans

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
        )

    def wait_until_warm(self) -> str:
        """Wait until everything is imported; the name of the node."""
        self._answer("ready")
        return socket.gethostname()

    def run(self, order: Order) -> int:
        """Run a process to its end; its exit code, negative if a signal ended it.

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
        try:
            return self._answer("status")
        finally:
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
