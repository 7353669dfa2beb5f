"""System metrics of the nodes of a run: CPU, memory, disk, network and GPUs, one log per node."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import distributed as dist

from cluster.runs.background import in_background
from cluster.runs.events import Event, EventLog, events_from
from cluster.tracking.upload import NODES

EVERY_SECONDS = 15.0

logger = logging.getLogger(__name__)


@contextmanager
def watched(run: Path) -> Iterator[None]:
    """Log this node's system metrics to ``nodes/<host name>.jsonl`` while the block runs.

    All ranks must call it; the first rank on each node logs, from a thread. The metrics are named
    ``system/<node>/…``, which MLflow shows as system metrics. Their step is in seconds since the beginning
    of the log.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, name)
    if names.index(name) != dist.get_rank():
        yield
        return
    with in_background(lambda ended: _log_until(ended, run, name)):
        yield


def _log_until(ended: threading.Event, run: Path, name: str) -> None:
    path = run / NODES / f"{name}.jsonl"
    try:
        log = EventLog(path.parent, path.name)
        logged, _ = events_from(path, 0)
        began, second = time.time(), -1
        if logged:
            began, second = logged[0]["time"] - logged[0]["step"], logged[-1]["step"]
        meter = Meter(run)
        while True:
            is_last = ended.wait(EVERY_SECONDS)
            values = {f"system/{name}/{key}": value for key, value in meter.read().items()}
            # Also after two starts within one second, all steps must differ.
            second = max(int(time.time() - began), second + 1)
            log(Event.SYSTEM, second, values)
            if is_last:
                return
    except OSError as error:  # a run must not fail for its system metrics
        logger.warning("node %s is no longer watched: %s", name, error)


class Meter:
    """Measures this machine and this process."""

    def __init__(self, run: Path) -> None:
        import psutil

        self._run, self._process = run, psutil.Process()
        psutil.cpu_percent()  # the first reading is relative to this call
        self._before = (time.monotonic(), psutil.net_io_counters())

    def read(self) -> dict[str, float]:
        """Metrics by name, in bytes, bytes per second since the last reading, or percent."""
        import psutil

        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self._run)
        now = (time.monotonic(), psutil.net_io_counters())
        (then, traffic_before), (at, traffic) = self._before, now
        self._before = now
        seconds = max(at - then, 1e-3)
        values = {
            "cpu_percent": psutil.cpu_percent(),
            "worker_memory": self._process.memory_info().rss,
            "memory_used": memory.total - memory.available,
            "memory_percent": memory.percent,
            "disk_free": disk.free,
        }
        if traffic is not None and traffic_before is not None:  # a container may have no network
            sent = traffic.bytes_sent - traffic_before.bytes_sent
            received = traffic.bytes_recv - traffic_before.bytes_recv
            values["network_sent_per_second"] = sent / seconds
            values["network_received_per_second"] = received / seconds
        return values | _gpu_values()


def _gpu_values() -> dict[str, float]:
    """Metrics of each GPU that is visible to this process."""
    import torch

    values: dict[str, float] = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        free, total = torch.cuda.mem_get_info(index)
        values[f"gpu_{index}_memory_used"] = total - free
        # This requires a library of NVIDIA's that may be missing.
        with suppress(ModuleNotFoundError, RuntimeError):
            values[f"gpu_{index}_percent"] = torch.cuda.utilization(index)
    return values
