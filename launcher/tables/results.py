"""Tables for the terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from cluster.connection.job import Job
from launcher.evaluation.evaluate import TextScore
from launcher.evaluation.lm_eval import TaskScore


def jobs_table(jobs: Sequence[Job]) -> Table:
    """Pretraining jobs: their state, and what the pending ones wait for or the failed ones died of."""
    table = Table("job", "state", "submitted", box=None, header_style="bold", pad_edge=False)
    table.add_column("time", justify="right")
    table.add_column("run.dir", overflow="fold")
    table.add_column("why", overflow="fold")
    for job in jobs:
        table.add_row(
            job.name,
            job.state,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.submitted)),
            f"{job.seconds:,.0f} s",
            Text(job.run_dir),
            Text(f"waits for {job.lacks}" if job.lacks else job.cause or ""),
        )
    return table


def finetune_table(results: Sequence[dict[str, Any]]) -> Table:
    """What each job reached, before and after, and the adapter it registered."""
    table = Table("team", "task", "metric", box=None, header_style="bold", pad_edge=False)
    for title in ("before", "after"):
        table.add_column(title, justify="right")
    table.add_column("adapter", overflow="fold")
    table.add_column("base version")
    for result in results:
        table.add_row(
            result["team"],
            result["task"],
            result["metric"],
            _metric(result["metric"], result["before"]),
            _metric(result["metric"], result["after"]),
            f"models:/{result['adapter_model']}/{result['adapter_version']}"
            if result["adapter_version"]
            else "trained, not registered",
            result["base_version"],
        )
    return table


def text_scores_table(scores: Sequence[TextScore]) -> Table:
    """A line for each depth."""
    table = Table("depth", box=None, header_style="bold", pad_edge=False)
    for title in ("nats/token", "perplexity", "bits/byte"):
        table.add_column(title, justify="right")
    for score in scores:
        table.add_row(
            f"N = {score.depth}",
            f"{score.nats_per_token:.4f}",
            f"{score.perplexity:.2f}",
            f"{score.bits_per_byte:.4f}",
        )
    return table


def task_scores_table(scores: Sequence[TaskScore]) -> Table:
    """A line for each metric of each task, with a column for each depth: the score and its standard error."""
    table = Table("task", "metric", box=None, header_style="bold", pad_edge=False)
    table.add_column("samples", justify="right")
    depths = sorted({score.depth for score in scores})
    for depth in depths:
        table.add_column(f"N = {depth}", justify="right")
    found = {(score.task, score.metric, score.depth): score for score in scores}
    for task, metric in dict.fromkeys((score.task, score.metric) for score in scores):
        cells = [found[task, metric, depth] for depth in depths]
        samples = f"{cells[0].samples:,}" if cells[0].samples else ""
        table.add_row(task, metric, samples, *(_with_error(cell.value, cell.error) for cell in cells))
    return table


def gradients_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Gradient methods at one depth: error against ``direct``, memory, time."""
    table = Table("solver", "gradient", box=None, header_style="bold", pad_edge=False)
    for title in ("error", "rounding of direct", "saved", "peak", "time"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["solver"],
            row["gradient"],
            f"{row['grad_rel_error']:.0e}" if row["grad_rel_error"] else "0",
            f"{row['direct_error']:.0e}",
            _size(row["saved_bytes"]),
            _size(row["peak_bytes"]),
            f"{row['seconds_vs_direct']:.2f} × direct",
        )
    return table


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _metric(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "accuracy" else f"{value:.3f}"
