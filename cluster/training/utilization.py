"""How much of a device's arithmetic a run makes use of: model FLOPs over time, and over the device's peak."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch

from odeformer.config import ModelConfig
from odeformer.depth import Grid
from odeformer.measure.cost import cell_flops, unembedding_flops
from odeformer.model import Odeformer
from odeformer.solvers import solver_named

PEAK_FLOPS = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""FLOP/s of dense products in bf16 by what a device calls itself, the longer names first. From NVIDIA's data
sheets of these products, which give twice as much "with sparsity"."""


def peak_flops(device: torch.device, precision: Literal["fp32", "bf16"]) -> float | None:
    """What a device can do at most; nothing for a CPU, one that is not in the table, or products in fp32.

    What a CPU can do hangs on how fast it clocks while it does it, and on who else uses it. And in fp32 a
    GPU's peak hangs on whether TF32 is allowed.
    """
    if device.type != "cuda" or precision != "bf16":
        return None
    return named_peak(torch.cuda.get_device_name(device))


def named_peak(device_name: str) -> float | None:
    """The peak of a device that calls itself that."""
    found = (flops for name, flops in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device_name))
    return next(found, None)


def step_flops(model: Odeformer, grids: Sequence[Grid], sequences: int, length: int) -> float:
    """Model FLOPs of an optimizer step: once forward and twice that backward, at each of its depths.

    Those of the ordinary transformer that a pass at N cells is: its blocks and its output matrix. What makes
    W(t), and what a gradient method computes again, is no model FLOP: it lowers the utilization.
    """
    solver = solver_named(model.solver)
    early = model.config.prelude_layers
    evaluations = sum(
        early * model.layer_solver().evaluations + (len(grid) - 1 - early) * solver.evaluations
        for grid in grids
    )
    a_cell, the_end = _token_flops(model.config, length)
    return 3.0 * sequences * length * (evaluations * a_cell + len(grids) * the_end)


@cache
def _token_flops(config: ModelConfig, length: int) -> tuple[float, float]:
    return cell_flops(config, length), unembedding_flops(config)


def utilization(flops: float, seconds: float, workers: int, peak: float | None) -> dict[str, float]:
    """``{"mfu": …}``, the part of the peak of all workers' devices that a step made use of (model FLOPs
    utilization, as in PaLM, arXiv 2204.02311); where no peak is known ``{"model_flops_per_second": …}``."""
    if peak is None:
        return {"model_flops_per_second": flops / seconds}
    return {"mfu": flops / seconds / (workers * peak)}
