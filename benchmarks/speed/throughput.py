"""Training throughput: tokens per second of continuous-depth models over the ordinary one of the same shape.

    python -m benchmarks.speed.throughput --json benchmarks/results/throughput.json

Forward pass, backward pass and optimizer of all models take turns in one process; medians of the rounds'
ratios. ``accumulated`` has four micro-batches in each optimizer step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks import bench
from cluster.settings import OptimSettings
from cluster.training import zero
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer, token_losses

WIDTH, HEADS, DEPTH, VOCABULARY, LENGTH = 256, 4, 8, 2048, 256
BASES = {
    "ordinary": BasisConfig(kind="none", size=DEPTH),
    "full": BasisConfig(kind="smooth_mlp", size=DEPTH),
    "half": BasisConfig(kind="smooth_mlp", size=DEPTH // 2),
}


def main() -> None:
    """Measure all models, print and write the ratios."""
    parser = bench.parser(__doc__, rounds=15)
    parser.add_argument(
        "--sequences", type=int, default=8, help=f"sequences of {LENGTH} tokens in each micro-batch"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokens = arguments.sequences * LENGTH
    steps = {
        f"{name} x{micro_batches}": training_step(basis, arguments.sequences, micro_batches)
        for name, basis in BASES.items()
        for micro_batches in (1, 4)
    }
    seconds = bench.in_turn(steps, arguments.rounds)

    def ratio(name: str, micro_batches: int) -> float:
        """Tokens per second over the ordinary model's."""
        return bench.median_ratio(seconds[f"ordinary x{micro_batches}"], seconds[f"{name} x{micro_batches}"])

    result = {
        "ratio_full": ratio("full", 1),
        "ratio_half": ratio("half", 1),
        "ratio_accumulated": ratio("half", 4),
        "ratio_full_accumulated": ratio("full", 4),
        "tokens_per_second": {
            name: tokens * int(name[-1]) / statistics.median(times) for name, times in seconds.items()
        },
        "tokens_per_micro_batch": tokens,
        "shape": {"width": WIDTH, "depth": DEPTH, "vocabulary": VOCABULARY},
        "rounds": arguments.rounds,
        **bench.stamp("torch"),
    }
    bench.save(arguments.json, result)
    bench.print_row(result)


def training_step(basis: BasisConfig, sequences: int, micro_batches: int) -> Callable[[], None]:
    """An optimizer step of a fresh model on random tokens."""
    config = ModelConfig(
        width=WIDTH, heads=HEADS, depth=DEPTH, basis=basis, vocabulary_size=VOCABULARY, context_length=LENGTH
    )
    model = Odeformer(config)
    model.options = replace(model.options, gradient="direct")
    optimizer = torch.optim.AdamW(zero.parameter_groups(model, OptimSettings()), lr=1e-4)
    tokens = torch.randint(VOCABULARY, (sequences, LENGTH + 1))

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(micro_batches):
            loss = token_losses(model(tokens[:, :-1]).logits, tokens[:, 1:]).mean() / micro_batches
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
