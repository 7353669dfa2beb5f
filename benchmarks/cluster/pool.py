"""The pool's overhead: time from a job's submission to its first step, and slot time beyond its steps.

    python -m benchmarks.cluster.pool --json benchmarks/results/pool.json

A local cluster has one slot, which is warm when the first task arrives; the base is untrained, of width 64;
each task has two labels and 20 steps; jobs run one after the other. Times are from the call of
``Pool.submit``, which validates the task and its data, to the event of the first step, and from the slot's
assignment to its release, less the time between the job's first and last step.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench
from benchmarks.cluster import pages
from cluster import registry
from cluster.connection.connect import ray_cluster
from cluster.pool import Pool, PoolSettings
from cluster.tasks.task import Task
from cluster.tracking import runs
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.config import BasisConfig, ModelConfig
from odeformer.model import Odeformer

JOBS, STEPS = 12, 20
BAR = 5.0
"""The most seconds from a submission to the first step."""


def main() -> None:
    """Run all jobs, print and write their times."""
    arguments = bench.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary, one_slot(Path(temporary), width=64) as pool:
        while not pool.status()["slots"]["free"]:
            time.sleep(0.2)
        rows = [measured(pool, a_task(Path(temporary), f"job{number}")) for number in range(JOBS)]
    first = sorted(row["to_first_step"] for row in rows)
    content = {
        **bench.stamp(),
        "load": os.getloadavg()[0],
        "rows": rows,
        "to_first_step": {"median": statistics.median(first), "max": first[-1]},
        "beside_steps": statistics.median(row["beside_steps"] for row in rows),
    }
    bench.save(arguments.json, content)
    print(f"{pages.pool(content)} (bar: {BAR:.0f} s); load of the machine {content['load']:.1f}")


@contextmanager
def one_slot(folder: Path, width: int) -> Iterator[Pool]:
    """A pool with one slot, and in ``folder`` a registered base and a task's data."""
    uri = f"sqlite:///{folder}/mlflow.db"
    prepare(folder, uri, width)
    settings = PoolSettings(dir=folder / "pool", tracking_uri=uri)
    with ray_cluster(None, finetune_slots=1), Pool.start(settings) as pool:
        yield pool


def measured(pool: Pool, task: Task) -> dict[str, float]:
    """Run one job and return its times."""
    submitted = time.time()
    [job] = pool.wait(pool.submit(task), poll_seconds=0.1)
    if job.state != "succeeded":
        raise RuntimeError(f"job {job.id} is {job.state}: {job.error}")
    steps = [event["time"] for event in pool.events(job.id)[0] if event["event"] == "step"]
    times = {entry.state: entry.time for entry in pool.job(job.id).history}
    held = times["succeeded"] - times["running"]
    return {"to_first_step": steps[0] - submitted, "beside_steps": held - (steps[-1] - steps[0])}


def prepare(folder: Path, uri: str, width: int) -> None:
    """Register an untrained base and write a task's data."""
    config = ModelConfig(
        width=width, heads=2, depth=4, basis=BasisConfig(size=4), vocabulary_size=300, context_length=64
    )
    torch.manual_seed(0)
    train_tokenizer(["red blue green yes no"] * 10, 300).save(str(folder / "tokenizer.json"))
    state = Odeformer(config).state_dict()
    checkpoint.save(state, config, "euler", folder / "tokenizer.json", folder / "base")
    run_id = runs.start_run(uri, "benchmark", "base", {}, folder / "base-run")
    tags = {"odeformer.kind": "checkpoint"}
    registry.register_version(folder / "base", "base", run_id=run_id, uri=uri, tags=tags, alias="champion")
    pairs = [("red", "colour"), ("yes", "answer"), ("blue", "colour"), ("no", "answer")] * 8
    rows = [json.dumps({"prompt": text, "completion": label}) + "\n" for text, label in pairs]
    (folder / "train.jsonl").write_text("".join(rows), encoding="utf-8")


def a_task(folder: Path, name: str) -> Task:
    """A task that trains for seconds."""
    content: dict[str, Any] = {
        "name": name,
        "team": "benchmark",
        "base": "models:/base@champion",
        "kind": "classification",
        "data": {"train": folder / "train.jsonl", "validation": folder / "train.jsonl"},
        "train": {"steps": STEPS},
    }
    return Task.model_validate(content)


if __name__ == "__main__":
    main()
