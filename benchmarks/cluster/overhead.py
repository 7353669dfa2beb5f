"""The overhead of orchestration: a step under Ray and DeepSpeed against a plain torch loop of the same model.

    python -m benchmarks.cluster.overhead --json benchmarks/results/overhead.json

Both have the same model, shards, batches, AdamW, clipping and schedule, and one worker on one core, with the
block compiled and without. Runs of a few steps take turns, each in processes of its own: ours is `pretrain`
with everything it includes (Ray, DeepSpeed at stage 0, guards, heartbeats, event log, MLflow), the other only
torch and our model. The time of a step is from the end of the step before to its own; medians of each run,
and of the runs' ratios.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import bench
from benchmarks.texts import benchmark_texts
from cluster import pretrain as pretraining
from cluster.connection.connect import ray_cluster
from cluster.resolve import resolve_run
from cluster.runs.events import Event, logged
from cluster.settings import PretrainSettings
from cluster.training.schedule import learning_rate
from cluster.training.shards import open_stream
from cluster.training.zero import parameter_groups
from data.shards import build
from odeformer.model import Odeformer, token_losses

STEPS, IGNORED = 16, 4
"""The steps of each run, and the number of first steps that are not counted."""
Compile = Literal["off", "on"]
"""The setting ``train.compile``."""


def main() -> None:
    """Measure both in turn, each in processes of its own, print and write the ratios."""
    arguments = bench.parser(__doc__, rounds=5).parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds: dict[Compile, dict[str, list[float]]] = {
        "off": {"ours": [], "bare": []},
        "on": {"ours": [], "bare": []},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(benchmark_texts(folder), folder / "shards", vocabulary_size=2048, sequence_length=256)
        for _ in range(arguments.rounds):
            for compiled, of_way in seconds.items():
                for name, run in (("ours", ours), ("bare", bare)):
                    ends = bench.in_fresh_process(run, settings_in(folder, compiled))
                    steps = [after - before for before, after in pairwise(ends)]
                    of_way[name].append(statistics.median(steps[IGNORED:]))
    result = {
        **summary(seconds["off"]),
        "compiled": summary(seconds["on"]),
        "steps": STEPS - IGNORED,
        "rounds": arguments.rounds,
        "load": os.getloadavg()[0],
        **bench.stamp("torch"),
    }
    bench.save(arguments.json, result)
    bench.print_row(result)


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The ratios of ours over the plain loop, and the seconds of a step."""
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "step_seconds": {name: statistics.median(medians) for name, medians in seconds.items()},
    }


def settings_in(folder: Path, compiled: Compile) -> PretrainSettings:
    """The settings of a new run on the shards in a folder."""
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
                "compile": compiled,
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
    """The time at which each step of a whole run ended, in seconds."""
    with ray_cluster(None, pretrain_workers=1):
        pretraining.pretrain(resolve_run(settings), lambda event: None)
    return [event["time"] for event in logged(settings.run.dir, Event.STEP)]


def bare(settings: PretrainSettings) -> list[float]:
    """The time at which each step of a plain loop ended, in seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.run.seed)
    model, optim = Odeformer(settings.model), settings.optim
    train = settings.train
    model.options = replace(model.options, gradient=train.gradient, compiled=train.compile == "on")
    optimizer = torch.optim.AdamW(parameter_groups(model, optim), lr=optim.learning_rate, betas=optim.betas)
    batches = iter(open_stream(settings, "train", world_size=1))
    times = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(optim, step, STEPS) * group["rate"]
        tokens = next(batches).tokens
        logits = model(tokens[:, :-1], depth=settings.model.depth).logits
        token_losses(logits, tokens[:, 1:]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.time())
    return times


if __name__ == "__main__":
    main()
