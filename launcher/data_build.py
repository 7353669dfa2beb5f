"""``odeformer data build``: in this process or with a Ray cluster's workers; what it took, as a table."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.table import Table

from data.building.sources import TextSource
from data.manifest import Manifest
from launcher.terminal.progress import Progress

SMALL = 256 * 1024 * 1024
"""Bytes of input below which starting Ray takes longer than it saves."""
MOST_ROWS = 40


def build_shards(
    sources: Sequence[TextSource | Path | str],
    out: Path,
    *,
    workers: int | None,
    address: str | None,
    progress: Progress,
    **settings: Any,
) -> Manifest:
    """Build, and show tokens per second and the time left of each stage.

    Args:
        workers: Ray tasks at the same time; 1 builds in this process, whose tokenizer uses all cores; without
            it that is so for less than 256 MiB, and else there is one for each core.
        address: of a running Ray cluster; a private one when not given.

    Other arguments are those of :func:`data.shards.build`.
    """
    from data.shards import build, input_bytes

    if workers is None and address is None:
        workers = 1 if input_bytes(sources) < SMALL else len(os.sched_getaffinity(0))
    meter = _Meter(progress)
    with progress.stage(f"shards in {out}"), ExitStack() as stack:
        if workers != 1 or address is not None:
            from cluster.connection.connect import ray_cluster
            from cluster.connection.run_tasks import cluster_cpus, run_on_ray

            progress.update(0.0, "starting Ray")
            stack.enter_context(ray_cluster(address, pretrain_workers=workers or 0))
            settings["run"] = run_on_ray(workers or cluster_cpus())
        return build(sources, out, progress=meter.stage, encoded=meter.encoded, **settings)


def shards_content(manifest: Manifest) -> dict[str, Any]:
    """What is in a folder of shards, for programs: the manifest, its lists of shards aside."""
    content: dict[str, Any] = manifest.model_dump(mode="json")
    for split in content["splits"].values():
        split["shards"] = len(split["shards"])
    return content


class _Meter:
    """How fast a stage is and how long it will still take."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._started = self._begun = 0.0
        self._tokens = 0

    def stage(self, stage: str, fraction: float) -> None:
        """Show how far a stage is."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._begun = stage, now, fraction
        detail = [stage]
        seconds, gained = now - self._started, fraction - self._begun
        if stage == "encoding" and self._tokens and seconds:
            detail.append(f"{self._tokens / seconds:,.0f} tokens/s")
        if gained > 0 and fraction < 1:
            detail.append(f"{seconds * (1 - fraction) / gained:.0f} s left")
        self._progress.update(fraction, ", ".join(detail))

    def encoded(self, tokens: int) -> None:
        """Count tokens."""
        self._tokens += tokens


def sources_table(manifest: Manifest) -> Table:
    """What was taken of each source, and what was left out."""
    table = Table("source", box=None, header_style="bold", pad_edge=False)
    for title in ("bytes", "documents", "held out", "duplicates", "empty", "weight", "in training"):
        table.add_column(title, justify="right")
    table.add_column("licence", overflow="fold")
    table.add_column("SHA-256")
    for source in manifest.sources[:MOST_ROWS]:
        table.add_row(
            source.path,
            f"{source.bytes:,}",
            f"{source.documents:,}",
            f"{source.held_out:,}",
            f"{source.duplicates:,}",
            f"{source.empty:,}",
            f"{source.weight:g}",
            f"{source.train:,}",
            source.licence or "not stated",
            source.sha256[:12],
        )
    if len(manifest.sources) > MOST_ROWS:
        table.add_row(f"and {len(manifest.sources) - MOST_ROWS} more, in the manifest")
    return table


def filters_table(manifest: Manifest) -> Table:
    """How many documents of each source the filters left out, by rule."""
    rules = list(manifest.sources[0].left_out)
    table = Table("left out of", box=None, header_style="bold", pad_edge=False)
    for rule in rules:
        table.add_column(rule.replace("_", " "), justify="right")
    for source in manifest.sources[:MOST_ROWS]:
        table.add_row(source.path, *(f"{count:,}" for count in source.left_out.values()))
    if len(manifest.sources) > 1:
        totals = (sum(source.left_out[rule] for source in manifest.sources) for rule in rules)
        table.add_row("all", *(f"{total:,}" for total in totals), style="bold")
    return table
