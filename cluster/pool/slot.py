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
    """Runs one job after another, each in a process of its own. Calls may overlap."""

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
        """Run a job to its end; the exit code of its process, negative where a signal ended it.

        Args:
            order: ``id``, ``attempt``, ``task``, ``folder``, ``uri``, ``cpus``.

        Raises:
            RuntimeError: when the warm process is gone; the slot is of no use then.
        """
        assert self._warm.stdin is not None
        self._warm.stdin.write(json.dumps(order) + "\n")
        self._warm.stdin.flush()
        job = order["id"]
        self._running[job] = self._answer("pid")
        if job in self._asked:
            self.end(job, self._asked[job])
        try:
            return self._answer("status")
        finally:
            del self._running[job]
            self._asked.pop(job, None)

    def end(self, job: str, number: int = signal.SIGTERM) -> None:
        """Send a signal to the process of a job, as soon as it has one."""
        if job not in self._running:
            self._asked[job] = number
            return
        with suppress(ProcessLookupError):
            os.kill(self._running[job], number)

    def _answer(self, key: str) -> int:
        assert self._warm.stdout is not None
        line = self._warm.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm process of a slot on {socket.gethostname()} is gone")
        return int(json.loads(line)[key])
