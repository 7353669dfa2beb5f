"""Tokens per second of training: continuous-depth models against the ordinary one of the same shape.

    python -m benchmarks.throughput --json benchmarks/results/throughput.json

Forward, backward and optimizer of each model in turn, A B C A B C …, in one process; medians of the rounds'
ratios. ``accumulated`` makes four micro-batches for each optimizer step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from cluster.settings import OptimSettings
from cluster.training import zero
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer, token_losses

WIDTH, HEADS, DEPTH, VOCABULARY, LENGTH = 256, 4, 8, 2048, 256


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sequences", type=int, default=8, help=f"of {LENGTH} tokens, in each micro-batch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokens = arguments.sequences * LENGTH
    steps: dict[str, Callable[[], None]] = {}
    for name, kind, size in (
        ("ordinary", "none", DEPTH),
        ("full", "smooth_mlp", DEPTH),
        ("half", "smooth_mlp", 4),
    ):
        for micro_batches in (1, 4):
            steps[f"{name} x{micro_batches}"] = training_step(kind, size, arguments.sequences, micro_batches)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)

    def ratio(name: str, micro_batches: int) -> float:
        """Tokens per second over the ordinary model's, the first round left out."""
        pairs = zip(seconds[f"ordinary x{micro_batches}"], seconds[f"{name} x{micro_batches}"], strict=True)
        return statistics.median([ordinary / ours for ordinary, ours in pairs][1:])

    result = {
        "ratio_full": ratio("full", 1),
        "ratio_half": ratio("half", 1),
        "ratio_accumulated": ratio("half", 4),
        "ratio_full_accumulated": ratio("full", 4),
        "tokens_per_second": {
            name: tokens * int(name[-1]) / statistics.median(times[1:]) for name, times in seconds.items()
        },
        "tokens_per_micro_batch": tokens,
        "shape": {"width": WIDTH, "depth": DEPTH, "vocabulary": VOCABULARY},
        "rounds": arguments.rounds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def training_step(kind: str, size: int, sequences: int, micro_batches: int) -> Callable[[], None]:
    """One optimizer step of a fresh model on random tokens."""
    config = ModelConfig.model_validate(
        {
            "width": WIDTH,
            "heads": HEADS,
            "depth": DEPTH,
            "basis": BasisConfig.model_validate({"kind": kind, "size": size}),
            "vocabulary_size": VOCABULARY,
            "context_length": LENGTH,
        }
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
