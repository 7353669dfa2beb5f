"""What orchestration costs: a step under Ray and DeepSpeed against a bare torch loop of the same model.

    python -m benchmarks.overhead --json benchmarks/results/overhead.json

The same model, shards, batches, AdamW, clipping and schedule, one worker on one core. Runs of a few steps
take turns, each in processes of its own: ours is `pretrain` with everything that belongs to it (Ray,
DeepSpeed at stage 0, guards, heartbeats, event log, MLflow), the other nothing but torch and our model. A
step's time is that from one step's end to the next one's; medians of each run, and of the runs' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.texts import benchmark_texts
from cluster import pretrain as pretraining
from cluster.connection.connect import ray_cluster
from cluster.resolve import resolve_run
from cluster.runs.events import FILE_NAME, events_from
from cluster.settings import PretrainSettings
from cluster.training.schedule import learning_rate
from cluster.training.shards import open_stream
from cluster.training.zero import parameter_groups
from data.shards import build
from odeformer.model import Odeformer, token_losses

STEPS, IGNORED = 16, 4
"""Of each run, and how many of them, at its start, are not looked at."""


def main() -> None:
    """Measure, print and write; or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", choices=("ours", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        run = ours if arguments.measure == "ours" else bare
        times = run(settings_in(arguments.folder))
        print(json.dumps([after - before for before, after in pairwise(times)]))
    elif arguments.json is None:
        parser.error("--json is required")
    else:
        compare(arguments.json, arguments.rounds)


def compare(out: Path, rounds: int) -> None:
    """Both in turn, each in processes of its own."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(benchmark_texts(folder), folder / "shards", vocabulary_size=2048, sequence_length=256)
        for _ in range(rounds):
            for name, medians in seconds.items():
                command = [sys.executable, "-m", "benchmarks.overhead", "--measure", name]
                done = subprocess.run(
                    [*command, "--folder", str(folder)],
                    stdout=subprocess.PIPE,
                    check=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
                medians.append(statistics.median(json.loads(done.stdout.splitlines()[-1])[IGNORED:]))
    ratios = [ours / bare for ours, bare in zip(seconds["ours"], seconds["bare"], strict=True)]
    result = {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "step_seconds": {name: statistics.median(medians) for name, medians in seconds.items()},
        "steps": STEPS - IGNORED,
        "rounds": rounds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"a step: {result['step_seconds']['ours']:.3f} s under Ray and DeepSpeed, "
        f"{result['step_seconds']['bare']:.3f} s bare; ratio {result['ratio']:.3f} "
        f"({', '.join(f'{ratio:.3f}' for ratio in ratios)})"
    )


def settings_in(folder: Path) -> PretrainSettings:
    """A run of its own on the shards in a folder."""
    run = Path(tempfile.mkdtemp(dir=folder))
    settings = PretrainSettings.model_validate(
        {
            "model": {"width": 256, "heads": 4, "depth": 8, "basis": {"size": 4}},
            "data": {"shards": str(folder / "shards"), "sequence_length": 256},
            "train": {
                "steps": STEPS,
                "global_batch": 4,
                "micro_batch": 4,
                "gradient": "direct",
                "validate_every": STEPS,
                "validation_sequences": 4,
            },
            "zero": {"stage": 0},
            "checkpoint": {"every": STEPS},
            "tracking": {"uri": f"sqlite:///{run}/mlflow.db"},
            "run": {"dir": run / "run"},
        }
    )
    return resolve_run(settings).settings


def ours(settings: PretrainSettings) -> list[float]:
    """When each step of a whole run ended, in seconds."""
    with ray_cluster(None, pretrain_workers=1):
        pretraining.pretrain(resolve_run(settings), lambda event: None)
    events, _ = events_from(settings.run.dir / FILE_NAME, 0)
    return [event["time"] for event in events if event["event"] == "step"]


def bare(settings: PretrainSettings) -> list[float]:
    """When each step of a plain loop ended, in seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.run.seed)
    model, optim = Odeformer(settings.model), settings.optim
    model.options = replace(model.options, gradient=settings.train.gradient)
    optimizer = torch.optim.AdamW(parameter_groups(model, optim), lr=optim.learning_rate, betas=optim.betas)
    batches = iter(open_stream(settings, "train", world_size=1))
    times = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step, STEPS) * group["rate"]
        tokens = next(batches).tokens
        logits = model(tokens[:, :-1], depth=settings.model.depth).logits
        token_losses(logits, tokens[:, 1:]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.time())
    return times


if __name__ == "__main__":
    main()
