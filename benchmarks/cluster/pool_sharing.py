"""Eight similar jobs in a pool of one slot: one after the other, and four at a time.

    python -m benchmarks.cluster.pool_sharing --json benchmarks/results/pool_sharing.json

A local cluster has one slot; the base is untrained, of width 128 and D = 4; the tasks are one team's, 60
steps of 4 × 48 tokens each, with adapters of rank 8. All eight are queued before the first starts. Both ways
take turns; wall time is from the first job's start to the last one's end, by the journal.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import bench
from benchmarks.cluster.pool import a_task, one_slot
from cluster.pool import Pool, PoolSettings
from cluster.tasks.task import Task

JOBS, STEPS, ROUNDS = 8, 60, 3
WAYS = (1, 4)
"""The numbers of jobs in a slot."""


def main() -> None:
    """Run all rounds, print and write their times."""
    arguments = bench.parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary, one_slot(Path(temporary), width=128) as pool:
        folder = Path(temporary)
        for number in range(ROUNDS):
            for way in WAYS:
                uri = f"sqlite:///{folder}/mlflow.db"
                Pool.start(PoolSettings(dir=folder / "pool", tracking_uri=uri, jobs_per_slot=way))
                seconds = measured(pool, folder, f"round{number}-{way}")
                rows.append({"jobs_per_slot": way, "seconds": seconds, "load": os.getloadavg()[0]})
                bench.print_row(rows[-1])
    alone, shared = ([row["seconds"] for row in bench.select(rows, jobs_per_slot=way)] for way in WAYS)
    ratios = [one / four for one, four in zip(alone, shared, strict=True)]
    content = {**bench.stamp(), "rows": rows, "ratio": statistics.median(ratios)}
    bench.save(arguments.json, content)
    print(
        f"{JOBS} jobs in one slot: {statistics.median(alone):.1f} s one by one, "
        f"{statistics.median(shared):.1f} s four at a time; {content['ratio']:.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def measured(pool: Pool, folder: Path, name: str) -> float:
    """The seconds that eight jobs take."""
    # A long job occupies the slot until all others are queued.
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
    """A task that can share a slot with others of its sequence length."""
    task = a_task(folder, name)
    train = {"steps": steps, "global_batch": 4, "sequence_length": sequence_length, "seed": seed}
    return task.model_copy(update={"train": task.train.model_copy(update=train)})


if __name__ == "__main__":
    main()
