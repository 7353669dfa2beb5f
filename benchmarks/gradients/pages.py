"""The marked parts of docs/gradients.md, and the claims of ``python -m benchmarks.gradients``."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.bench import Claim, Row, claims_table, judged, measured_by, select, table

DEFAULT = "damped_leapfrog"
"""The reversible solver that the claims are made for."""


def claims_part(content: dict[str, Any]) -> str:
    """The machine and the claims."""
    machine = f"Machine: {content['machine']}; {content['date']}."
    return f"{measured_by('gradients', 'gradients')} {machine}\n\n{claims_table(claims(content))}"


def reversible(content: dict[str, Any]) -> str:
    """The errors of reversible solvers."""
    return errors_table(content["rows"], "reversible")


def adjoint(content: dict[str, Any]) -> str:
    """The errors of the continuous adjoint."""
    return errors_table(content["rows"], "adjoint")


def cost(content: dict[str, Any]) -> str:
    """The memory and time of every method."""
    return cost_table(content["rows"])


def claims(content: dict[str, Any]) -> list[Claim]:
    """Every claim with what the rows say."""
    rows = content["rows"]
    checkpoint = select(rows, gradient="checkpoint")
    reversible = select(rows, gradient="reversible", solver=DEFAULT)
    fresh = [row for row in select(reversible, weights="initial", dtype="fp32") if row["depth"] >= 12]
    error = max(row["grad_rel_error"] for row in checkpoint)
    result = [_claim("`checkpoint`, all solvers, depths, weights: error", "0", error, 0.0)]
    for dtype in dict.fromkeys(row["dtype"] for row in checkpoint):
        time = _time(select(checkpoint, dtype=dtype))
        result.append(_claim(f"`checkpoint`, {dtype}: time, median", "≤ 1.40 × direct", time, 1.40))
    error = max(row["grad_rel_error"] for row in fresh)
    text = f"`reversible` ({DEFAULT}), fresh weights, fp32, N = 12 … 96: error"
    result.append(_claim(text, "≤ 2e-6", error, 2e-6))
    for what in ("saved", "peak"):
        by_depth = {row["depth"]: row[f"{what}_bytes"] for row in fresh}
        growth = by_depth[96] / by_depth[12]
        result.append(_claim(f"the same: {what} bytes at N = 96", "≤ 1.05 × those at 12", growth, 1.05))
    result.append(_claim("the same: time, median", "≤ 1.45 × direct", _time(fresh), 1.45))
    for dtype in ("fp32", "bf16"):
        if trained := select(reversible, weights="trained", dtype=dtype):
            worst = max(row["grad_rel_error"] / row["direct_error"] for row in trained)
            text = f"trained weights, {dtype}: error"
            result.append(_claim(text, "≤ 3 × direct's own to float64", worst, 3.0))
    if fixed := select(rows, solver="fixed_point_leapfrog"):
        drift = max(row["state_drift"] for row in fixed)
        result.append(_claim("fixed-point state: recovered bit for bit", "drift 0", drift, 0.0))
    if curves := content["training"]:
        apart = max(abs(a - b) for a, b in zip(curves["direct"], curves["reversible"], strict=True))
        text = "300 steps with it: losses of `reversible` and `direct`"
        result.append(_claim(text, "within 1e-3", apart, 1e-3))
    return result


def _claim(claim: str, bar: str, value: float, limit: float) -> Claim:
    text = f"{value:.1e}" if 0 < value < 0.01 else f"{value:.2f}" if value else "0"
    return judged(claim, bar, text, value <= limit)


def _time(rows: list[Row]) -> float:
    return statistics.median(row["seconds_vs_direct"] for row in rows)


def errors_table(rows: list[Row], gradient: str) -> str:
    """Errors by solver, weights and precision, a column for each depth."""
    rows = select(rows, gradient=gradient)
    depths = sorted({row["depth"] for row in rows})
    lines = []
    for solver, weights, dtype in dict.fromkeys((r["solver"], r["weights"], r["dtype"]) for r in rows):
        cells = []
        for depth in depths:
            [row] = select(rows, solver=solver, weights=weights, dtype=dtype, depth=depth)
            cells.append(f"{row['grad_rel_error']:.0e} ({row['direct_error']:.0e})")
        lines.append([solver, weights, dtype, *cells])
    return table(["solver", "weights", "products", *(f"N = {n}" for n in depths)], lines)


def cost_table(rows: list[Row]) -> str:
    """MiB at the least and the greatest depth, and the median time."""
    rows = select(rows, weights="initial", dtype="fp32")
    columns = [(what, n) for what in ("saved", "peak") for n in (12, max(row["depth"] for row in rows))]
    lines = []
    for solver, gradient in dict.fromkeys((row["solver"], row["gradient"]) for row in rows):
        by_depth = {row["depth"]: row for row in select(rows, solver=solver, gradient=gradient)}
        sizes = [f"{by_depth[n][f'{what}_bytes'] / 2**20:.1f} MiB" for what, n in columns]
        lines.append([solver, gradient, *sizes, f"{_time(list(by_depth.values())):.2f} ×"])
    return table(["solver", "gradient", *(f"{what}, N = {n}" for what, n in columns), "time"], lines)
