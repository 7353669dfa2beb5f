"""A slot: a Ray actor that holds one ``finetune`` resource and a warm process for the jobs that get it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

from cluster.supervision import orphans

WARM = "from cluster.pool.warm import main; main()"


class Slot:
    """Runs one process with jobs after another. Calls may overlap."""

    def __init__(self) -> None:
        orphans.end_with_parent()
        self._running: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        # Ray's workers find packages by sys.path, which a process of theirs does not inherit; -P keeps the
        # current folder out of it, which may hold a data.py.
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # A process that has begun to use a GPU cannot be copied; so torch looks for one without that.
        environment = {**os.environ, **path, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        self._warm = subprocess.Popen(
            [sys.executable, "-P", "-c", WARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def wait_until_warm(self) -> str:
        """The name of the node, once everything is imported."""
        self._answer("ready")
        return socket.gethostname()

    def run(self, order: dict[str, Any]) -> int:
        """Run a process to its end; its exit code, negative where a signal ended it.

        Args:
            order: its name, ``process``; its ``jobs``, of each ``attempt``, ``task`` and ``folder``; ``uri``
                and ``cpus``.

        Raises:
            RuntimeError: when the warm process is gone; the slot is of no use then.
        """
        assert self._warm.stdin is not None
        self._warm.stdin.write(json.dumps(order) + "\n")
        self._warm.stdin.flush()
        process = order["process"]
        self._running[process] = self._answer("pid")
        if process in self._asked:
            self.end(process, self._asked[process])
        try:
            return self._answer("status")
        finally:
            del self._running[process]
            self._asked.pop(process, None)

    def end(self, process: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to a process, as soon as it is there."""
        if process not in self._running:
            self._asked[process] = number
            return
        with suppress(ProcessLookupError):
            os.kill(self._running[process], number)

    def _answer(self, key: str) -> int:
        assert self._warm.stdout is not None
        line = self._warm.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm process of a slot on {socket.gethostname()} is gone")
        return int(json.loads(line)[key])
