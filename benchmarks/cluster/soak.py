"""A long run with a fault about every hundred steps: does it finish, and does anything leak?

    python -m benchmarks.cluster.soak --json benchmarks/results/soak.json

The run is a longer one of the preset `tiny`. Workers are killed, suspended and preempted, the command is
killed and preempted, and Ray's server on the node is killed, each at a random moment; the command is started
again when it exits, as by systemd or Kubernetes. Memory and open files of each process are sampled as long as
it lives; their trends over all processes are given with the 95 % interval of their mean.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from benchmarks import bench
from benchmarks.cluster.faults import FAULTS, Program, odeformer, run_through
from benchmarks.texts import benchmark_texts
from cluster.runs.events import Event, logged
from cluster.tracking import runs, store
from data.shards import build
from launcher.configuration.load import load_pretrain

GAP = (60, 140)
"""The least and the most steps between two faults."""
LOOK_SECONDS = 2.0
WARM_UP_STEPS = 20
"""The first steps of a process, in which its memory grows to its working set."""
LEAST_SAMPLES = 8
ENDING_SECONDS = 300.0
"""The time that Ray's agents of a killed node search for their head."""


class Sample(NamedTuple):
    """Memory and open files of a process at a step."""

    step: int
    rss: int
    """Resident memory in bytes."""
    files: int


class Watcher:
    """Samples the command and its workers during the run."""

    def __init__(self) -> None:
        self.seen: dict[int, psutil.Process] = {}
        self.samples: dict[str, dict[int, list[Sample]]] = {
            "worker": defaultdict(list),
            "command": defaultdict(list),
        }
        self._looked = 0.0

    def __call__(self, program: Program, step: int) -> None:
        """Sample each process, at most once in ``LOOK_SECONDS``."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        family = program.family()
        self.seen |= {process.pid: process for process in family}
        for command in family[:1]:
            self._take("command", command, step)
        for worker in program.workers():
            self._take("worker", worker, step)

    def _take(self, kind: str, process: psutil.Process, step: int) -> None:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            sample = Sample(step, process.memory_info().rss, process.num_fds())
            self.samples[kind][process.pid].append(sample)

    def trend(self, kind: str, what: str) -> dict[str, float]:
        """The slope of ``rss`` or ``files`` per thousand steps, over processes that lived long enough."""
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
        """The processes ever seen that still run after ``ENDING_SECONDS``."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=ENDING_SECONDS)
        names = []
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                names.append(f"{process.pid} {process.name()}")
        return names


def main() -> None:
    """Run, print and write the result."""
    parser = bench.parser(__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        result = soak(Path(temporary), arguments.steps, arguments.seed)
    bench.save(arguments.json, result)
    bench.print_row({key: value for key, value in result.items() if key != "troubles"})


def soak(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Run through all faults and return what happened and what is left over."""
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
    (folder / "config.json").write_text(settings.model_dump_json(), encoding="utf-8")
    faults = [chance.choice(list(FAULTS)) for _ in range(steps // (sum(GAP) // 2))]
    before, watcher, started = left_over(), Watcher(), time.monotonic()
    command = Program("command", [odeformer(), "pretrain", "config.json"], folder, settings.run.dir)
    struck = run_through(command, faults, GAP, chance, watcher)
    seconds = time.monotonic() - started
    left = watcher.left()
    return {
        "steps": steps,
        "seconds": seconds,
        "troubles": [fault._asdict() for fault in struck],
        "exit_codes": command.exits,
        **of_run(settings.run.dir, steps),
        "left": {"processes": left, **{name: sorted(left_over()[name] - before[name]) for name in before}},
        "trends_per_1000_steps": {
            f"{kind}_{what}": watcher.trend(kind, what)
            for kind in watcher.samples
            for what in ("rss", "files")
        },
        **bench.stamp("torch"),
    }


def of_run(run: Path, steps: int) -> dict[str, Any]:
    """Counts from MLflow and the event log of a finished run."""
    client = store.connect(runs.run_uri(run))
    tracked = client.search_runs([e.experiment_id for e in client.search_experiments()])
    curve = client.get_metric_history(tracked[0].info.run_id, "loss")
    return {
        "restarts": len(list(logged(run, Event.RESTARTING))),
        "steps_made_again": len(list(logged(run, Event.STEP))) - steps,
        "mlflow_runs": len(tracked),
        "mlflow_status": tracked[0].info.status,
        "one_value_per_step": sorted(metric.step for metric in curve) == list(range(1, steps + 1)),
    }


def left_over() -> dict[str, set[str]]:
    """This user's Ray folders, and shared memory that no living process has mapped."""
    user, mapped = os.getuid(), set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mapped |= {region.path for region in process.memory_maps()}
    shared = {str(path) for path in Path("/dev/shm").glob("*") if path.stat().st_uid == user}
    return {
        "folders": {str(p) for p in Path("/tmp").glob("odf-*") if p.stat().st_uid == user},
        "shared_memory": shared - mapped,
    }


if __name__ == "__main__":
    main()
