"""Everything at once: a pretraining run and a pool of five teams on one machine, with all faults.

    python -m benchmarks.cluster.chaos --minutes 30 --json benchmarks/results/chaos.json

At random moments workers, commands, jobs, the pool's actor, the processes of Ray's head and MLflow's server
are killed, or stopped and later continued; the disks of the run and of the pool (a tmpfs each, which needs
root) are filled and freed; the network to the MLflow store refuses or swallows everything. The run's command,
the head with the command that starts its pool, and MLflow's server are started again when they end, as by
systemd or Kubernetes, and a job is submitted until the pool knows it. Then all faults end, and it is checked
that the run's weights are bit for bit those of a run that nothing disturbed, that each job was done once,
that MLflow has one value for each step, and that nothing is left behind.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks import bench
from benchmarks.cluster import pool as small_pool
from benchmarks.cluster.faults import odeformer
from benchmarks.cluster.soak import ENDING_SECONDS, left_over
from benchmarks.cluster.supervised import PAUSE, Chaos
from benchmarks.texts import benchmark_texts
from cluster import registry
from cluster.connection.sessions import remove_left_over
from cluster.runs.events import Event, logged
from cluster.tracking import runs, store
from data.shards import build
from launcher.configuration.load import load_pretrain

TEAMS, JOBS = {"a": 1.0, "b": 1.0, "c": 1.0, "d": 2.0, "e": 3.0}, 8
"""The teams with their weights, and the jobs of each."""
STEPS_PER_MINUTE = 60
GAP = (5.0, 35.0)
"""The least and the most seconds between two faults."""
DISK = 192 * 2**20


def main() -> None:
    """Run, print and write the result."""
    parser = bench.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long faults happen")
    parser.add_argument("--seed", type=int, default=0, help="seed of the faults")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        # Short: paths of Ray's sockets may have 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp")))
        disks = [stack.enter_context(disk(folder / name)) for name in ("run-disk", "pool-disk")]
        run, pool = disks[0] / "run", disks[1] / "pool"
        chaos = Chaos(folder, run, pool, random.Random(arguments.seed))
        steps = round(STEPS_PER_MINUTE * arguments.minutes)
        prepare(chaos, steps)
        before = left_over()["shared_memory"]
        try:
            result = passed(chaos, arguments.minutes, steps, before)
        finally:
            for process in chaos.ours():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    bench.save(arguments.json, result)
    bench.print_row(result)


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, small enough to be filled."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def prepare(chaos: Chaos, steps: int) -> None:
    """Build shards, make the undisturbed run, register the base, and write all settings."""
    folder = chaos.folder
    texts = folder / "texts"
    texts.mkdir()
    build(benchmark_texts(texts), folder / "shards", vocabulary_size=2048, sequence_length=64)
    small = ("model.width=64", "model.depth=4", "train.depths=[2, 4]", "data.sequence_length=64")
    often = (f"train.steps={steps}", "checkpoint.every=10", "cluster.stuck_after=60")
    where = (f"data.shards={folder}/shards", f"tracking.uri={chaos.uri}", f"run.dir={chaos.run_folder}")
    settings = load_pretrain("tiny", [*small, *often, *where])
    (folder / "config.json").write_text(settings.model_dump_json(), encoding="utf-8")
    alone = ["--set", f"run.dir={folder}/alone", "--set", f"tracking.uri=sqlite:///{folder}/alone.db"]
    subprocess.run([*chaos.run.command, *alone], cwd=folder, check=True)
    while not answers(chaos):
        chaos.mlflow.look()
        time.sleep(PAUSE)
    small_pool.prepare(folder, chaos.server_uri, width=64)
    pool = {"dir": str(chaos.pool_folder), "tracking_uri": chaos.uri, "max_failures": 20}
    teams = {team: {"weight": weight} for team, weight in TEAMS.items()}
    (folder / "pool.json").write_text(json.dumps({**pool, "teams": teams}), encoding="utf-8")
    (folder / "tasks").mkdir()
    for number in range(JOBS):
        for team in TEAMS:
            task = small_pool.a_task(folder, f"t{number}").model_copy(update={"team": team})
            file = folder / "tasks" / f"{team}-t{number}.json"
            file.write_text(task.model_dump_json(exclude_unset=True), encoding="utf-8")


def answers(chaos: Chaos) -> bool:
    """Whether the server itself answers."""
    with suppress(OSError):
        return bool(urllib.request.urlopen(f"{chaos.server_uri}/health", timeout=5).read())
    return False


def passed(chaos: Chaos, minutes: float, steps: int, before: set[str]) -> bench.Row:
    """Let it all happen, then end, and return what happened and what was found."""
    started = time.monotonic()
    next_fault = started + GAP[1]
    while time.monotonic() < started + 60 * minutes:
        chaos.look()
        if time.monotonic() >= next_fault:
            chaos.strike()
            next_fault = time.monotonic() + chaos.chance.uniform(*GAP)
        time.sleep(0.1)
    chaos.undo = {name: (0.0, undo) for name, (_, undo) in chaos.undo.items()}
    done_at = None
    calm = time.monotonic()
    while time.monotonic() < calm + max(900, 60 * minutes):
        chaos.look()
        ended = set(chaos.states().values()) <= {"succeeded", "failed", "cancelled"}
        if chaos.run.is_done and chaos.submit.is_done and ended:
            done_at = done_at or time.monotonic()
            if time.monotonic() > done_at + 30:  # what the pool still has to tell MLflow
                break
        time.sleep(0.5)
    else:
        chaos.find(f"not done in {time.monotonic() - calm:.0f} s without faults: {chaos.states()}")
    seconds = time.monotonic() - started
    checks = checked(chaos, steps)
    return {
        "minutes": minutes,
        "seconds": seconds,
        "faults": dict(sorted(chaos.struck.items())),
        "starts": {
            p.name: len(p.exits) + (p.process is not None) for p in (chaos.run, chaos.head, chaos.mlflow)
        },
        "exit_codes": dict(Counter(map(str, chaos.run.exits))),
        "checks": checks,
        "left": end(chaos, before),
        "findings": dict(chaos.findings),
        **bench.stamp("torch", "ray", "mlflow"),
    }


def checked(chaos: Chaos, steps: int) -> dict[str, Any]:
    """What must be true at the end, while MLflow's server still runs."""
    weights = [
        hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
        for file in (run / "final/model.safetensors" for run in (chaos.run_folder, chaos.folder / "alone"))
    ]
    wanted = sorted(f"{team}-t{number}" for team in TEAMS for number in range(JOBS))
    states = chaos.states()
    made = registry.versions(chaos.server_uri)
    adapters = sorted(f"{v.tags['odeformer.team']}-{v.tags['odeformer.task']}" for v in made if v.base)
    folders = [chaos.run_folder, *(path.parent for path in chaos.pool_folder.glob("*/*/mlflow.json"))]
    wrong = [str(folder) for folder in folders if not has_one_value_per_step(folder, chaos.server_uri)]
    return {
        "weights_bit_identical": weights[0] is not None and weights[0] == weights[1],
        "jobs_succeeded": sum(state == "succeeded" for state in states.values()),
        "each_job_once": sorted(states) == wanted and set(states.values()) == {"succeeded"},
        "one_version_per_job": adapters == wanted,
        "runs_of_the_run": sum(v.kind == "checkpoint" and v.name != "base" for v in made),
        "without_one_value_per_step": wrong,
    }


def has_one_value_per_step(folder: Path, uri: str) -> bool:
    """Whether MLflow has one loss for each step of a run or job, in whatever attempt it was made."""
    run_id = runs.known_run(folder)
    if run_id is None:
        return False
    steps = {event["step"] for event in logged(folder, Event.STEP)}
    curve = store.connect(uri).get_metric_history(run_id, "loss")
    return sorted(metric.step for metric in curve) == sorted(steps) == list(range(1, max(steps) + 1))


def end(chaos: Chaos, before: set[str]) -> dict[str, Any]:
    """Stop the pool, its head and MLflow, and return what is left behind."""
    stop = [odeformer(), "pool", "stop"]
    began = time.monotonic()
    subprocess.run(stop, env=chaos.environment, cwd=chaos.folder, timeout=ENDING_SECONDS, check=False)
    print(f"pool stop took {time.monotonic() - began:.0f} s", flush=True)
    for program in (chaos.head, chaos.mlflow, chaos.run, chaos.pool):
        for process in program.family()[:1]:
            process.terminate()
    _, alive = psutil.wait_procs(chaos.ours(), timeout=ENDING_SECONDS)
    remove_left_over()  # as the next start does: a command that is killed leaves its folder
    names = [f"{process.pid} {process.name()}" for process in alive if process.is_running()]
    secret = [chaos.secret.encode(), chaos.environment["RAY_AUTH_TOKEN"].encode()]
    return {
        "processes": names,
        "folders": sorted(session for session in chaos.sessions if Path(session).exists()),
        "shared_memory": sorted(left_over()["shared_memory"] - before),
        "temporary": sorted(map(str, temporary(chaos.folder))),
        "files_with_secrets": sorted({str(file) for file in files(chaos.folder) if has(file, secret)}),
    }


def files(folder: Path) -> Iterable[Path]:
    """All plain files below a folder."""
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def temporary(folder: Path) -> Iterator[Path]:
    """What looks like a file or folder that was being written."""
    for name in ("*-disk/**/*.tmp*", "*-disk/**/*.incomplete", "*-disk/**/.*"):
        # Locks stay, and Ray's mark that its folder can be written.
        kept = (".lock", ".validate_storage_marker")
        yield from (path for path in folder.glob(name) if not path.name.endswith(kept))


def has(file: Path, secret: list[bytes]) -> bool:
    """Whether one of the secrets is in a file."""
    with suppress(OSError):
        content = file.read_bytes()
        return any(word in content for word in secret)
    return False


if __name__ == "__main__":
    main()
