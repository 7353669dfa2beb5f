"""Ray nodes on this machine that can be killed and added."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from waiting import wait_until_gone

QUICK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 3000,
}
"""Of Ray's own: a node that says nothing is given up after some seconds."""
PLACE = {"pretrain": 1}
EQUAL = {"RAY_worker_niceness": "0"}
"""Workers do not stand back behind whatever else the machine does, as Ray has them do."""
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
"""What whoever connects to these nodes needs in its environment."""


def hold(folder: str, system: dict[str, Any], resources: dict[str, int]) -> None:
    """Start a head without resources, then a node for each line of the standard input."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(shutdown_at_exit=False)
    cluster.add_node(
        num_cpus=0,
        include_dashboard=False,
        temp_dir=folder,
        object_store_memory=128 * 2**20,
        _system_config=system,
    )
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        node = cluster.add_node(
            num_cpus=1,
            resources=resources,
            object_store_memory=128 * 2**20,
        )
        print(node.all_processes["raylet"][0].process.pid, flush=True)


class Nodes:
    """A head node without resources, and nodes with room for one worker each."""

    def __init__(self, holder: subprocess.Popen[str]) -> None:
        self._holder = holder
        self.address = self._line()

    def add(self) -> psutil.Process:
        """Add a node; returns its raylet."""
        assert self._holder.stdin is not None
        self._holder.stdin.write("\n")
        self._holder.stdin.flush()
        return psutil.Process(int(self._line()))

    def _line(self) -> str:
        assert self._holder.stdout is not None
        line = self._holder.stdout.readline().strip()
        assert line, "the nodes did not start"
        return line


@contextmanager
def nodes(
    count: int, system: dict[str, Any] = QUICK, resources: dict[str, int] = PLACE
) -> Iterator[tuple[Nodes, list[psutil.Process]]]:
    """Start a head and a number of nodes, and end all of their processes."""
    with tempfile.TemporaryDirectory(prefix="odf-nodes-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        (Path(folder) / "ray").mkdir()  # where Ray notes the address of the latest cluster, else for all
        code = f"import nodes; nodes.hold({folder!r}, {system!r}, {resources!r})"
        path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        holder = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean | TOKEN | EQUAL | {"RAY_TMPDIR": folder, "PYTHONPATH": path},
        )
        try:
            there = Nodes(holder)
            yield there, [there.add() for _ in range(count)]
        finally:
            holder.kill()
            holder.wait()
            _end_all(folder)


def _end_all(folder: str) -> None:
    left = [process for process in psutil.process_iter() if folder in _command(process)]
    left += [child for process in left for child in _family(process)]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until_gone(left)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
