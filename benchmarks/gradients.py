"""Gradient methods: how exact, how much memory, how long, for each solver and depth.

    python -m benchmarks.gradients --json benchmarks/results/gradients.json [--model DIR]

Columns are those of :class:`odeformer.measure.gradient_check.GradientRow`. Fresh weights, and trained ones
where ``--model`` names a checkpoint, on a text. Rows that are in the JSON already are not measured again.
``training``: 300 steps with the fixed-point state, ``reversible`` beside ``direct`` straight through.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import odeformer
from benchmarks.gradient_tables import claims
from data.tokenizer import load_tokenizer
from launcher.quickstart.standard_library import sources
from odeformer.config import BasisConfig, ModelConfig
from odeformer.measure.gradient_check import Pair, check_gradients, pairs_of
from odeformer.model import Odeformer, SolveOptions, token_losses

DEPTHS = (6, 12, 24, 48, 96)
REVERSIBLE = ("leapfrog", "fixed_point_leapfrog", "damped_leapfrog", "reversible_euler")
PAIRS: list[Pair] = [
    *(pair for solver in ("euler", "midpoint", "rk4") for pair in pairs_of(solver)),
    # Checkpoints do not depend on the solver: shown with Euler.
    *((solver, gradient) for solver in REVERSIBLE for gradient in ("direct", "reversible")),
]


def main() -> None:
    """Measure, print and write, depth by depth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a trained checkpoint, to measure on its weights too")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="timed repetitions, solvers interleaved")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content: dict[str, Any] = {"rows": [], "training": None}
    if arguments.json.exists():
        content = json.loads(arguments.json.read_text())

    def write() -> None:
        content["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
        content["date"] = time.strftime("%Y-%m-%d")
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")

    for row in content["rows"]:
        print(line(row))
    there = {(row["weights"], row["dtype"], row["depth"], row["solver"]) for row in content["rows"]}
    for weights, (model, ids) in models(arguments.model).items():
        for dtype in ("fp32", "bf16"):
            for depth in DEPTHS:
                pairs = [pair for pair in PAIRS if (weights, dtype, depth, pair[0]) not in there]
                if not pairs:
                    continue
                for measured in check_gradients(model, ids, depth, dtype, pairs, arguments.rounds):
                    content["rows"].append({"weights": weights, **asdict(measured)})
                    print(line(content["rows"][-1]), flush=True)
                write()
    if content["training"] is None:
        content["training"] = fixed_point_training(steps=300)
        write()
    for claim, bar, measured, reached in claims(content):
        print(f"{'reached' if reached else 'MISSED ':<8} {claim}: {measured} (bar: {bar})")


def fixed_point_training(steps: int) -> dict[str, list[float]]:
    """The losses of a small model on bytes of text, by gradient method."""
    text = b"".join(path.read_bytes() for path in sources()[:20])
    data = torch.tensor(list(text[: steps * 4 * 65])).view(steps, 4, 65)
    curves: dict[str, list[float]] = {}
    for gradient in ("direct", "reversible"):
        torch.manual_seed(0)
        shape = ModelConfig(
            width=64, heads=2, depth=8, basis=BasisConfig(size=4), vocabulary_size=256, context_length=64
        )
        model = Odeformer(shape)
        model.options = SolveOptions("fixed_point_leapfrog", gradient)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        curves[gradient] = []
        for ids in data:
            loss = token_losses(model(ids[:, :-1]).logits, ids[:, 1:]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            curves[gradient].append(float(loss.detach()))
    return curves


def models(trained: Path | None) -> dict[str, tuple[Odeformer, Tensor]]:
    """Fresh and trained weights, each with 2 × 129 token ids."""
    torch.manual_seed(0)
    shape = ModelConfig(
        width=128, heads=4, depth=12, basis=BasisConfig(size=4), vocabulary_size=2048, context_length=256
    )
    found = {"initial": (Odeformer(shape), torch.randint(2048, (2, 129)))}
    if trained is not None:
        text = sources()[0].read_text(encoding="utf-8")
        ids = load_tokenizer(trained).encode(text, add_special_tokens=False).ids[: 2 * 129]
        found["trained"] = (odeformer.load(trained), torch.tensor(ids).view(2, 129))
    return found


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    drift = "" if row["state_drift"] is None else f"drift {row['state_drift']:.0e}"
    return (
        f"{row['weights']:<8}{row['dtype']} N={row['depth']:<3}{row['solver']:<21}{row['gradient']:<11}"
        f"error {row['grad_rel_error']:.0e} (direct {row['direct_error']:.0e})  "
        f"saved {row['saved_bytes'] / 2**20:6.1f} MiB  peak {row['peak_bytes'] / 2**20:6.1f} MiB  "
        f"{row['seconds_vs_direct']:.2f} × direct  {drift}"
    )


if __name__ == "__main__":
    main()
