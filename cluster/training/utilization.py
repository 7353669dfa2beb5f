"""Utilization of a device: model FLOPs per second, relative to the device's peak."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch

from odeformer.config import ModelConfig
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
"""Peak FLOP/s of dense bf16 matmuls by device name, longer names first. From NVIDIA's data sheets, which list
twice as much "with sparsity"."""


def peak_flops(device: torch.device, precision: Literal["fp32", "bf16"]) -> float | None:
    """Peak FLOP/s of a device, or ``None`` for a CPU, an unknown device or fp32.

    The peak of a CPU depends on its clock and on other users, that of a GPU in fp32 on whether TF32 is
    allowed.
    """
    if device.type != "cuda" or precision != "bf16":
        return None
    return named_peak(torch.cuda.get_device_name(device))


def named_peak(device_name: str) -> float | None:
    """Peak FLOP/s of the device with this name, if it is in the table."""
    matches = (flops for name, flops in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", device_name))
    return next(matches, None)


def step_flops(model: Odeformer, depths: Sequence[int], sequences: int, length: int) -> float:
    """Model FLOPs of an optimizer step: one forward pass and twice that for the backward pass, per depth.

    Counted are the blocks and the output matrix of the ordinary transformer that a pass at N cells amounts
    to. Generating W(t) and recomputation by the gradient method do not count; they lower the utilization.
    """
    solver = solver_named(model.solver)
    early = model.config.prelude_layers
    evaluations = sum(
        early * model.layer_solver().evaluations + (depth - early) * solver.evaluations for depth in depths
    )
    per_cell, per_output = _token_flops(model.config, length)
    return 3.0 * sequences * length * (evaluations * per_cell + len(depths) * per_output)


@cache
def _token_flops(config: ModelConfig, length: int) -> tuple[float, float]:
    return cell_flops(config, length), unembedding_flops(config)


def utilization(flops: float, seconds: float, workers: int, peak: float | None) -> dict[str, float]:
    """Metrics of a step: ``{"mfu": …}``, or ``{"model_flops_per_second": …}`` if the peak is unknown.

    The former is the fraction of all workers' peak that it reached (model FLOPs utilization, PaLM, arXiv
    2204.02311).
    """
    if peak is None:
        return {"model_flops_per_second": flops / seconds}
    return {"mfu": flops / seconds / (workers * peak)}
