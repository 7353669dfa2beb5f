"""The marked part of README.md: one result each of three benchmarks."""

from __future__ import annotations

from typing import Any

from benchmarks.bench import table
from benchmarks.cluster.pages import LEFT
from benchmarks.quality.claims import CHECKPOINT, SEPARATE, best_rows, difference
from benchmarks.quality.frontier import training_share
from benchmarks.quality.pages import budgets


def numbers(quality: dict[str, Any], chaos: dict[str, Any], generation: dict[str, Any]) -> str:
    """The table of results with the commands that measure them; ``quality`` is that of the longest runs."""
    rows = quality["rows"]
    tokens = max(budgets(rows))
    ours = best_rows(rows, CHECKPOINT, tokens)
    measured = [
        difference(ours, depth, best_rows(rows, name, tokens), depth) for depth, name in SEPARATE.items()
    ]
    checks = chaos["checks"]
    assert checks["weights_bit_identical"], "README says so"
    assert checks["each_job_once"], "README says so"
    assert not any(chaos["left"][kind] for kind in LEFT), "README says that nothing is left"
    ratios = [row["ratio"] for row in generation["rows"]]
    return table(
        ["measured on CPUs", "result", "command"],
        [
            [
                "perplexity of one checkpoint at D, 3D/4 and D/2 layers, relative to ordinary models of "
                f"those depths, each trained separately ({tokens / 1e6:.1f} M tokens); its training FLOPs "
                "relative to theirs together",
                ", ".join(str(each) for each in measured if each) + f"; {training_share(rows, tokens):.2f} ×",
                "`python -m benchmarks.quality.compare`",
            ],
            [
                f"a training run and the {checks['jobs_succeeded']} jobs of five teams, with "
                f"{sum(chaos['faults'].values())} faults in {chaos['minutes']:.0f} minutes (processes killed "
                "and stopped, full disks, networks away)",
                "the same weights, bit for bit; each job done once; no process, file or secret left",
                "`python -m benchmarks.cluster.chaos`",
            ],
            [
                "generation speed (tokens per second) relative to `transformers` on the same checkpoint",
                f"{min(ratios):.1f} to {max(ratios):.1f} ×",
                "`python -m benchmarks.speed.generation`",
            ],
        ],
    )
