"""``odeformer pretrain`` with workers that record their samples and stop at each step.

:func:`command` is the program; the workers' records are in ``run.dir``.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from small_runs import held_worker

from cluster import pretrain
from cluster.training import worker


def work(config: dict[str, Any]) -> None:
    """What a worker does."""
    run = Path(config["settings"]["run"]["dir"])
    rate, optimizer_step, at = worker.learning_rate, worker.optimizer_step, [0]

    def note_and_rate(optim: Any, step: int, steps: int) -> float:
        at[0] = step + 1
        return rate(optim, step, steps)

    def step_and_note(engine: Any, batch: Any, *arguments: Any) -> Any:
        result = optimizer_step(engine, batch, *arguments)
        with (run / f"samples-{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps([at[0], batch.sample_ids.tolist()]) + "\n")
        return result

    worker.learning_rate, worker.optimizer_step = note_and_rate, step_and_note
    held_worker(config)


def samples(run: Path) -> dict[int, list[int]]:
    """The samples of each step, over all workers."""
    found: dict[int, set[int]] = defaultdict(set)
    for file in run.glob("samples-*.jsonl"):
        for line in file.read_text().splitlines():
            step, ids = json.loads(line)
            found[step] |= set(ids)
    return {step: sorted(found[step]) for step in sorted(found)}


def command() -> None:
    """``odeformer`` with these workers."""
    from launcher.cli.main import main

    pretrain.pretrain_worker = work
    main()
