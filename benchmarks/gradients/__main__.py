"""Gradient methods: exactness, memory and time for each solver and depth.

    python -m benchmarks.gradients --json benchmarks/results/gradients.json [--model DIR]

Columns are those of :class:`odeformer.measure.gradient_check.GradientRow`, for fresh weights and, with
``--model``, for the weights of a trained checkpoint on a text. Rows that are in the file are not measured
again. ``training``: the losses of 300 steps with the fixed-point state, by ``reversible`` and by ``direct``.
``--quick`` measures the default solver of each gradient method only, in fp32, in some minutes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

import odeformer
from benchmarks import bench
from benchmarks.bench import Results
from benchmarks.gradients.pages import claims
from data.tokenizer import load_tokenizer
from launcher.quickstart.standard_library import sources
from odeformer.config import BasisConfig, ModelConfig
from odeformer.measure.gradient_check import Pair, check_gradients, pairs_of
from odeformer.model import Odeformer, SolveOptions, token_losses

DEPTHS = (6, 12, 24, 48, 96)
REVERSIBLE = ("leapfrog", "fixed_point_leapfrog", "damped_leapfrog", "reversible_euler")
PAIRS: list[Pair] = [
    *(pair for solver in ("euler", "midpoint", "rk4") for pair in pairs_of(solver)),
    # Gradient "checkpoint" does not depend on the solver: it is measured with Euler.
    *((solver, gradient) for solver in REVERSIBLE for gradient in ("direct", "reversible")),
]
QUICK_DEPTHS = (12, 48, 96)
QUICK_PAIRS: list[Pair] = [
    *(("euler", gradient) for gradient in ("direct", "checkpoint", "adjoint")),
    *(("damped_leapfrog", gradient) for gradient in ("direct", "reversible")),
]


def main() -> None:
    """Measure the missing rows, depth by depth, print and write them."""
    parser = bench.parser(__doc__, rounds=3)
    parser.add_argument("--model", type=Path, help="trained checkpoint to measure too")
    parser.add_argument("--quick", action="store_true", help="fp32 and the default solvers only")
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    torch.set_num_threads(1)
    results = Results(arguments.json, training=None)
    for weights, (model, ids) in models_of(arguments.model).items():
        for dtype in ("fp32",) if quick else ("fp32", "bf16"):
            for depth in QUICK_DEPTHS if quick else DEPTHS:
                known = {
                    row["solver"]
                    for row in bench.select(results.rows, weights=weights, dtype=dtype, depth=depth)
                }
                pairs = [pair for pair in (QUICK_PAIRS if quick else PAIRS) if pair[0] not in known]
                if not pairs:
                    continue
                for measured in check_gradients(model, ids, depth, dtype, pairs, arguments.rounds):
                    results.rows.append({"weights": weights, **asdict(measured)})
                    bench.print_row(results.rows[-1])
                results.write(**bench.stamp("torch"))
    if results.content["training"] is None and not quick:
        results.write(training=fixed_point_training(steps=300), **bench.stamp("torch"))
    bench.print_claims(claims(results.content))


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


def models_of(trained: Path | None) -> dict[str, tuple[Odeformer, Tensor]]:
    """Models with fresh and, if given, trained weights, each with token ids ``[2, 129]``."""
    torch.manual_seed(0)
    shape = ModelConfig(
        width=128, heads=4, depth=12, basis=BasisConfig(size=4), vocabulary_size=2048, context_length=256
    )
    models = {"initial": (Odeformer(shape), torch.randint(2048, (2, 129)))}
    if trained is not None:
        text = sources()[0].read_text(encoding="utf-8")
        ids = load_tokenizer(trained).encode(text, add_special_tokens=False).ids[: 2 * 129]
        models["trained"] = (odeformer.load(trained), torch.tensor(ids).view(2, 129))
    return models


if __name__ == "__main__":
    main()
