"""What trying a task's methods came to, as a table and as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from launcher.advice import Advice, name


def show(advice: Advice, console: Console) -> None:
    """The trade-off, and the recommendation."""
    task = advice.task
    table = Table("method", box=None, header_style="bold", pad_edge=False)
    metric = "loss, nats/token" if task.score == "loss" else task.score
    for title in (
        "N",
        "trained",
        "of the base",
        metric,
        f"after {advice.steps} steps",
        "s/step",
        "whole job",
    ):
        table.add_column(title, justify="right")
    for probe in advice.probes:
        table.add_row(
            name(probe),
            str(probe.depth),
            f"{probe.trained:,}",
            f"{probe.trained / advice.base_parameters:.1%}",
            f"{probe.before:.3f}",
            f"{probe.after:.3f}",
            f"{probe.step_seconds:.3f}",
            f"{probe.step_seconds * task.train.steps:,.0f} s",
            style="bold" if probe is advice.recommended else None,
        )
    console.print(table)
    best = advice.recommended
    rank = f" with adapter.rank {best.rank}" if best.rank else ""
    embedding = " and embedding among adapter.targets" if best.embedding else ""
    console.print(
        f"recommended: method {best.method}{rank}{embedding} at depth {best.depth}, the fewest trained "
        f"parameters that have 95 % of the largest gain after {advice.steps} steps. A short probe: methods "
        "that learn slowly and go far look worse in it than they are.",
        highlight=False,
        soft_wrap=True,
    )


def content(advice: Advice) -> dict[str, Any]:
    """The same for programs."""
    return {
        "task": f"{advice.task.team}/{advice.task.name}",
        "base": advice.task.base,
        "metric": advice.task.score,
        "steps": advice.steps,
        "probes": [asdict(probe) for probe in advice.probes],
        "recommended": asdict(advice.recommended),
    }
