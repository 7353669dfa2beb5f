"""How the nodes of a run are doing: processors, memory, disk, network and GPUs, each in a log of its own."""

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

from cluster.runs.events import EventLog, events_from
from cluster.tracking.upload import NODES

EVERY_SECONDS = 15.0

logger = logging.getLogger(__name__)


@contextmanager
def watched(run: Path) -> Iterator[None]:
    """While the block runs, log how this node is doing to ``nodes/<name>.jsonl``. All ranks must call it.

    The first rank on each node does it, from a thread. Node and file have the machine's host name; the
    values are called ``system/<node>/…``, where MLflow shows what it measures of a system itself, and their
    step is in seconds since the node was first watched.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname())
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, name)
    if names.index(name) != dist.get_rank():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_log_until, args=(ended, run, name), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _log_until(ended: threading.Event, run: Path, name: str) -> None:
    path = run / NODES / f"{name}.jsonl"
    try:
        log = EventLog(path.parent, path.name)
        known, _ = events_from(path, 0)
        began, second = (
            (known[0]["time"] - known[0]["step"], known[-1]["step"]) if known else (time.time(), -1)
        )
        meter = Meter(run)
        while True:
            is_last = ended.wait(EVERY_SECONDS)
            values = {f"system/{name}/{key}": value for key, value in meter.read().items()}
            # A start may end within the second in which the one before ended: MLflow's steps have to differ.
            second = max(int(time.time() - began), second + 1)
            log("system", second, values)
            if is_last:
                return
    except OSError as error:  # a run is worth more than what is known of its nodes
        logger.warning("node %s is no longer watched: %s", name, error)


class Meter:
    """Reads how this machine, and this process on it, are doing."""

    def __init__(self, run: Path) -> None:
        import psutil

        self._run, self._process = run, psutil.Process()
        psutil.cpu_percent()  # from here to the first reading
        self._before = (time.monotonic(), psutil.net_io_counters())

    def read(self) -> dict[str, float]:
        """Values by name; rates are since the last reading. Bytes, but for percentages."""
        import psutil

        memory, disk = psutil.virtual_memory(), shutil.disk_usage(self._run)
        now = (time.monotonic(), psutil.net_io_counters())
        (then, sent_before), (at, sent) = self._before, now
        self._before = now
        seconds = max(at - then, 1e-3)
        values = {
            "cpu_percent": psutil.cpu_percent(),
            "worker_memory": self._process.memory_info().rss,
            "memory_used": memory.total - memory.available,
            "memory_percent": memory.percent,
            "disk_free": disk.free,
        }
        if sent is not None and sent_before is not None:  # a container may have no network
            values["network_sent_per_second"] = (sent.bytes_sent - sent_before.bytes_sent) / seconds
            values["network_received_per_second"] = (sent.bytes_recv - sent_before.bytes_recv) / seconds
        return values | _of_gpus()


def _of_gpus() -> dict[str, float]:
    """Of each GPU that this process sees."""
    import torch

    values: dict[str, float] = {}
    for index in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
        free, total = torch.cuda.mem_get_info(index)
        values[f"gpu_{index}_memory_used"] = total - free
        # It takes a library of NVIDIA's for that, which may be missing.
        with suppress(ModuleNotFoundError, RuntimeError):
            values[f"gpu_{index}_percent"] = torch.cuda.utilization(index)
    return values
