"""A long run that something breaks about every hundred steps: does it finish, and does anything leak?

    python -m benchmarks.soak --json benchmarks/results/soak.json

The preset `tiny`, longer. Workers are killed, stopped and preempted, the command is killed and preempted,
Ray's server on the node is killed, each at random moments; whatever ended the command, it is started again,
as systemd or Kubernetes would. Memory and open files of a process are looked at step by step for as long as
it lives, and their trends over all processes are given with the 95 % interval of their mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from benchmarks.texts import benchmark_texts
from benchmarks.troubles import ALL, Processes, odeformer, run_through
from cluster.runs.events import FILE_NAME, events_from
from cluster.tracking import runs, store
from data.shards import build
from launcher.configuration.load import load_pretrain

GAP = (60, 140)
"""So many steps lie between two troubles."""
LOOK_SECONDS = 2.0
WARM_UP_STEPS = 20
"""Of a process's life, in which it grows into its working set."""
LEAST_SAMPLES = 8
ENDING_SECONDS = 300.0
"""How long Ray's agents of a killed node look for their head."""


class Sample(NamedTuple):
    """A process at a step."""

    step: int
    rss: int
    """Bytes."""
    files: int


class Watcher:
    """Looks at the command and its workers again and again."""

    def __init__(self) -> None:
        self.seen: dict[int, psutil.Process] = {}
        self.samples: dict[str, dict[int, list[Sample]]] = {
            "worker": defaultdict(list),
            "command": defaultdict(list),
        }
        self._looked = 0.0

    def __call__(self, processes: Processes, step: int) -> None:
        """Take a sample of each process, at most every so many seconds."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self.seen |= {process.pid: process for process in processes.below()}
        with suppress(psutil.NoSuchProcess):
            command = psutil.Process(processes.command.pid)
            self.seen[command.pid] = command
            self._take("command", command, step)
        for worker in processes.workers():
            self._take("worker", worker, step)

    def _take(self, kind: str, process: psutil.Process, step: int) -> None:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            sample = Sample(step, process.memory_info().rss, process.num_fds())
            self.samples[kind][process.pid].append(sample)

    def trend(self, kind: str, what: str) -> dict[str, float]:
        """The slope of ``rss`` or ``files`` for a thousand steps, over processes that lived long enough."""
        slopes = []
        for samples in self.samples[kind].values():
            settled = [s for s in samples if s.step >= samples[0].step + WARM_UP_STEPS]
            if len(settled) >= LEAST_SAMPLES and settled[-1].step > settled[0].step:
                steps = [s.step for s in settled]
                values = [float(getattr(s, what)) for s in settled]
                slopes.append(1000 * statistics.linear_regression(steps, values).slope)
        error = 1.96 * statistics.stdev(slopes) / len(slopes) ** 0.5 if len(slopes) > 1 else float("nan")
        mean = statistics.fmean(slopes) if slopes else float("nan")
        return {"mean": mean, "interval": error, "processes": len(slopes)}

    def left(self) -> list[str]:
        """What still runs of all that was ever seen, after a while."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=ENDING_SECONDS)
        names = []
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                names.append(f"{process.pid} {process.name()}")
        return names


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        result = soak(Path(temporary), arguments.steps, arguments.seed)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(lines(result)))


def soak(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """One run through all its troubles, and what is left of it."""
    chance = random.Random(seed)
    build(benchmark_texts(folder), folder / "shards", vocabulary_size=2048, sequence_length=256)
    settings = load_pretrain(
        "tiny",
        [
            f"data.shards={folder / 'shards'}",
            f"run.dir={folder / 'run'}",
            f"tracking.uri=sqlite:///{folder / 'mlflow.db'}",
            f"train.steps={steps}",
            "checkpoint.every=20",
            "cluster.stuck_after=30",
        ],
    )
    (folder / "config.json").write_text(settings.model_dump_json())
    troubles = [chance.choice(ALL) for _ in range(steps // (sum(GAP) // 2))]
    before, watcher, started = left_over(), Watcher(), time.monotonic()
    history = run_through(
        [odeformer(), "pretrain", "config.json"], folder, settings.run.dir, troubles, GAP, chance, watcher
    )
    seconds = time.monotonic() - started
    left = watcher.left()
    return {
        "steps": steps,
        "seconds": seconds,
        "troubles": [struck._asdict() for struck in history.troubles],
        "exit_codes": history.exit_codes,
        **of_run(settings.run.dir, steps),
        "left": {"processes": left, **{name: sorted(left_over()[name] - before[name]) for name in before}},
        "trends_per_1000_steps": {
            f"{kind}_{what}": watcher.trend(kind, what)
            for kind in watcher.samples
            for what in ("rss", "files")
        },
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }


def of_run(run: Path, steps: int) -> dict[str, Any]:
    """What MLflow and the event log have of a finished run."""
    events, _ = events_from(run / FILE_NAME, 0)
    client = store.connect(runs.run_uri(run))
    there = client.search_runs([e.experiment_id for e in client.search_experiments()])
    curve = client.get_metric_history(there[0].info.run_id, "loss")
    made = [event["step"] for event in events if event["event"] == "step"]
    return {
        "restarts": sum(event["event"] == "restarting" for event in events),
        "steps_made_again": len(made) - steps,
        "mlflow_runs": len(there),
        "mlflow_status": there[0].info.status,
        "one_value_per_step": sorted(metric.step for metric in curve) == list(range(1, steps + 1)),
    }


def left_over() -> dict[str, set[str]]:
    """This user's Ray folders and shared memory. Ports go with their processes, which are looked for."""
    user = os.getuid()
    return {
        "folders": {str(p) for p in Path("/tmp").glob("odf-*") if p.stat().st_uid == user},
        "shared_memory": {str(p) for p in Path("/dev/shm").glob("*") if p.stat().st_uid == user},
    }


def lines(result: dict[str, Any]) -> list[str]:
    """What a person wants to know of it."""
    counted: dict[str, int] = defaultdict(int)
    for struck in result["troubles"]:
        counted[struck["trouble"]] += 1
    trends = result["trends_per_1000_steps"]
    return [
        f"{result['steps']} steps in {result['seconds'] / 60:.0f} min, "
        f"{len(result['troubles'])} troubles: " + ", ".join(f"{n} × {name}" for name, n in counted.items()),
        f"commands started: {len(result['exit_codes'])}, worker groups started again: {result['restarts']}, "
        f"steps made again: {result['steps_made_again']}",
        f"MLflow: {result['mlflow_runs']} run, {result['mlflow_status']}, one value for each step: "
        f"{result['one_value_per_step']}",
        "left: " + ", ".join(f"{len(found)} {name}" for name, found in result["left"].items()),
        *(
            f"{kind}: {trends[f'{kind}_rss']['mean'] / 2**20:+.1f} ± "
            f"{trends[f'{kind}_rss']['interval'] / 2**20:.1f} MiB and "
            f"{trends[f'{kind}_files']['mean']:+.2f} ± {trends[f'{kind}_files']['interval']:.2f} open files "
            f"for each 1,000 steps ({trends[f'{kind}_rss']['processes']} processes)"
            for kind in ("worker", "command")
        ),
    ]


if __name__ == "__main__":
    main()
