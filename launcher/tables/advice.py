"""The result of ``odeformer finetune advise``."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import RenderableType

from cluster.finetuning.advise import Advice
from launcher.terminal.console import make_table


def report(advice: Advice) -> list[RenderableType]:
    """A row for each method, then the recommendation."""
    task, best = advice.task, advice.recommended
    metric = "loss, nats/token" if task.score == "loss" else task.score
    after = f"after {advice.steps} steps"
    table = make_table(
        "method", numbers=("N", "trained", "of the base", metric, after, "s/step", "whole job")
    )
    for probe in advice.probes:
        table.add_row(
            probe.words,
            str(probe.depth),
            f"{probe.trained:,}",
            f"{probe.trained / advice.base_parameters:.1%}",
            f"{probe.before:.3f}",
            f"{probe.after:.3f}",
            f"{probe.step_seconds:.3f}",
            f"{probe.step_seconds * task.train.steps:,.0f} s",
            style="bold" if probe is best else None,
        )
    rank = f" with adapter.rank {best.rank}" if best.rank else ""
    embedding = " and embedding among adapter.targets" if best.embedding else ""
    return [
        table,
        f"recommended: method {best.method}{rank}{embedding} at depth {best.depth}, the fewest trained "
        f"parameters with 95 % of the largest gain {after}. So few steps underestimate methods that learn "
        "slowly and end lower.",
    ]


def content(advice: Advice) -> dict[str, object]:
    """The result as JSON values."""
    return {
        "task": f"{advice.task.team}/{advice.task.name}",
        "base": advice.task.base,
        "metric": advice.task.score,
        "steps": advice.steps,
        "probes": [asdict(probe) for probe in advice.probes],
        "recommended": asdict(advice.recommended),
    }
