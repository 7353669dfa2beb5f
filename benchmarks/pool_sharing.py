"""How long do eight like jobs take in a pool of one slot, one after the other and four at a time?

    python -m benchmarks.pool_sharing --json benchmarks/results/pool_sharing.json

A private cluster with one slot; an untrained base of width 128, D = 4; tasks of one team, 60 steps of 4 × 48
tokens each, adapters of rank 8. All eight are queued before the first begins. Both ways take turns; wall time
from the first job's beginning to the last one's end, by the journal.
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

from benchmarks.pool import a_task, prepare
from cluster.connection.connect import ray_cluster
from cluster.pool import Pool, PoolSettings
from cluster.tasks.task import Task

JOBS, STEPS, ROUNDS = 8, 60, 3
WAYS = (1, 4)
"""Jobs in a slot."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        uri = f"sqlite:///{folder}/mlflow.db"
        prepare(folder, uri, width=128)
        settings = PoolSettings(dir=folder / "pool", tracking_uri=uri)
        with ray_cluster(None, finetune_slots=1), Pool.start(settings) as pool:
            for number in range(ROUNDS):
                for way in WAYS:
                    Pool.start(settings.model_copy(update={"jobs_per_slot": way}))
                    seconds = measured(pool, folder, f"round{number}-{way}")
                    rows.append({"jobs_per_slot": way, "seconds": seconds, "load": os.getloadavg()[0]})
                    print(rows[-1], flush=True)
    times = {way: [row["seconds"] for row in rows if row["jobs_per_slot"] == way] for way in WAYS}
    ratios = [alone / shared for alone, shared in zip(*times.values(), strict=True)]
    content = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": rows,
        "ratio": statistics.median(ratios),
    }
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print(
        f"{JOBS} jobs in one slot: {statistics.median(times[1]):.1f} s one by one, "
        f"{statistics.median(times[4]):.1f} s four at a time; {content['ratio']:.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def measured(pool: Pool, folder: Path, name: str) -> float:
    """The seconds that eight jobs take."""
    # It has the slot until all of them wait.
    first = pool.submit(alike(folder, f"{name}-first", steps=100_000, sequence_length=32))
    while pool.job(first).state != "running":
        time.sleep(0.1)
    ids = [pool.submit(alike(folder, f"{name}-{number}", seed=number)) for number in range(JOBS)]
    pool.cancel(first)
    for job in pool.wait(*ids):
        if job.state != "succeeded":
            raise RuntimeError(f"job {job.id} is {job.state}: {job.error}")
    at = [(entry[4], entry[1]) for entry in pool.transitions() if entry[2] in ids]
    began = min(moment for state, moment in at if state == "running")
    return max(moment for state, moment in at if state == "succeeded") - began


def alike(folder: Path, name: str, steps: int = STEPS, sequence_length: int = 48, seed: int = 0) -> Task:
    """A task that may share a slot with others of its sequence length."""
    task = a_task(folder, name)
    train = {"steps": steps, "global_batch": 4, "sequence_length": sequence_length, "seed": seed}
    return task.model_copy(update={"train": task.train.model_copy(update=train)})


if __name__ == "__main__":
    main()
