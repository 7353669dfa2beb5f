"""Building shards, in this process or on Ray workers, with progress."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data.building.sources import TextSource
from data.manifest import Manifest
from data.shards import build, input_bytes
from launcher.terminal.progress import Progress

SMALL = 256 * 1024 * 1024
"""Input size in bytes below which starting Ray takes longer than it saves."""


def build_shards(
    sources: Sequence[TextSource | Path | str],
    out: Path,
    *,
    workers: int | None,
    address: str | None,
    progress: Progress,
    **settings: Any,
) -> Manifest:
    """Build shards, showing tokens per second and the time left.

    Args:
        sources: Files, folders, URLs or datasets, as for :func:`data.shards.build`.
        out: Output folder.
        workers: Number of concurrent Ray tasks; 1 builds in this process, whose tokenizer uses all cores. By
            default 1 for input under 256 MiB, else one per core.
        address: Address of a running Ray cluster; a private one by default.
        progress: Shows the stages.
        settings: Other arguments of :func:`data.shards.build`.
    """
    if workers is None and address is None:
        workers = 1 if input_bytes(sources) < SMALL else len(os.sched_getaffinity(0))
    meter = _Meter(progress)
    with progress.stage(f"shards in {out}"), ExitStack() as stack:
        if workers != 1 or address is not None:
            # Ray takes a second to import, and small builds do without it.
            from cluster.connection.connect import ray_cluster
            from cluster.connection.run_tasks import cluster_cpus, run_on_ray

            progress.update(0.0, "starting Ray")
            stack.enter_context(ray_cluster(address, pretrain_workers=workers or 0))
            settings["run"] = run_on_ray(workers or cluster_cpus(), out.with_name(f".{out.name}.building"))
        return build(sources, out, progress=meter.stage, encoded=meter.encoded, **settings)


class _Meter:
    """Measures the speed and the remaining time of a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._started = self._first_fraction = 0.0
        self._tokens = 0

    def stage(self, stage: str, fraction: float) -> None:
        """Show how far a stage is."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._first_fraction = stage, now, fraction

        detail = [stage]
        seconds, gained = now - self._started, fraction - self._first_fraction
        if stage == "encoding" and self._tokens and seconds:
            detail.append(f"{self._tokens / seconds:,.0f} tokens/s")
        if gained > 0 and fraction < 1:
            detail.append(f"{seconds * (1 - fraction) / gained:.0f} s left")
        self._progress.update(fraction, ", ".join(detail))

    def encoded(self, tokens: int) -> None:
        """Count encoded tokens for the speed."""
        self._tokens += tokens
