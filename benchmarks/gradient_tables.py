"""The gradient benchmark's results as Markdown: docs/gradients.md.

python -m benchmarks.gradient_tables benchmarks/results/gradients.json > docs/gradients.md
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.result_page import print_page

Row = dict[str, Any]
DEFAULT = "damped_leapfrog"
"""The reversible scheme that the claims are made for."""


def page(content: dict[str, Any]) -> str:
    """Everything a results file says."""
    rows = content["rows"]
    parts = [
        "# Gradient methods: exactness, memory, time",
        "What `python -m benchmarks.gradients` measured; this page is printed by "
        "`python -m benchmarks.gradient_tables benchmarks/results/gradients.json`. "
        f"Machine: {content['machine']}; {content['date']}. Width 128, 2 sequences of 128 tokens; fresh "
        "weights: D = 12, K = 4; trained ones: the quick start's checkpoint, D = 8, K = 4.",
        claims_table(content),
        "## Reversible schemes",
        "Error of the whole gradient against `direct` through the same solve, and in brackets the rounding "
        "error of that `direct` against float64. Every scheme keeps its pair of states in float64.",
        errors_table(rows, "reversible"),
        "## The continuous adjoint",
        "The same for torchdiffeq's `odeint_adjoint`, stepping with our solvers.",
        errors_table(rows, "adjoint"),
        "## Memory and time",
        "Fresh weights, fp32. Saved: alive after the forward pass, without the parameters. Time: forward and "
        "backward, against `direct` with the same solver.",
        cost_table(rows),
    ]
    return "\n\n".join(parts)


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def claims_table(content: dict[str, Any]) -> str:
    """Each claim, its bar and what was measured."""
    lines = ["| claim | bar | measured | |", "|---|---|---|---|"]
    for claim, bar, measured, reached in claims(content):
        lines.append(f"| {claim} | {bar} | {measured} | {'reached' if reached else 'MISSED'} |")
    return "\n".join(lines)


def claims(content: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(claim, bar, measured, reached)."""
    rows = content["rows"]
    checkpoint = select(rows, gradient="checkpoint")
    mine = select(rows, gradient="reversible", solver=DEFAULT)
    fresh = [row for row in select(mine, weights="initial", dtype="fp32") if row["depth"] >= 12]
    found = [
        _claim(
            "`checkpoint`, all solvers, depths, weights: error",
            "0",
            max(row["grad_rel_error"] for row in checkpoint),
            0.0,
        ),
        *(
            _claim(
                f"`checkpoint`, {dtype}: time, median",
                "≤ 1.40 × direct",
                _time(select(checkpoint, dtype=dtype)),
                1.40,
            )
            for dtype in dict.fromkeys(row["dtype"] for row in checkpoint)
        ),
        _claim(
            f"`reversible` ({DEFAULT}), fresh weights, fp32, N = 12 … 96: error",
            "≤ 2e-6",
            max(row["grad_rel_error"] for row in fresh),
            2e-6,
        ),
    ]
    for what in ("saved", "peak"):
        by_depth = {row["depth"]: row[f"{what}_bytes"] for row in fresh}
        growth = by_depth[96] / by_depth[12]
        found.append(_claim(f"the same: {what} bytes at N = 96", "≤ 1.05 × those at 12", growth, 1.05))
    found.append(_claim("the same: time, median", "≤ 1.45 × direct", _time(fresh), 1.45))
    for dtype in ("fp32", "bf16"):
        trained = select(mine, weights="trained", dtype=dtype)
        if trained:
            worst = max(row["grad_rel_error"] / row["direct_error"] for row in trained)
            found.append(
                _claim(f"trained weights, {dtype}: error", "≤ 3 × direct's own to float64", worst, 3.0)
            )
    drift = max(row["state_drift"] for row in select(rows, solver="fixed_point_leapfrog"))
    found.append(_claim("fixed-point state: recovered bit for bit", "drift 0", drift, 0.0))
    if content["training"]:
        curves = content["training"]
        apart = max(abs(a - b) for a, b in zip(curves["direct"], curves["reversible"], strict=True))
        found.append(
            _claim("300 steps with it: losses of `reversible` and `direct`", "within 1e-3", apart, 1e-3)
        )
    return found


def _claim(claim: str, bar: str, value: float, limit: float) -> tuple[str, str, str, bool]:
    text = f"{value:.1e}" if 0 < value < 0.01 else f"{value:.2f}" if value else "0"
    return claim, bar, text, value <= limit


def _time(rows: list[Row]) -> float:
    return statistics.median(row["seconds_vs_direct"] for row in rows)


def errors_table(rows: list[Row], gradient: str) -> str:
    """Errors by solver, weights and precision, a column for each depth."""
    mine = select(rows, gradient=gradient)
    depths = sorted({row["depth"] for row in mine})
    lines = [
        "| solver | weights | products | " + " | ".join(f"N = {n}" for n in depths) + " |",
        "|---" * (3 + len(depths)) + "|",
    ]
    for solver, weights, dtype in dict.fromkeys((r["solver"], r["weights"], r["dtype"]) for r in mine):
        cells = []
        for depth in depths:
            [row] = select(mine, solver=solver, weights=weights, dtype=dtype, depth=depth)
            cells.append(f"{row['grad_rel_error']:.0e} ({row['direct_error']:.0e})")
        lines.append(f"| {solver} | {weights} | {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cost_table(rows: list[Row]) -> str:
    """MiB at the least and the greatest depth, and the median time."""
    mine = select(rows, weights="initial", dtype="fp32")
    ends = (12, max(row["depth"] for row in mine))
    lines = [
        "| solver | gradient | "
        + " | ".join(f"{what}, N = {n}" for what in ("saved", "peak") for n in ends)
        + " | time |",
        "|---" * (3 + 2 * len(ends)) + "|",
    ]
    for solver, gradient in dict.fromkeys((row["solver"], row["gradient"]) for row in mine):
        pair = select(mine, solver=solver, gradient=gradient)
        sizes = [
            f"{row[f'{what}_bytes'] / 2**20:.1f} MiB"
            for what in ("saved", "peak")
            for n in ends
            for row in select(pair, depth=n)
        ]
        lines.append(f"| {solver} | {gradient} | " + " | ".join(sizes) + f" | {_time(pair):.2f} × |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_page(__doc__, page)
