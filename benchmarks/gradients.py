"""Gradient methods: how exact, how much memory, how long, for each solver and depth.

    python -m benchmarks.gradients --json benchmarks/results/gradients.json [--model DIR]

``grad_rel_error``: of the whole parameter vector against backpropagation through the same discrete solve
(``direct``) in the same precision, relative 2-norm; ``direct_error``: that one's own against float64.
``saved_bytes``: distinct storages kept for the backward pass; ``peak_bytes``: the most tensor bytes alive
during forward and backward. ``state_drift``: relative error of the state at t = 0 after the solve is
undone. Fresh weights, and trained ones where ``--model`` names a checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import odeformer
from odeformer.config import BasisConfig, ModelConfig
from odeformer.field import build_field
from odeformer.memory import peak_bytes
from odeformer.model import Odeformer, token_losses
from odeformer.solvers import SOLVERS, Cell, ReversibleSolver

DEPTHS = (12, 24, 48, 96)
PAIRS = [
    *(("euler", gradient) for gradient in ("direct", "checkpoint")),
    *(
        (solver, gradient)
        for solver in ("leapfrog", "damped_leapfrog", "reversible_euler")
        for gradient in ("direct", "checkpoint", "reversible")
    ),
]


def main() -> None:
    """Measure, print and write row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a trained checkpoint, to measure on its weights too")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="timed repetitions, solvers interleaved")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {"initial": Odeformer(_shape())}
    if arguments.model:
        models["trained"] = odeformer.load(arguments.model)
    rows: list[dict[str, Any]] = []
    for weights, model in models.items():
        ids = torch.randint(model.config.vocabulary_size or 0, (2, 129))
        for dtype in ("fp32", "bf16"):
            for depth in DEPTHS:
                for row in measure(model, ids, depth, dtype, arguments.rounds):
                    rows.append({"weights": weights, **row})
                    print(line(rows[-1]), flush=True)
                content = {
                    "rows": rows,
                    "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
                    "date": time.strftime("%Y-%m-%d"),
                }
                arguments.json.write_text(json.dumps(content, indent=1) + "\n")


def _shape() -> ModelConfig:
    return ModelConfig(
        width=128,
        heads=4,
        depth=12,
        basis=BasisConfig(size=4),
        vocabulary_size=2048,
        context_length=256,
    )


def measure(model: Odeformer, ids: Tensor, depth: int, dtype: str, rounds: int) -> Iterator[dict[str, Any]]:
    """One row for each pair of solver and gradient method."""
    exact = copy.deepcopy(model).double()
    seconds: dict[tuple[str, str], list[float]] = {pair: [] for pair in PAIRS}
    for _ in range(rounds):
        for solver, gradient in PAIRS:
            started = time.perf_counter()
            backward(model, ids, depth, solver, gradient, dtype)
            seconds[solver, gradient].append(time.perf_counter() - started)
    for solver, gradient in PAIRS:
        if gradient == "direct":
            reference = backward(exact, ids, depth, solver, "direct", "fp64")
            direct = backward(model, ids, depth, solver, "direct", dtype)
        found = backward(model, ids, depth, solver, gradient, dtype)
        pair_seconds = statistics.median(seconds[solver, gradient])
        yield {
            "solver": solver,
            "gradient": gradient,
            "depth": depth,
            "dtype": dtype,
            "saved_bytes": saved_bytes(model, ids, depth, solver, gradient, dtype),
            "peak_bytes": peak_bytes(lambda s=solver, g=gradient: backward(model, ids, depth, s, g, dtype)),
            "grad_rel_error": relative(found, direct),
            "direct_error": relative(direct, reference),
            "seconds": pair_seconds,
            "seconds_vs_direct": pair_seconds / statistics.median(seconds[solver, "direct"]),
            "state_drift": state_drift(model, ids, depth, solver, dtype),
        }


def loss(model: Odeformer, ids: Tensor, depth: int, solver: str, gradient: str, dtype: str) -> Tensor:
    """Mean loss, its products in bf16 where asked."""
    model.solver, model.gradient = solver, gradient
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        return token_losses(model(ids[:, :-1], depth=depth).logits, ids[:, 1:]).mean()


def backward(model: Odeformer, ids: Tensor, depth: int, solver: str, gradient: str, dtype: str) -> Tensor:
    """The gradient of all parameters as one vector."""
    model.zero_grad()
    loss(model, ids, depth, solver, gradient, dtype).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative distance in the 2-norm."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def saved_bytes(model: Odeformer, ids: Tensor, depth: int, solver: str, gradient: str, dtype: str) -> int:
    """Bytes of the distinct storages that the forward pass keeps; what functions save is among them."""
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = loss(model, ids, depth, solver, gradient, dtype)
    del result
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for address, size in storages.items() if address not in own)


def state_drift(model: Odeformer, ids: Tensor, depth: int, solver_name: str, dtype: str) -> float | None:
    """Relative error of the state at t = 0 after the solve and its undoing; None if it cannot be undone."""
    solver = SOLVERS[solver_name]
    if not isinstance(solver, ReversibleSolver):
        return None
    model.solver = solver_name
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        x0 = model.embedding(ids[:, :-1])
        field = build_field(model.config, x0, training=False)
        stacked = model.depth_weights(depth)
        scale, nodes = field.speed / depth, len(solver.nodes)
        blocks = [
            [{name: w[cell * nodes + node] for name, w in stacked.items()} for node in range(nodes)]
            for cell in range(depth)
        ]
        cells = [Cell(scale, scale if index else 0.0) for index in range(depth)]
        state = solver.start(x0)
        for cell, own in zip(cells, blocks, strict=True):
            state = solver.step(field, state, cell, own)
        for cell, own in zip(reversed(cells), reversed(blocks), strict=True):
            state = solver.reverse(field, state, cell, own)
        return relative(solver.end(state), x0)


def line(row: dict[str, Any]) -> str:
    drift = "" if row["state_drift"] is None else f"drift {row['state_drift']:.0e}"
    return (
        f"{row['weights']:<8}{row['dtype']} N={row['depth']:<3}{row['solver']:<17}{row['gradient']:<11}"
        f"error {row['grad_rel_error']:.0e} (direct {row['direct_error']:.0e})  "
        f"saved {row['saved_bytes'] / 2**20:6.1f} MiB  peak {row['peak_bytes'] / 2**20:6.1f} MiB  "
        f"{row['seconds_vs_direct']:.2f} × direct  {drift}"
    )


if __name__ == "__main__":
    main()
