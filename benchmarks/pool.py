"""How long after its submission does a job make its first step, and what does a job cost beside its steps?

    python -m benchmarks.pool --json benchmarks/results/pool.json

A private cluster with one slot, warm when the first task comes; an untrained base of width 64, a task of two
labels and 20 steps; one job after the other. Times are from the call of ``Pool.submit``, which checks the
task and its data, to the event of the first step, and from the slot's being given to its being given back,
less the time between the job's first and last step.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.connection.connect import ray_cluster
from cluster.pool import Pool, PoolSettings
from cluster.tasks.task import Task
from cluster.tracking import runs
from odeformer.config import BasisConfig, ModelConfig

JOBS, STEPS = 12, 20
BAR = 5.0
"""Seconds from a submission to the first step, at most."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        uri = f"sqlite:///{folder}/mlflow.db"
        prepare(folder, uri)
        settings = PoolSettings(dir=folder / "pool", tracking_uri=uri)
        with ray_cluster(None, finetune_slots=1), Pool.start(settings) as pool:
            while not pool.status()["slots"]["free"]:
                time.sleep(0.2)
            rows = [measured(pool, a_task(folder, f"job{number}")) for number in range(JOBS)]
    first = sorted(row["to_first_step"] for row in rows)
    content = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "rows": rows,
        "to_first_step": {"median": statistics.median(first), "max": first[-1]},
        "beside_steps": statistics.median(row["beside_steps"] for row in rows),
    }
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{in_words(content)} (bar: {BAR:.0f} s); load of the machine {content['load']:.1f}")


def in_words(content: dict[str, Any]) -> str:
    """What a results file says."""
    first = content["to_first_step"]
    return (
        f"{len(content['rows'])} small jobs, one after the other, made their first step "
        f"{first['median']:.1f} s after their submission ({first['max']:.1f} s at most), and had their slot "
        f"for {content['beside_steps']:.1f} s beside their steps"
    )


def measured(pool: Pool, task: Task) -> dict[str, float]:
    """Run one job alone."""
    submitted = time.time()
    [job] = pool.wait(pool.submit(task), poll_seconds=0.1)
    if job.state != "succeeded":
        raise RuntimeError(f"job {job.id} is {job.state}: {job.error}")
    steps = [event["time"] for event in pool.events(job.id)[0] if event["event"] == "step"]
    times = {entry.state: entry.time for entry in pool.job(job.id).history}
    held = times["succeeded"] - times["running"]
    return {"to_first_step": steps[0] - submitted, "beside_steps": held - (steps[-1] - steps[0])}


def prepare(folder: Path, uri: str, width: int = 64) -> None:
    """Register an untrained base, and write a task's data."""
    import torch

    from data.tokenizer import train_tokenizer
    from odeformer import checkpoint
    from odeformer.model import Odeformer

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
    (folder / "train.jsonl").write_text("".join(rows))


def a_task(folder: Path, name: str) -> Task:
    """A task of seconds."""
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
