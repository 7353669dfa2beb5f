"""Tables of pretraining jobs, fine-tuning results, evaluations and gradient checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from launcher.terminal.console import make_table
from launcher.terminal.durations import moment

if TYPE_CHECKING:  # heavy to import, and most commands show only one of these
    from cluster.connection.jobs import Job
    from cluster.evaluation.evaluate import TextScore
    from cluster.evaluation.lm_eval import TaskScore
    from cluster.finetuning.result import FinetuneResult
    from odeformer.measure.gradient_check import GradientRow


def jobs_table(jobs: Sequence[Job]) -> Table:
    """A row for each pretraining job, with the reason why it is pending or failed."""
    table = make_table("job", "state", "submitted", numbers=("time",), wrapped=("run.dir", "reason"))
    for job in jobs:
        table.add_row(
            job.name,
            job.state,
            moment(job.submitted),
            f"{job.seconds:,.0f} s",
            job.run_dir,
            f"waits for {job.lacks}" if job.lacks else job.cause or "",
        )
    return table


def finetune_table(results: Sequence[FinetuneResult]) -> Table:
    """A row for each job: its score before and after, and the adapter it registered."""
    table = make_table("team", "task", "metric", numbers=("before", "after"), wrapped=("adapter",))
    table.add_column("base version")
    for result in results:
        adapter = f"models:/{result.adapter_model}/{result.adapter_version}"
        table.add_row(
            result.team,
            result.task,
            result.metric,
            _metric(result.metric, result.before),
            _metric(result.metric, result.after),
            adapter if result.adapter_version else "trained, not registered",
            result.base_version,
        )
        if too_long := result.too_long:
            table.caption = (
                f"{result.team}/{result.task}: longer than train.sequence_length, {too_long['cut']} "
                f"examples are cut behind the last turn that fits, {too_long['left_out']} left out"
            )
    return table


def text_scores_table(scores: Sequence[TextScore]) -> Table:
    """A row for each depth."""
    table = make_table("depth", numbers=("nats/token", "perplexity", "bits/byte"))
    for score in scores:
        table.add_row(
            f"N = {score.depth}",
            f"{score.nats_per_token:.4f}",
            f"{score.perplexity:.2f}",
            f"{score.bits_per_byte:.4f}",
        )
    return table


def task_scores_table(scores: Sequence[TaskScore]) -> Table:
    """A row for each metric of a task, a column for each depth: the score and its standard error."""
    depths = sorted({score.depth for score in scores})
    table = make_table("task", "metric", numbers=("samples", *(f"N = {depth}" for depth in depths)))
    by_key = {(score.task, score.metric, score.depth): score for score in scores}
    for task, metric in dict.fromkeys((score.task, score.metric) for score in scores):
        row = [by_key[task, metric, depth] for depth in depths]
        samples = f"{row[0].samples:,}" if row[0].samples else ""
        table.add_row(task, metric, samples, *(_with_error(score.value, score.error) for score in row))
    return table


def gradients_table(rows: Sequence[GradientRow]) -> Table:
    """A row for each gradient method at one depth: error against ``direct``, memory and time."""
    table = make_table("solver", "gradient", numbers=("error", "rounding of direct", "saved", "peak", "time"))
    for row in rows:
        table.add_row(
            row.solver,
            row.gradient,
            f"{row.grad_rel_error:.0e}" if row.grad_rel_error else "0",
            f"{row.direct_error:.0e}",
            _size(row.saved_bytes),
            _size(row.peak_bytes),
            f"{row.seconds_vs_direct:.2f} × direct",
        )
    return table


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _metric(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "accuracy" else f"{value:.3f}"
